"""Takes longer than the time to its next call."""

from __future__ import annotations

import time

from notes import note, trace

import procman


@procman.cron(every="30ms", name="slow")
def slow() -> None:
    trace("begin")
    note("slow")
    time.sleep(0.08)
    trace("end")
