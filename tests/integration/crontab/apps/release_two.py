"""The next release of `release_one`: one entry has gone, one has come, one has other terms."""

from __future__ import annotations

from notes import note

import procman


@procman.cron(every="1h", name="stays", priority=0, misfire="skip", timeout="5m", jitter="1m")
def stays() -> None:
    note("stays")


@procman.cron(every="1h", name="comes")
def comes() -> None:
    note("comes")
