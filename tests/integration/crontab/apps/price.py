"""Works with the other parts of procman, in one transaction with them."""

from __future__ import annotations

from notes import hold, note

import procman


@procman.cached("cron test")
def value() -> int:
    with procman.cursor() as cr:
        cr.execute("SELECT value FROM counter")
        return int(cr.fetchone()[0])


@procman.cron(every="1h", name="price")
def price() -> None:
    before = value()
    with procman.cursor() as cr:
        cr.execute("UPDATE counter SET value = value + 1")
    procman.invalidate("cron test")
    procman.bus.send("cron test", {"before": before, "after": value()})
    note("price")
    hold()
