"""How jobs come into the table: in the transaction of the current unit, with their identity keys and their parents."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import psycopg2.errors

from procman import signaling
from procman.errors import ProcmanError
from procman.jobs import steering

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

_ROWS_PER_STATEMENT = 1000


@dataclass(slots=True)
class Call:
    """A job to be made, as its row will have it. ``seconds``: from now, if there is no ``eta``."""

    function: str
    args: str
    kwargs: str
    channel: str
    priority: int
    max_retries: int
    retry_pattern: str | None
    timeout: float | None
    batch: int | None
    description: str | None
    identity_key: str | None
    eta: datetime | None
    seconds: float | None
    graph: str | None = None
    waits: bool = False  # for another job


class Made(NamedTuple):
    """A job that is there now: ``new``, or the equal one that was found. ``here``: visible in the transaction."""

    id: int
    uuid: str
    here: bool = True
    new: bool = True


class Overtaken(ProcmanError):
    """Another transaction has made an equal job, which this one can't see: it has to begin anew.

    Jobs, cron functions, RPC calls and what is `retryable` are repeated by themselves, as after any serialization
    failure.
    """

    pgcode = "40001"


# name, type
_COLUMNS = {
    "function": "text",
    "args": "jsonb",
    "kwargs": "jsonb",
    "channel": "text",
    "priority": "integer",
    "max_retries": "integer",
    "retry_pattern": "jsonb",
    "timeout": "double precision",
    "batch": "integer",
    "description": "text",
    "identity_key": "text",
    "graph": "uuid",
}
_NAMES = ", ".join(_COLUMNS)
_ARRAYS = ", ".join(f"%({name})s::{kind}[]" for name, kind in _COLUMNS.items())
# In the order of the calls, in which ids are given: children have been made after their parents.
_INSERT = f"""
INSERT INTO procman.job (uuid, state, eta, {_NAMES})
SELECT uuid, CASE WHEN waits THEN 'wait_dependencies' ELSE 'pending' END,
    coalesce(eta, clock_timestamp() + make_interval(secs => seconds)), {_NAMES}
FROM unnest(%(uuid)s::uuid[], %(waits)s::boolean[], %(eta)s::timestamptz[], %(seconds)s::double precision[], {_ARRAYS})
    WITH ORDINALITY AS call (uuid, waits, eta, seconds, {_NAMES}, position)
