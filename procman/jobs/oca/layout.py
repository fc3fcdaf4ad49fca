"""What there is of queue_job in a database: it is looked for, never concluded from a version number.

* ``queue_job_lock`` came within the versions 16, 17 and 18: a worker keeps the row of its job locked while it works.
* In 18 the channels have columns of their own, of which ``paused`` counts here.
* Whether notices are sent depends on a trigger that the module's installation makes, and that gets lost in some ways of
  copying a database.
"""

from __future__ import annotations

from typing import Any, NamedTuple

# information_schema shows a trigger only to who may do more than read its table, so the catalogue itself is asked.
# pg_trigger.tgtype: 1 for each row, 4 insert, 8 delete, 16 update (PostgreSQL's pg_trigger.h).
_LOOK = """
SELECT module.state, coalesce(module.latest_version, ''), to_regclass('queue_job_lock') IS NOT NULL, EXISTS (
    SELECT FROM pg_attribute
    WHERE attrelid = to_regclass('queue_job_channel') AND attname = 'paused' AND NOT attisdropped
), EXISTS (
    SELECT FROM pg_trigger
    WHERE tgrelid = to_regclass('queue_job') AND tgname = 'queue_job_notify' AND tgtype & 29 = 29 AND tgenabled <> 'D'
)
FROM ir_module_module AS module WHERE module.name = 'queue_job'
"""


class Layout(NamedTuple):
    """``locks``: workers lock a row; ``pauses``: channels can be paused in Odoo; ``notifies``: changes are told."""

    version: str
    locks: bool
    pauses: bool
    notifies: bool


def look(cr: Any) -> Layout | None:
    """The layout; None where there is no Odoo, or queue_job is not installed."""
    cr.execute("SELECT to_regclass('ir_module_module') IS NOT NULL AND to_regclass('queue_job') IS NOT NULL")
    if not cr.fetchone()[0]:
        return None
    cr.execute(_LOOK)
    row = cr.fetchone()
    if row is None or row[0] != "installed":
        return None
    return Layout(*row[1:])
