"""Work in portions, of which the database remembers how much is left."""

from __future__ import annotations

import os
import signal

from notes import hold, trace

import procman


def take_one() -> int:
    with procman.cursor() as cr:
        cr.execute("UPDATE counter SET value = value - 1 RETURNING value")
        (left,) = cr.fetchone()
        return int(left)


@procman.cron("never", name="returns")
def returns() -> None:
    """One portion for each run."""
    trace("returns")
    procman.cron.progress(done=1, remaining=take_one())


@procman.cron("never", name="commits")
def commits() -> None:
    """Several portions in one run."""
    trace("commits")
    while True:
        left = take_one()
        seconds = procman.cron.commit(done=1, remaining=left)
        if left == int(os.environ.get("HOLD_AT", "-1")):
            hold()
        if left == int(os.environ.get("KILL_AT", "-1")):
            os.kill(os.getpid(), signal.SIGKILL)
        if left == int(os.environ.get("FAIL_AT", "-1")):
            take_one()
            raise LookupError("on purpose")
        if left <= 0 or not seconds:
            return


@procman.cron("never", name="says so and does nothing")
def says_so() -> None:
    trace("says so")
    procman.cron.progress(done=0, remaining=5)


@procman.cron("never", name="other")
def other() -> None:
    trace("other")
