from __future__ import annotations

from notes import note

import procman


@procman.cron(every="1h", name="hourly")
def hourly() -> None:
    note("hourly")
