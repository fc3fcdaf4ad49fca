"""Entries that are told by files what to do; each leaves a row behind for what it is run for."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from notes import hold, note

import procman

DIRECTORY = Path(os.environ.get("ORDERS", "/nonexistent"))


def ordered(what: str) -> bool:
    return (DIRECTORY / what).exists()


def note_call(name: str) -> None:
    call = procman.cron.current()
    assert call is not None
    assert call.name == name
    with procman.cursor() as cr:
        cr.execute("INSERT INTO ran (name, planned, pid) VALUES (%s, %s, %s)", (call.cause, call.planned, os.getpid()))


@procman.cron("never", name="triggered", priority=3)
def triggered() -> None:
    note_call("triggered")
    if ordered("hold"):
        hold()
    if ordered("fail"):
        raise LookupError("as ordered")
    if ordered("trigger myself"):
        procman.cron.trigger("triggered")
        (DIRECTORY / "trigger myself").unlink()
    if ordered("trigger and fail"):
        procman.cron.trigger("triggered")
        (DIRECTORY / "trigger and fail").unlink()
        raise LookupError("as ordered")


@procman.cron("0 0 1 1 *", name="yearly", misfire="skip")
def yearly() -> None:
    note_call("yearly")


@procman.cron("0 * * * *", name="every hour", misfire="all")
def every_hour() -> None:
    note_call("every hour")


@procman.cron("never", name="killer")
def killer() -> None:
    note("killer")
    if ordered("kill"):
        os.kill(os.getpid(), signal.SIGKILL)


@procman.cron("never", name="kills at the commit")
def kills_at_the_commit() -> None:
    note("kills at the commit")
    if ordered("kill"):
        from procman import signaling

        unit = signaling.current()
        assert unit is not None
        unit.before_commit(lambda cursor: os.kill(os.getpid(), signal.SIGKILL))
