"""What may be declared, and what is said of what may not."""

from __future__ import annotations

import time
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
