"""Ten functions that are all due at the same instants."""

from __future__ import annotations

from functools import partial

from notes import note

import procman

for number in range(10):
    procman.cron(every="100ms", name=f"entry {number}")(partial(note, f"entry {number}"))
