"""What may be declared, and what is said of what may not."""

from __future__ import annotations

import re
import time
from datetime import datetime
from functools import partial

import pytest

import procman
from procman.crontab import Cron


@pytest.fixture
def cron():
    return Cron()


def work():
    return "worked"


def test_the_public_name():
    assert isinstance(procman.cron, Cron)


def test_a_decorated_function_stays_what_it_is(cron):
    assert cron(every="10s")(work) is work
    assert work() == "worked"
    (entry,) = cron.entries.values()
    assert entry.function is work
    assert entry.name == f"{__name__}:work"
    assert entry.terms.schedule.text == "@every 10s"


def test_expression_zone_and_name(cron):
    cron("*/5 * * * *", tz="Europe/Brussels", name="five")(work)
    assert {name: entry.terms.schedule.text for name, entry in cron.entries.items()} == {
        "five": "CRON_TZ=Europe/Brussels */5 * * * *"
    }


def test_one_function_may_have_several_entries(cron):
    cron("0 8 * * *", name="morning")(work)
    cron("0 20 * * *", name="evening")(work)
    assert sorted(cron.entries) == ["evening", "morning"]


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda cron: cron(work), TypeError, "procman.cron needs a schedule"),
        (lambda cron: cron(), TypeError, "either a cron expression or `every`"),
        (lambda cron: cron("* * * * *", every="10s"), TypeError, "either a cron expression or `every`"),
        (lambda cron: cron(10), TypeError, "a cron expression is a str, not int"),
        (lambda cron: cron("* * *"), ValueError, "Wrong number of fields"),
        (lambda cron: cron(every="10 sec"), ValueError, 'did you mean "10s"'),
        (lambda cron: cron(every="10s", tz="UTC"), TypeError, "`tz` is for cron expressions"),
        (lambda cron: cron("* * * * *", tz="Mars"), ValueError, "there is no time zone 'Mars'"),
        (lambda cron: cron(every="10s")("work"), TypeError, "decorates a function, not str"),
        (lambda cron: cron(every="10s")(lambda one: one), TypeError, "is called without arguments: missing .* 'one'"),
        (lambda cron: cron(every="10s", name="")(work), ValueError, "1 to 200 characters"),
        (lambda cron: cron(every="10s", name="a\0b")(work), ValueError, "1 to 200 characters"),
        (lambda cron: cron(every="10s", name="x" * 201)(work), ValueError, "1 to 200 characters"),
        (lambda cron: cron(every="10s", name=5)(work), TypeError, "is a str, not int"),
    ],
)
def test_what_can_not_be_declared(cron, use, error, message):
    with pytest.raises(error, match=message):
        use(cron)
    assert not cron.entries


def test_functions_that_would_not_run_by_being_called(cron):
    async def coroutine():
        pass

    def generator():
        yield

    for function in (coroutine, generator):
        with pytest.raises(TypeError, match="would not run by being called"):
            cron(every="10s")(function)


def test_parameters_with_defaults_and_other_callables(cron):
    cron(every="10s")(lambda one=1: one)
    cron(every="10s", name="partial")(partial(print, 1))
    cron(every="10s", name="C")(time.time)
    assert len(cron.entries) == 3


def test_two_functions_of_one_name(cron):
    def make():
        def inner():
            pass

        return inner

    cron(every="10s")(make())
    with pytest.raises(ValueError, match=r"two cron entries with the name .*make.<locals>.inner'"):
        cron(every="10s")(make())
    cron(every="10s", name="one")(work)
    with pytest.raises(ValueError, match="two cron entries with the name 'one'"):
        cron(every="10s", name="one")(make())


def test_a_module_that_is_imported_anew_replaces_its_entries(cron):
    cron(every="10s")(work)
    cron(every="20s")(work)
    assert [entry.terms.schedule.text for entry in cron.entries.values()] == ["@every 20s"]


# -- terms -----------------------------------------------------------------------------------------------------


def test_terms(cron):
    cron("never", name="a")(work)
    cron(every="1h", name="b", misfire="all", jitter="5m", priority=0, timeout="90s")(work)
    a, b = (entry.terms for entry in cron.entries.values())
    assert (a.schedule.text, a.misfire, a.jitter, a.priority, a.timeout) == ("@never", "once", 0.0, 10, None)
    assert (b.misfire, b.jitter, b.priority, b.timeout) == ("all", 300.0, 0, 90.0)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"misfire": "later"}, 'misfire: expected "skip" or "once" or "all", got \'later\''),
        ({"misfire": None}, "misfire: expected"),
        ({"jitter": "2h"}, "jitter: '2h' is more than there is between two calls"),
        ({"jitter": -1}, "jitter: expected a duration"),
        ({"jitter": "x"}, "jitter: expected a duration"),
        ({"priority": 1001}, "priority: expected a whole number from 0 to 1000, got 1001"),
        ({"priority": True}, "priority: expected a whole number"),
        ({"priority": 1.5}, "priority: expected a whole number"),
        ({"timeout": 0}, "timeout: "),
        ({"timeout": "5 minutes"}, "timeout: expected a duration"),
    ],
)
def test_no_terms(cron, terms, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        cron(every="1h", **terms)(work)


@pytest.mark.parametrize("at", ["tomorrow", b"x", True, float("inf"), [None, "x"], {"a": 1}.items()])
def test_no_moment_to_trigger_at(cron, at):
    with pytest.raises(TypeError, match=r"^at: expected a datetime, a timedelta or seconds from now, got"):
        cron.trigger("a", at=at)


def test_a_moment_needs_a_time_zone(cron):
    with pytest.raises(ValueError, match="has no time zone"):
        cron.trigger("a", at=datetime(2026, 1, 1))


def test_each_import_has_a_name_of_its_own(cron):
    other = Cron()
    assert cron.imported != other.imported
    assert cron.imported == cron.imported
    before = cron.imported
    cron(every="1h")(work)
    assert cron.imported != before
    assert 0 <= cron.age < 60
