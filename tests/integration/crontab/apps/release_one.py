"""Two entries, of which one is in the code no more in `release_two`."""

from __future__ import annotations

from notes import note

import procman


@procman.cron(every="1h", name="stays")
def stays() -> None:
    note("stays")


@procman.cron(every="1h", name="goes")
def goes() -> None:
    note("goes")
