"""The next release of `held`."""

from __future__ import annotations

from notes import hold, note

import procman


@procman.cron("0 3 * * *", tz="Europe/Brussels", name="held")
def held() -> None:
    note("held")
    hold()
