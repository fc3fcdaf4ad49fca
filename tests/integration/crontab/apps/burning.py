from __future__ import annotations

from notes import note

import procman


@procman.cron(every="1h", name="burning")
def burning() -> None:
    note("burning")
    while True:
        pass
