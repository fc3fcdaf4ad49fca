"""What people and programs do to jobs from outside: cancel them, queue them again; and what follows for their children.

Every function is told jobs by their uuids or ids and returns those that it has moved; a job in any other state than
it is meant for is left alone. They may be called in any transaction: what is done to a job that waits comes with its
commit.
"""

from __future__ import annotations

import time
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg2.errors

from procman.jobs.states import JOB_LOCK

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PATIENCE = 5.0  # seconds for a backend to end after it was told to
_LOOK_AGAIN = 0.01


class Moved(NamedTuple):
    """A job, the state in which it was, and the one in which it is now."""

    id: int
    uuid: str
    was: str
    state: str


# Those that wait for a cancelled job would wait for ever, so they go with it; those that wait for a failed one wait on,
# because it can be queued again. A row that is locked is being worked on.
_CANCEL = """
WITH RECURSIVE doomed (id) AS (
    SELECT id FROM procman.job WHERE uuid = ANY(%(uuids)s::uuid[]) AND state = ANY(%(states)s)
    UNION
    SELECT job.id FROM doomed JOIN procman.job_dependency AS edge ON edge.parent = doomed.id
    JOIN procman.job AS job ON job.id = edge.child AND job.phase = 'waiting'
), was AS (
    SELECT job.* FROM procman.job AS job WHERE id IN (SELECT id FROM doomed)
    AND (phase = 'waiting' OR state = ANY(%(states)s))
    FOR NO KEY UPDATE SKIP LOCKED
), kept AS (
    INSERT INTO procman.job_attempt
        (job_id, number, worker, worker_host, worker_pid, date_started, outcome, exc_message)
    SELECT id, attempt, worker, worker_host, worker_pid, date_started, 'cancelled', %(note)s FROM was
    WHERE state = 'started'
)
UPDATE procman.job AS job SET state = 'cancelled', date_done = clock_timestamp(), exc_message = %(note)s,
    exc_name = NULL, exc_info = NULL
FROM was WHERE job.id = was.id
RETURNING job.id, job.uuid::text, was.state, job.state
"""

# Whoever works on one of them, in this database: what it has done is undone by the server when it goes.
_END_THOSE_AT_WORK = f"""
SELECT pg_terminate_backend(lock.pid) FROM procman.job AS job
JOIN pg_locks AS lock ON lock.locktype = 'advisory' AND lock.objsubid = 2 AND lock.classid = {JOB_LOCK}
    AND lock.objid = (job.id & x'7fffffff'::bigint)::integer::oid
    AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
WHERE job.uuid = ANY(%s::uuid[]) AND job.state = 'started'
"""

_STILL_THERE = "SELECT uuid::text FROM procman.job WHERE uuid = ANY(%s::uuid[]) AND state = ANY(%s)"

# One of a key for which another one waits stays as it is, and of several of one key one is enough.
_REQUEUE = """
WITH was AS (
    SELECT job.* FROM procman.job AS job WHERE uuid = ANY(%(uuids)s::uuid[]) AND state = ANY(%(states)s)
    AND NOT EXISTS (SELECT FROM procman.job AS twin WHERE twin.waiting_key = job.identity_key AND twin.id <> job.id)
    AND NOT EXISTS (
        SELECT FROM procman.job AS older WHERE older.identity_key = job.identity_key AND older.id < job.id
        AND older.uuid = ANY(%(uuids)s::uuid[]) AND older.state = ANY(%(states)s))
    FOR NO KEY UPDATE
), kept AS (
    INSERT INTO procman.job_attempt (job_id, number, worker, worker_host, worker_pid, date_started, date_ended, outcome)
    SELECT id, attempt, worker, worker_host, worker_pid, date_started, date_done, 'done' FROM was
    WHERE state = 'done' AND attempt > 0
)
UPDATE procman.job AS job SET retry = 0, eta = NULL, result = NULL, exec_time = NULL, date_enqueued = NULL,
    date_started = NULL, date_done = NULL, worker = NULL, worker_host = NULL, worker_pid = NULL,
    exc_name = NULL, exc_message = NULL, exc_info = NULL,
    state = CASE WHEN EXISTS (
        SELECT FROM procman.job_dependency AS edge JOIN procman.job AS parent ON parent.id = edge.parent
        WHERE edge.child = job.id AND (parent.state <> 'done' OR parent.id IN (SELECT id FROM was))
    ) THEN 'wait_dependencies' ELSE 'pending' END
FROM was WHERE job.id = was.id
RETURNING job.id, job.uuid::text, was.state, job.state
"""

