from __future__ import annotations

from notes import note

import procman


@procman.cron(every="50ms", name="often")
def often() -> None:
    note("often")
