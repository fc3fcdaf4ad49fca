"""Scheduled work: functions that the cron workers run at their times, each time once.

    @procman.cron(every="10s")
    def tick(): ...

`entries` is what applications declare, `schedule` the arithmetic, `store` the table, `execute` one run;
`procman.workers.cron` waits for the times to come.
"""

from __future__ import annotations

from procman.crontab.entries import Cron, Entry

cron = Cron()

__all__ = ["Cron", "Entry", "cron"]
