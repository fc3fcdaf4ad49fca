"""Enqueueing: in the caller's transaction, with arguments that arrive as they were."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

import procman
from procman import jobs, signaling
from tests.support import jobs as functions


def test_outside_of_units_it_is_there_at_once(truth):
    uuid = functions.note.delay("a")
    row = truth.job(uuid)
    assert (row["state"], row["channel"], row["priority"], row["max_retries"]) == ("pending", "root", 10, 5)
    assert (row["function"], row["args"], row["kwargs"]) == ("tests.support.jobs:note", ["a"], {})
    assert (row["retry"], row["eta"], row["date_started"]) == (0, None, None)


def test_in_a_unit_it_comes_with_the_commit(truth, database):
    with signaling.unit(database):
        functions.note.delay("a")
        functions.note.delay("b")
        assert jobs.counts()["pending"] == 2
        assert truth.states() == {}
    assert truth.states() == {"pending": 2}


def test_and_goes_with_the_rollback(truth, database):
    unit = signaling.begin(database)
    functions.note.delay("a")
    unit.rollback()
    assert truth.states() == {}


def test_the_settings_of_the_decorator_and_those_of_the_call(truth):
    row = truth.job(functions.configured.delay(value="x"))
    assert (row["channel"], row["priority"], row["max_retries"]) == ("root.mail", 5, 2)
    assert (row["retry_pattern"], row["kwargs"]) == ({"1": 30, "2": [50, 60]}, {"value": "x"})
    row = truth.job(functions.configured.options(channel="other", priority=1, retries=0).delay("x"))
    assert (row["channel"], row["priority"], row["max_retries"]) == ("root.other", 1, 0)


@pytest.mark.parametrize(
    "eta", [lambda: 3600, lambda: 3600.0, lambda: timedelta(hours=1), lambda: datetime.now(UTC) + timedelta(hours=1)]
)
def test_eta(truth, eta):
    row = truth.job(functions.note.options(eta=eta()).delay())
    assert abs((row["eta"] - row["date_created"]).total_seconds() - 3600) < 60


def test_at_a_time(truth):
    at = datetime(2030, 1, 2, 3, 4, tzinfo=ZoneInfo("Europe/Brussels"))
    assert truth.job(functions.note.at(at).delay())["eta"] == at
    assert truth.job(functions.note.options(channel="mail").at(at).delay())["channel"] == "root.mail"


def test_what_is_said_of_a_job_is_in_its_row(truth):
    row = truth.job(functions.described.delay("a", size=3))
    assert (row["description"], row["timeout"], row["batch"]) == ("a of 3", 90.0, 20)
    row = truth.job(functions.described.options(description="{so}", timeout=1.5, batch=2).delay("a"))
    assert (row["description"], row["timeout"], row["batch"]) == ("{so}", 1.5, 2)
    row = truth.job(functions.note.delay())
    assert (row["description"], row["timeout"], row["batch"], row["graph"]) == (None, None, None, None)


def test_called_directly_it_is_a_function(truth, database):
    assert functions.note("direct") == "noted direct"
    assert functions.note.__name__ == "note"
    assert truth.effects() == ["direct"]
    assert truth.states() == {}


def test_many_in_few_statements(truth, database):
    with signaling.unit(database) as unit:
        uuids = functions.note.delay_many((str(number),) for number in range(2500))
        assert unit.queries == 3
    rows = truth("SELECT uuid::text, args FROM procman.job ORDER BY id")
    assert [row["uuid"] for row in rows] == uuids
    assert [row["args"] for row in rows] == [[str(number)] for number in range(2500)]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ({1: 2}, TypeError, "the key 1 is not a str"),
        (
            1j,
            TypeError,
            "builtins.complex can't be kept with a job; it takes None, bool, int, float, str, bytes, Decimal",
        ),
        ([{"a": ({"x"},)}], TypeError, "builtins.set can't be kept with a job"),
        (time(12, tzinfo=ZoneInfo("Europe/Brussels")), ValueError, "a time of day in Europe/Brussels has no offset"),
        (float("nan"), ValueError, "nan can't be stored"),
        ("a\0b", ValueError, "a text with NUL"),
        ({"\ud800": 1}, ValueError, "half a surrogate pair"),
    ],
)
def test_arguments_that_can_not_be_passed_on(truth, value, error, message):
    with pytest.raises(error, match=message) as raised:
        functions.give_back.delay(value)
    assert "give_back(): argument 'value'" in str(raised.value)
    with pytest.raises(error):
        functions.give_back.delay_many([(1,), (value,)])
    assert truth.states() == {}


def test_a_call_that_would_fail_is_refused_when_it_is_asked_for(jobs_url):
    with pytest.raises(TypeError, match=r"^note\(\): too many positional"):
        functions.note.delay("a", "b")
    with pytest.raises(TypeError, match="unexpected keyword"):
        functions.note.delay(size=1)


def test_options_that_can_not_be_meant():
    with pytest.raises(ValueError, match="time zone"):
        functions.note.options(eta=datetime(2026, 1, 1))
    with pytest.raises(TypeError, match="eta"):
        functions.note.options(eta="tomorrow")
    with pytest.raises(ValueError, match="channel"):
        functions.note.options(channel="a,b")
    with pytest.raises(ValueError, match="priority"):
        functions.note.options(priority="high")
    with pytest.raises(ValueError, match="retry_pattern"):
        procman.job(retry_pattern={0: 1})
    with pytest.raises(ValueError, match="identity_key"):
        functions.note.options(identity_key="")
    with pytest.raises(ValueError, match="timeout: expected seconds, or a timedelta, greater than 0, got 0"):
        functions.note.options(timeout=0)
    with pytest.raises(ValueError, match="batch: expected a whole number, got 0"):
        functions.note.options(batch=0)
    with pytest.raises(ValueError, match="description: expected a text"):
        procman.job(description=5)
    with pytest.raises(TypeError, match="chanel: no option of a job; there are after, batch, channel, "):
        procman.job(chanel="root")
    with pytest.raises(TypeError, match="importable"):
        procman.job(lambda: None)
    with pytest.raises(TypeError, match=r'takes a function or keywords, @procman.job\(channel="…"\), got .root.mail.'):
        procman.job("root.mail")


# -- identity keys -----------------------------------------------------------------------------------------


def test_one_job_of_a_key_waits(truth, database):
    first = functions.note.options(identity_key="k").delay("a")
    assert functions.note.options(identity_key="k").delay("b") == first
    assert functions.note.options(identity_key="other").delay("c") != first
    truth("UPDATE procman.job SET state = 'started' WHERE uuid = %s", first)
    assert functions.note.options(identity_key="k").delay("d") != first
    assert truth.states() == {"pending": 2, "started": 1}


def test_of_one_transaction(truth, database):
    with signaling.unit(database):
        first = functions.note.options(identity_key="k").delay("a")
        assert functions.note.options(identity_key="k").delay("b") == first
        functions.note.delay("c")
    assert truth.states() == {"pending": 2}


def test_one_that_was_committed_after_the_snapshot(truth, database):
    with signaling.unit(database):
        assert jobs.counts()["pending"] == 0  # the snapshot is taken
        other = []
        thread = threading.Thread(target=lambda: other.append(functions.note.options(identity_key="k").delay("a")))
        thread.start()
        thread.join()
        assert functions.note.options(identity_key="k").delay("b") == other[0]
        functions.note.delay("c")
    assert truth.states() == {"pending": 2}


def test_one_that_began_after_the_snapshot_does_not_stand_in(truth, database):
    first = functions.note.options(identity_key="k").delay("a")
    with signaling.unit(database):
        assert jobs.counts()["pending"] == 1
        truth("UPDATE procman.job SET state = 'started' WHERE uuid = %s", first)
        assert functions.note.options(identity_key="k").delay("b") != first
    assert truth.states() == {"pending": 1, "started": 1}


def test_many_at_once_make_one(truth, database):
    ready = threading.Barrier(6)
    made, errors = [], []

    def ask(number):
        try:
            for turn in range(10):
                ready.wait(30)
                with signaling.unit(database):
                    jobs.counts()
                    made.append((turn, functions.note.options(identity_key=f"k{turn}").delay(str(number))))
        except Exception as error:
            errors.append(error)
            ready.abort()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(set(made)) == 10
    assert truth.states() == {"pending": 10}


# -- keys made of the arguments ----------------------------------------------------------------------------


def test_a_key_filled_in_with_the_arguments(truth):
    first = functions.once_per_value.delay("a")
    assert functions.once_per_value.delay(value="a", size=5) == first
    assert functions.once_per_value.delay("b") != first
    # A function that has the same text for a key is another function.
    assert functions.once_per_value_too.delay("a") != first
    assert truth.job(first)["identity_key"] == "tests.support.jobs:once_per_value value a"


def test_a_key_that_the_function_of_the_arguments_does_not_want(truth):
    assert functions.once_per_value_too.delay("free") != functions.once_per_value_too.delay("free")
    with pytest.raises(TypeError, match=r"once_per_value_too\(\): identity_key: expected a text or None, got 7"):
        functions.once_per_value_too.delay("seven")


def test_the_exact_arguments(truth):
    first = functions.note.options(identity_key=jobs.exact).delay("a")
    assert functions.note.options(identity_key=jobs.exact).delay("a") == first
    assert functions.note.options(identity_key=jobs.exact).delay("b") != first
    assert functions.fail.options(identity_key=jobs.exact).delay("a") != first


def test_many_with_keys_of_their_own(truth, database):
    uuids = functions.once_per_value.delay_many([("a",), ("b",), ("a",)])
    assert uuids[0] == uuids[2] != uuids[1]
    with pytest.raises(ValueError, match="several jobs can't have one identity_key"):
        functions.note.options(identity_key="k").delay_many([("a",)])


def test_a_template_that_does_not_fit(truth):
    with pytest.raises(ValueError, match=r"misdescribed\(\): description: '\{nobody\}' can't be filled in"):
        functions.misdescribed.delay()
    assert truth.states() == {}
