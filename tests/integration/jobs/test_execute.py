"""One job, run in this process: its states, and that its work and its `done` are one."""

from __future__ import annotations

import logging
import re
import threading
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest

from procman import jobs, signaling
from procman.errors import DatabaseUnavailable
from procman.jobs import execute
from procman.jobs.execute import Outcome
from tests.support import jobs as functions


@pytest.fixture
def run(database, truth):
    """Offer the job to this process, as the runner does, and run it."""

    def run(uuid, **options):
        truth("UPDATE procman.job SET state = 'enqueued', date_enqueued = now() WHERE uuid = %s", uuid)
        return execute.run(database, uuid, worker="http.1", **options)

    return run


def test_done(run, truth):
    uuid = functions.note.delay("a")
    assert run(uuid) == Outcome(200, failed=False)
    row = truth.job(uuid)
    assert (row["state"], row["result"], row["retry"], row["worker"]) == ("done", "noted a", 1, "http.1")
    assert row["worker_pid"] > 0
    assert row["date_enqueued"] <= row["date_started"] <= row["date_done"]
    assert 0 <= row["exec_time"] < 30
    assert truth.effects() == ["a"]


@pytest.mark.parametrize(
    "value",
    [
        *(None, 0, "", "ü\U0001f600", [1, [2.5, None]], {"a": {"b": True}}),
        *(1e300, 1.0, 2**80, Decimal("1.50"), b"\0\xff", {"_type": "x"}),
        *(date(2026, 1, 2), datetime(2026, 1, 2, 3, tzinfo=UTC), timedelta(days=-1, microseconds=1)),
        [
            UUID("9f2c5f6e-6a5f-4f0e-9d5e-0c3f3a1b2c3d"),
            datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Brussels")),
        ],
    ],
)
def test_values_arrive_as_they_were_sent(run, value):
    uuid = functions.give_back.delay(value)
    run(uuid)
    result = jobs.get(uuid).result
    assert (result, type(result)) == (value, type(value))
    assert jobs.get(uuid).args == [value]


def test_the_result_of_what_has_none(run):
    uuid = functions.fail.delay("a")
    with pytest.raises(jobs.NotDone, match=r"is pending$"):
        _ = jobs.get(uuid).result
    run(uuid)
    with pytest.raises(jobs.NotDone, match=r"is failed: builtins\.ValueError: no"):
        _ = jobs.get(uuid).result
    with pytest.raises(LookupError, match="there is no job"):
        jobs.get(str(uuid4()))


def test_a_result_that_is_no_json_is_kept_as_text(run, truth):
    uuid = functions.give_back_bytes.delay()
    run(uuid)
    row = truth.job(uuid)
    assert (row["state"], row["result"]) == ("done", "{b'x': 1}")


def test_its_traceback_begins_with_the_function(run, truth):
    uuid = functions.fail.delay("a")
    run(uuid)
    head, first, *_ = truth.job(uuid)["exc_info"].splitlines()
    assert head.startswith("Traceback")
    assert first.endswith("in fail")
    uuid = functions.again.options(retries=1).delay()
    run(uuid)
    info = truth.job(uuid)["exc_info"]
    assert "jobs/execute.py" not in info
    assert "The above exception was the direct cause" in info
    assert info.count("Traceback") == 1


def test_failed(run, truth, caplog):
    uuid = functions.fail.delay("a")
    assert run(uuid) == Outcome(500, failed=True)
    row = truth.job(uuid)
    assert (row["state"], row["exc_name"], row["exc_message"]) == ("failed", "builtins.ValueError", "no \\0 a")
    assert "in fail\n" in row["exc_info"]
    assert row["exc_info"].startswith("Traceback")
    assert truth.effects() == []
    assert any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("state", ["pending", "started", "done", "failed", "cancelled", "wait_dependencies"])
def test_only_what_is_enqueued_runs(database, truth, state):
    uuid = functions.note.delay("a")
    truth("UPDATE procman.job SET state = %s WHERE uuid = %s", state, uuid)
    assert execute.run(database, uuid) == Outcome(200, failed=False)
    assert truth.job(uuid)["state"] == state
    assert truth.effects() == []


def test_what_is_no_job(database):
    assert execute.run(database, "no uuid") == Outcome(400, failed=False)
    assert execute.run(database, str(uuid4())) == Outcome(200, failed=False)
    assert execute.run("elsewhere", str(uuid4())) == Outcome(404, failed=False)


