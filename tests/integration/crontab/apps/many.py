"""Ten functions that are all due at the same instants."""

from __future__ import annotations

from functools import partial

from notes import note, trace

import procman


def run(name: str) -> None:
    with procman.cursor() as cr:
        cr.execute("SELECT next_call FROM procman.cron WHERE name = %s", (name,))
        trace(f"{name} of {cr.fetchone()[0].isoformat()}")
    note(name)


for number in range(10):
    procman.cron(every="100ms", name=f"entry {number}")(partial(run, f"entry {number}"))
