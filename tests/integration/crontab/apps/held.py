from __future__ import annotations

from notes import hold, note

import procman


@procman.cron(every="1h", name="held")
def held() -> None:
    note("held")
    hold()