ORDER BY position
RETURNING id, uuid::text
"""
# One alone, which is the rule: half the work for either side.
_INSERT_ONE = f"""
INSERT INTO procman.job (uuid, state, eta, {_NAMES}) VALUES (
    %(uuid)s, %(state)s, coalesce(%(eta)s::timestamptz, clock_timestamp() + make_interval(secs => %(seconds)s)),
    {", ".join(f"%({name})s" for name in _COLUMNS)}
) RETURNING id
"""

_TWIN = "SELECT id, uuid::text FROM procman.job WHERE waiting_key = %s"

_PARENTS = "SELECT uuid::text, id, state FROM procman.job WHERE uuid = ANY(%s::uuid[])"

_LINK = """
INSERT INTO procman.job_dependency (parent, child) SELECT * FROM unnest(%s::bigint[], %s::bigint[])
ON CONFLICT DO NOTHING
"""


def insert(cr: Any, calls: Iterable[Call]) -> list[Made]:
    """Make these jobs, in few statements; one whose identity key another job waits under is that one."""
    made: list[Made] = []
    for keyed, some in groupby(calls, key=lambda call: call.identity_key is not None):
        if keyed:
            made += [_insert_unless_there(cr, call) for call in some]
        else:
            several = list(some)
            for first in range(0, len(several), _ROWS_PER_STATEMENT):
                made += _insert(cr, several[first : first + _ROWS_PER_STATEMENT])
    return made


def link(cr: Any, edges: Sequence[tuple[Made, Made]]) -> None:
    """The second of each pair waits for the first; but one that was there already waits for nothing else than before.

    So nobody can come to wait for himself.
    """
    edges = [(parent, child) for parent, child in edges if child.new]
    if any(not parent.here for parent, _ in edges):
        raise Overtaken(
            "another transaction has just made a job of the same identity_key, which others are to wait for"
        )
    for first in range(0, len(edges), _ROWS_PER_STATEMENT):
        some = edges[first : first + _ROWS_PER_STATEMENT]
        cr.execute(_LINK, ([parent.id for parent, _ in some], [child.id for _, child in some]))


class Parents:
    """Jobs that are there already, for others to wait for."""

    def __init__(self, cr: Any, uuids: Sequence[str]) -> None:
        cr.execute(_PARENTS, (list(uuids),))
        rows = {uuid: (id, state) for uuid, id, state in cr.fetchall()}  # noqa: A001
        if missing := [uuid for uuid in uuids if uuid not in rows]:
            raise LookupError(f"after: there is no job {missing[0]}")
        if cancelled := [uuid for uuid in uuids if rows[uuid][1] == "cancelled"]:
            raise ValueError(f"after: job {cancelled[0]} is cancelled, nothing can wait for it")
        self.jobs = [Made(rows[uuid][0], uuid, new=False) for uuid in uuids]
        self.done = all(state == "done" for _, state in rows.values())


def look_again_after_commit(children: Sequence[Made]) -> None:
    """A parent may have ended in the meantime, and its worker has looked for children before these could be seen."""
    unit = signaling.current()
    if unit is not None:
        unit.after_commit(partial(_release, unit.database, [child.id for child in children]))


def _release(database: str, ids: list[int]) -> None:
    with signaling.lend(database) as connection, connection.cursor() as cr:
        steering.release_these(cr, ids)


def _insert_one(cr: Any, call: Call) -> Made:
    uuid = str(uuid4())
    state = "wait_dependencies" if call.waits else "pending"
    row = {name: getattr(call, name) for name in _COLUMNS}
    cr.execute(_INSERT_ONE, {**row, "uuid": uuid, "state": state, "eta": call.eta, "seconds": call.seconds})
    return Made(cr.fetchone()[0], uuid)


def _insert(cr: Any, calls: Sequence[Call]) -> list[Made]:
    if len(calls) == 1:
        return [_insert_one(cr, calls[0])]
    uuids = [str(uuid4()) for _ in calls]
    names = ("waits", "eta", "seconds", *_COLUMNS)
    cr.execute(_INSERT, {"uuid": uuids, **{name: [getattr(call, name) for call in calls] for name in names}})
    return [Made(id, uuid) for id, uuid in cr.fetchall()]  # noqa: A001


def _insert_unless_there(cr: Any, call: Call) -> Made:
    """Insert, or find the job that waits under the same key, also one that this transaction can't see.

    Not ON CONFLICT DO NOTHING: under REPEATABLE READ that fails the transaction when the other one was
    committed after its snapshot (INSERT in PostgreSQL's manual; 13.2.2), and the other is then to be
    found only outside of this transaction.
    """
    while True:
        cr.execute("SAVEPOINT procman_job")
        try:
            made = _insert_one(cr, call)
        except psycopg2.errors.UniqueViolation:
            cr.execute("ROLLBACK TO SAVEPOINT procman_job")
        else:
            cr.execute("RELEASE SAVEPOINT procman_job")
            return made
        if found := _find(cr, call.identity_key):
            return found


def _find(cr: Any, key: str | None) -> Made | None:
    """The job that waits; None if the one in the way has begun meanwhile."""
    cr.execute(_TWIN, (key,))
    seen = cr.fetchone()
    unit = signaling.current()
    with signaling.lend(unit.database if unit else None) as connection, connection.cursor() as beside:
        beside.execute(_TWIN, (key,))
        waiting = beside.fetchone()
        if waiting is None and seen is not None:
            beside.execute("SELECT FROM procman.job WHERE id = %s", seen[:1])
            # What nobody else can see is this transaction's own.
            waiting = seen if beside.fetchone() is None else None
    return Made(waiting[0], waiting[1], waiting == seen, new=False) if waiting else None
