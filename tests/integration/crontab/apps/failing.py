"""Fails the first three times, in a different way each time."""

from __future__ import annotations

import sys

from notes import note

import procman

calls = 0


@procman.cached("cron test")
def cached() -> int:
    return 1


@procman.cron(every="50ms", name="failing")
def failing() -> None:
    global calls
    calls += 1
    note("failing")
    procman.invalidate("cron test")
    procman.bus.send("cron test", calls)
    if calls == 1:
        raise LookupError("on purpose: é \0 \ud800")
    if calls == 2:
        with procman.cursor() as cr:
            cr.execute("SELECT 1 / 0")
    if calls == 3:
        sys.exit("on purpose")
