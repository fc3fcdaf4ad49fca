"""Takes longer than the time to its next call."""

from __future__ import annotations

import time

from notes import note

import procman


@procman.cron(every="30ms", name="slow")
def slow() -> None:
    note("slow")
    time.sleep(0.08)
    with procman.cursor() as cr:
        cr.execute("UPDATE ran SET ended = clock_timestamp() WHERE ended = began AND id = (SELECT max(id) FROM ran)")