# To be asked after the commit that has ended a parent, or made a child, in a snapshot of its own: of two parents that
# end at the same time, the transaction of neither sees the other one done. Whoever asks second sees both. In portions,
# because a job may have a million children.
# The parents are looked up for each child, by their ids: LATERAL with an aggregate leaves the planner no choice, which
# could otherwise think of reading all jobs there ever were.
_RELEASE = """
WITH looked_at AS MATERIALIZED (
    SELECT child.id FROM procman.job AS child WHERE child.phase = 'waiting' AND child.id > %(last)s {}
    ORDER BY child.id LIMIT %(most)s
), moved AS (
    UPDATE procman.job AS job SET
        state = CASE WHEN hopeless THEN 'cancelled' ELSE 'pending' END,
        date_done = CASE WHEN hopeless THEN clock_timestamp() END,
        exc_message = CASE WHEN hopeless THEN 'a job that it waited for is cancelled' END
    FROM looked_at AS child CROSS JOIN LATERAL (
        SELECT coalesce(bool_or(parent.state = 'cancelled'), false) AS hopeless,
            coalesce(bool_and(parent.state = 'done'), true) AS done
        FROM procman.job_dependency AS edge JOIN procman.job AS parent ON parent.id = edge.parent
        WHERE edge.child = child.id
    ) AS parents
    WHERE job.id = child.id AND job.phase = 'waiting' AND (done OR hopeless)
    RETURNING job.id, job.uuid::text, 'wait_dependencies', job.state
)
SELECT portion.*, moved.* FROM (SELECT count(*), max(id) FROM looked_at) AS portion LEFT JOIN moved ON true
"""
_RELEASE_CHILDREN = _RELEASE.format(
    "AND child.id IN (SELECT mine.child FROM procman.job_dependency AS mine WHERE mine.parent = ANY(%(ids)s))"
)
_RELEASE_THESE = _RELEASE.format("AND child.id = ANY(%(ids)s)")
_RELEASE_ALL = _RELEASE.format("")
PORTION = 2000

_BEFORE_IT_BEGINS = ["wait_dependencies", "pending", "enqueued", "failed"]


def cancel(cr: Any, uuids: Iterable[str], *, running: bool = False, by: str = "") -> list[Moved]:
    """Cancel what waits or has failed, and whatever waits for it; ``by`` says who did, for the row.

    With ``running`` also what is being worked on: the server ends the worker's transaction, so that nothing it did is
    there, at once and whatever becomes of the transaction of ``cr``. The worker itself notices at its next statement,
    or when it says how far it is. Raises psycopg2's InsufficientPrivilege if it belongs to another role, TimeoutError
    if its backend does not end.
    """
    uuids = list(uuids)
    states = [*_BEFORE_IT_BEGINS, *(["started"] if running else [])]
    given = {"uuids": uuids, "states": states, "note": f"cancelled by {by}" if by else "cancelled"}
    deadline = monotonic() + PATIENCE
    moved: list[Moved] = []
    while True:
        if running:
            cr.execute(_END_THOSE_AT_WORK, (uuids,))
        cr.execute(_CANCEL, given)
        moved += [Moved(*row) for row in cr.fetchall()]
        cr.execute(_STILL_THERE, (uuids, states))
        left = [uuid for (uuid,) in cr.fetchall()]
        if not left:
            _cancel_children(cr, moved)
            return moved
        if monotonic() > deadline:
            raise TimeoutError(f"{', '.join(left)}: somebody works on it, and does not end")
        # Locked in this moment, by whoever offers it or begins it, or ends.
        time.sleep(_LOOK_AGAIN)


def _cancel_children(cr: Any, moved: list[Moved]) -> None:
    """Those of which a row was locked in the moment, such as by who releases them."""
    if moved:
        moved += [each for each in release(cr, [each.id for each in moved]) if each.state == "cancelled"]


def requeue(cr: Any, uuids: Iterable[str], *, done: bool = False) -> list[Moved]:
    """Queue what has failed or was cancelled once more, with all its tries; with ``done`` what succeeded, too.

    It waits for its parents again if they are not done. One of whose identity key another one waits is left alone.
    """
    given = {"uuids": list(uuids), "states": ["failed", "cancelled", *(["done"] if done else [])]}
    try:
        cr.execute(_REQUEUE, given)
    except psycopg2.errors.UniqueViolation:
        if not cr.connection.autocommit:
            raise
        # An equal job came to wait in the very moment; now it is seen.
        cr.execute(_REQUEUE, given)
    return [Moved(*row) for row in cr.fetchall()]


def release(cr: Any, parents: Sequence[int]) -> list[Moved]:
    """Children of these jobs that wait for nothing any more become pending, or cancelled with a cancelled parent.

    ``cr`` is in autocommit mode: see `_RELEASE`.
    """
    return _released(cr, _RELEASE_CHILDREN, parents)


def release_these(cr: Any, children: Sequence[int]) -> list[Moved]:
    """The same, for jobs that have just been made."""
    return _released(cr, _RELEASE_THESE, children)


def release_all(cr: Any) -> list[Moved]:
    """The same, for every job that waits: for what was left undone by somebody who died."""
    return _released(cr, _RELEASE_ALL, ())


def _released(cr: Any, statement: str, ids: Sequence[int]) -> list[Moved]:
    moved: list[Moved] = []
    last, looked_at = 0, PORTION
    while looked_at == PORTION:
        cr.execute(statement, {"last": last, "most": PORTION, "ids": list(ids)})
        rows = cr.fetchall()
        looked_at, last = rows[0][:2]
        moved += [Moved(*row[2:]) for row in rows if row[2] is not None]
    # A cancelled one has children of its own.
    ended = [each.id for each in moved if each.state == "cancelled"]
    return moved + (_released(cr, _RELEASE_CHILDREN, ended) if ended else [])