@pytest.mark.parametrize("name", ["tests.support.jobs:no_job", "os:getcwd", "tests.support.jobs:missing", "no.such:x"])
def test_nothing_but_jobs_can_be_called(run, truth, name):
    uuid = functions.note.options(retries=2).delay("a")
    truth("UPDATE procman.job SET function = %s WHERE uuid = %s", name, uuid)
    assert not run(uuid).failed
    row = truth.job(uuid)
    assert (row["state"], row["exc_name"]) == ("pending", "procman.jobs.execute.OfAnotherRelease")
    assert run(uuid).failed
    assert re.search(f"{name} can't be called: ", truth.job(uuid)["exc_message"])
    assert truth.effects() == []


def test_a_job_of_a_newer_release_waits_for_a_worker_that_knows_it(run, truth):
    """As while a pool is reloaded: the worker that is asked has other code than the one that enqueued."""
    uuid = functions.note.delay("a")
    truth("UPDATE procman.job SET kwargs = '{\"colour\": 1}' WHERE uuid = %s", uuid)
    run(uuid)
    row = truth.job(uuid)
    assert (row["state"], row["retry"]) == ("pending", 1)
    assert row["exc_message"] == "tests.support.jobs:note can't be called: got an unexpected keyword argument 'colour'"
    truth("UPDATE procman.job SET kwargs = '{}' WHERE uuid = %s", uuid)
    run(uuid)
    assert truth.job(uuid)["state"] == "done"


def test_two_requests_for_one_job_run_it_once(database, truth, run):
    uuid = functions.note.delay("a")
    truth("UPDATE procman.job SET state = 'enqueued' WHERE uuid = %s", uuid)
    threads = [threading.Thread(target=execute.run, args=(database, uuid)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert truth.job(uuid)["retry"] == 1
    assert truth.effects() == ["a"]


# -- another try -------------------------------------------------------------------------------------------


def test_another_try(run, truth):
    uuid = functions.again.delay()
    assert run(uuid) == Outcome(200, failed=False)
    row = truth.job(uuid)
    assert (row["state"], row["retry"], row["worker"]) == ("pending", 1, None)
    assert (row["exc_name"], row["exc_message"]) == ("procman.jobs.retry.RetryJob", "not yet")
    (wait,) = truth("SELECT extract(epoch FROM eta - clock_timestamp())::float AS s FROM procman.job")
    assert 590 < wait["s"] <= 600
    assert truth.effects() == []


def test_no_more_tries(run, truth):
    uuid = functions.again.delay(seconds=0)
    run(uuid)
    assert run(uuid) == Outcome(500, failed=True)
    row = truth.job(uuid)
    assert (row["state"], row["retry"]) == ("failed", 2)
    assert row["exc_name"] == "procman.jobs.retry.FailedJobError"
    assert row["exc_message"] == "Max. retries (2) reached: not yet"
    assert "RetryJob: not yet" in row["exc_info"]


def test_a_try_that_does_not_count(run, truth):
    uuid = functions.again.delay(seconds=0, ignore_retry=True)
    for _ in range(4):
        run(uuid)
        assert (truth.job(uuid)["state"], truth.job(uuid)["retry"]) == ("pending", 0)


def test_as_often_as_it_takes(run, truth):
    uuid = functions.again.options(retries=0).delay(seconds=0)
    for tries in range(1, 9):
        run(uuid)
        assert (truth.job(uuid)["state"], truth.job(uuid)["retry"]) == ("pending", tries)


def test_back_to_the_queue_while_an_equal_job_waits(run, truth):
    uuid = functions.again.options(identity_key="k").delay()
    truth("UPDATE procman.job SET state = 'enqueued'")
    # An equal one can be made as soon as this one has started.
    truth("UPDATE procman.job SET state = 'started'")
    functions.again.options(identity_key="k").delay()
    truth("UPDATE procman.job SET identity_key = NULL, state = 'enqueued' WHERE uuid = %s", uuid)
    truth(
        "CREATE FUNCTION give_key() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN NEW.identity_key = ''k''; RETURN NEW; END';"
        "CREATE TRIGGER give_key BEFORE UPDATE ON procman.job FOR EACH ROW WHEN (NEW.state = 'started') "
        "EXECUTE FUNCTION give_key()"
    )
    run(uuid)
    assert truth.job(uuid)["state"] == "cancelled"
    assert truth.states() == {"cancelled": 1, "pending": 1}


# -- transactions ------------------------------------------------------------------------------------------


def test_serialization_failures_are_tried_again_at_once(database, truth):
    uuids = functions.count.delay_many([()] * 24)
    truth("UPDATE procman.job SET state = 'enqueued'")

    def work(mine):
        for uuid in mine:
            execute.run(database, uuid)

    threads = [threading.Thread(target=work, args=(uuids[number::3],)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = truth.states().get("done", 0)
    (row,) = truth("SELECT value FROM counter")
    assert row["value"] == done
    assert done >= 20
    assert set(truth.states()) <= {"done", "pending"}
    assert truth("SELECT count(*) AS n FROM procman.job WHERE state = 'done' AND retry <> 1")[0]["n"] == 0


def test_the_work_and_its_done_are_one(run, truth):
    truth(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''full''; END';"
        "CREATE TRIGGER refuse BEFORE UPDATE ON procman.job FOR EACH ROW WHEN (NEW.state = 'done') "
        "EXECUTE FUNCTION refuse()"
    )
    uuid = functions.note.delay("a")
    assert run(uuid).failed
    assert truth.job(uuid)["state"] == "failed"
    assert truth.effects() == []


def test_an_error_that_the_job_swallows_does_not_make_it_done(run, truth):
    uuid = functions.swallow_an_error.delay()
    assert run(uuid).failed
    assert truth.job(uuid)["state"] == "failed"
    assert truth.effects() == []


def test_a_job_must_not_end_its_transaction(run, truth):
    uuid = functions.end_the_transaction.delay()
    assert run(uuid).failed
    assert "ended the transaction" in truth.job(uuid)["exc_message"]


def test_a_limit(run, truth):
    uuid = functions.run_into_a_limit.delay()
    assert run(uuid) == Outcome(503, failed=True)
    row = truth.job(uuid)
    assert (row["state"], row["exc_name"], row["exc_message"]) == (
        "failed",
        "procman.errors.UnitAborted",
        "real_time",
    )
    assert truth.effects() == []
    assert signaling.current() is None


def test_a_lost_connection_means_another_try(run, truth):
    uuid = functions.lose_the_connection.delay()
    assert run(uuid) == Outcome(200, failed=False)
    row = truth.job(uuid)
    assert (row["state"], row["retry"]) == ("pending", 1)
    assert truth.effects() == []


def test_who_was_taken_for_dead_lets_go(database, truth, caplog):
    """The row is given to somebody else between the two transactions of this worker."""
    uuid = functions.note.delay("a")
    truth("UPDATE procman.job SET state = 'enqueued'")
    truth(
        "CREATE FUNCTION rob() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN NEW.date_started = NEW.date_started + interval ''1 second''; RETURN NEW; END';"
        "CREATE TRIGGER rob AFTER UPDATE ON procman.job FOR EACH ROW WHEN (NEW.state = 'started') "
        "EXECUTE FUNCTION rob()"
    )
    with signaling.lend(database) as connection, connection.cursor() as cr:
        attempt = execute.states.start(cr, uuid, "http.1", 1)
    truth("UPDATE procman.job SET state = 'pending'")
    with caplog.at_level(logging.WARNING):
        assert execute.Try(database, attempt).run() == Outcome(200, failed=False)
    assert truth.job(uuid)["state"] == "pending"
    assert truth.effects() == []


def test_the_row_is_locked_while_the_job_runs(database, truth, tmp_path):
    file = tmp_path / "go"
    uuid = functions.wait_for.delay(str(file))
    truth("UPDATE procman.job SET state = 'enqueued'")
    thread = threading.Thread(target=execute.run, args=(database, uuid))
    thread.start()
    while not list(tmp_path.iterdir()):
        thread.join(0.01)
    free = "SELECT id FROM procman.job WHERE state = 'started' FOR NO KEY UPDATE SKIP LOCKED"
    assert truth.states() == {"started": 1}
    assert truth(free) == []
    file.touch()
    thread.join()
    assert truth.states() == {"done": 1}


def test_the_server_is_away(database, truth, postgres_server):
    uuid = functions.note.delay("a")
    postgres_server.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS false')
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = %s"
    truth(others, database)
    with pytest.raises(DatabaseUnavailable):
        execute.run(database, uuid)
    assert truth.job(uuid)["state"] == "pending"
