"""The moves of a job's row between its states, each one guarded by the state that it starts from.

A try is named by the job's id and its ``date_started``: whoever was thought dead and comes back finds that the
row is no longer in the try that it works on, and lets go.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

_HOST = socket.gethostname()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a job; ``retry`` counts it if it counts, ``number`` in any case. ``args`` and ``kwargs`` as stored."""

    id: int
    uuid: str
    function: str
    args: list[Any]
    kwargs: dict[str, Any]
    retry: int
    max_retries: int
    retry_pattern: dict[str, Any] | None
    date_started: datetime
    number: int
    timeout: float | None

    def __str__(self) -> str:
        return f"Job {self.uuid} {self.function}"


class Failure(NamedTuple):
    """What the row says of an exception."""

    name: str
    message: str
    info: str | None


class Rescued(NamedTuple):
    """A job that was found dead, and what became of it."""

    id: int
    uuid: str
    state: str
    retry: int
    worker: str | None
    worker_pid: int | None


# Going back to the queue while an equal job waits there would be one too many: that one will do the work.
_HAS_TWIN = """
identity_key IS NOT NULL AND EXISTS (
    SELECT FROM procman.job AS twin WHERE twin.waiting_key = job.identity_key AND twin.id <> job.id)
"""

# Unless that one might wait for somebody who waits for this one: then it keeps its place, and gives up its key.
_KEEPS_ITS_PLACE = """
EXISTS (SELECT FROM procman.job_dependency AS edge WHERE edge.parent = job.id) AND EXISTS (
    SELECT FROM procman.job AS twin WHERE twin.waiting_key = job.identity_key AND twin.id <> job.id
    AND twin.state = 'wait_dependencies')
"""
_GIVES_WAY = f"({_HAS_TWIN}) AND NOT ({_KEEPS_ITS_PLACE})"

# And whoever has waited for the one waits for the other.
_HEIRS = """
orphan AS (
    SELECT twin.id AS heir, edge.parent, edge.child FROM moved
    JOIN procman.job_dependency AS edge ON edge.parent = moved.id
    JOIN procman.job AS twin ON twin.waiting_key = moved.identity_key AND twin.id NOT IN (moved.id, edge.child)
    WHERE moved.state = 'cancelled'
), inherited AS (
    INSERT INTO procman.job_dependency (parent, child) SELECT heir, child FROM orphan ON CONFLICT DO NOTHING
), forgotten AS (
    DELETE FROM procman.job_dependency AS edge USING orphan
    WHERE (edge.parent, edge.child) = (orphan.parent, orphan.child)
)
"""

_TRY = "id, attempt, worker, worker_host, worker_pid, date_started"

# The try that ends is kept; `was` is what it was.
_KEEP = f"""
INSERT INTO procman.job_attempt
    (job_id, number, worker, worker_host, worker_pid, date_started, outcome, reason, exc_name, exc_message, exc_info)
SELECT {_TRY}, """

_START = """
UPDATE procman.job SET state = 'started', date_started = clock_timestamp(), retry = retry + 1,
    attempt = attempt + 1, worker = %s, worker_host = %s, worker_pid = %s,
    exc_name = NULL, exc_message = NULL, exc_info = NULL
WHERE uuid = ANY(%s::uuid[]) AND state = 'enqueued'
RETURNING id, uuid::text, function, args, kwargs, retry, max_retries, retry_pattern, date_started, attempt, timeout
"""

_MINE = "id = %(id)s AND state = 'started' AND date_started = %(date_started)s"

# The lock on the row is the sign of life. The advisory one names its backend to whoever cancels the job, because who
# has locked a row nobody can see (pg_locks, 54.13).
JOB_LOCK = 0x70726F6A
_HOLD = f"""
SELECT pg_advisory_xact_lock_shared({JOB_LOCK}, (id & x'7fffffff'::bigint)::integer)
FROM (SELECT id FROM procman.job WHERE {_MINE} FOR NO KEY UPDATE) AS held
"""

_THESE = "(id, date_started) IN (SELECT * FROM unnest(%s::bigint[], %s::timestamptz[])) AND state = 'started'"

_HOLD_ALL = f"""
SELECT txid_current(), id, pg_advisory_xact_lock_shared({JOB_LOCK}, (id & x'7fffffff'::bigint)::integer)
FROM (SELECT id FROM procman.job WHERE {_THESE} FOR NO KEY UPDATE) AS held
"""

# While it runs a statement the server does not look whether its client still lives, and the row of a killed
# worker's job would stay locked until the statement ends (client_connection_check_interval, 19.3.2).
_NOTICE_DEATH = "SET LOCAL client_connection_check_interval = '200ms'; "

_FINISH = f"""
UPDATE procman.job SET state = 'done', date_done = clock_timestamp(), exec_time = %(seconds)s,
    result = %(result)s::jsonb
WHERE {_MINE}
"""

_FINISH_ALL = """
UPDATE procman.job AS job SET state = 'done', date_done = clock_timestamp(), exec_time = each.seconds,
    result = each.result
FROM unnest(%s::bigint[], %s::timestamptz[], %s::float8[], %s::jsonb[]) AS each (id, date_started, seconds, result)
WHERE job.id = each.id AND job.date_started = each.date_started AND state = 'started'
"""

_FAIL = f"""
WITH was AS (
    UPDATE procman.job SET state = 'failed', date_done = clock_timestamp(), exec_time = %(seconds)s,
        exc_name = %(name)s, exc_message = %(message)s, exc_info = %(info)s
    WHERE {_MINE}
    RETURNING {_TRY}
)
{_KEEP} 'failed', %(reason)s, %(name)s, %(message)s, %(info)s FROM was
"""

_POSTPONE = f"""
WITH was AS (SELECT {_TRY} FROM procman.job WHERE {_MINE} FOR NO KEY UPDATE),
moved AS (
    UPDATE procman.job AS job SET state = CASE WHEN {_GIVES_WAY} THEN 'cancelled' ELSE 'pending' END,
        identity_key = CASE WHEN {_KEEPS_ITS_PLACE} THEN NULL ELSE identity_key END,
        date_done = CASE WHEN {_GIVES_WAY} THEN clock_timestamp() END,
        eta = clock_timestamp() + make_interval(secs => %(wait)s), retry = retry - %(uncounted)s,
        date_enqueued = NULL, date_started = NULL, worker = NULL, worker_host = NULL, worker_pid = NULL,
        exc_name = %(name)s, exc_message = %(message)s, exc_info = %(info)s
    FROM was WHERE job.id = was.id
    RETURNING job.id, job.state, job.identity_key
), {_HEIRS}
{_KEEP} %(outcome)s, %(reason)s, %(name)s, %(message)s, %(info)s FROM was
"""

# Beside the transaction of the job, which has locked the row, but not against being looked at and referred to.
_PROGRESS = f"""
INSERT INTO procman.job_progress AS noted (job_id, number, done, total, note)
SELECT id, attempt, %(done)s, %(total)s, %(note)s FROM procman.job WHERE {_MINE}
ON CONFLICT (job_id) DO UPDATE SET number = excluded.number, done = excluded.done, total = excluded.total,
    note = excluded.note, at = excluded.at
"""

# Whoever has held the lease, and was stopped for longer than that lasts, starts nothing when he goes on.
_OFFER = """
UPDATE procman.job SET state = 'enqueued', date_enqueued = clock_timestamp()
WHERE id = ANY(%s) AND state = 'pending' AND (eta IS NULL OR eta <= clock_timestamp())
    AND EXISTS (SELECT FROM procman.job_leader WHERE token = %s AND until > clock_timestamp())
RETURNING id, uuid::text, date_enqueued
"""

_TAKE_BACK = """
UPDATE procman.job AS job SET state = 'pending', date_enqueued = NULL
FROM unnest(%s::bigint[], %s::timestamptz[]) AS offer (id, at)
WHERE job.id = offer.id AND job.date_enqueued IS NOT DISTINCT FROM offer.at AND state = 'enqueued'
"""

# Only rows that nobody has locked: a worker holds the lock of its job's row for as long as it works on it.
_RESCUE = f"""
WITH was AS (
    SELECT {_TRY} FROM procman.job
    WHERE (id, date_started) IN (SELECT * FROM unnest(%s::bigint[], %s::timestamptz[])) AND state = 'started'
    FOR NO KEY UPDATE SKIP LOCKED
), move AS (
    SELECT was.*, format(' (worker %%s, pid %%s)', was.worker, was.worker_pid) AS who,
        CASE WHEN max_retries > 0 AND retry > max_retries THEN 'failed'
        WHEN {_GIVES_WAY} THEN 'cancelled' ELSE 'pending' END AS target, {_KEEPS_ITS_PLACE} AS keeps_its_place
    FROM was JOIN procman.job AS job USING (id)
), kept AS (
    {_KEEP} 'dead', NULL, 'JobFoundDead', 'Job found dead' || who, NULL FROM move
), moved AS (
    UPDATE procman.job AS job SET state = target, eta = NULL,
        identity_key = CASE WHEN target = 'pending' AND keeps_its_place THEN NULL ELSE job.identity_key END,
        date_enqueued = NULL,
        date_started = CASE target WHEN 'failed' THEN job.date_started END,
        date_done = CASE WHEN target <> 'pending' THEN clock_timestamp() END,
        worker = CASE target WHEN 'failed' THEN job.worker END,
        worker_host = CASE target WHEN 'failed' THEN job.worker_host END,
        worker_pid = CASE target WHEN 'failed' THEN job.worker_pid END,
        exc_name = 'JobFoundDead', exc_info = NULL,
        exc_message = 'Job found dead' || CASE target WHEN 'failed' THEN ' after too many retries' ELSE '' END || who
    FROM move WHERE job.id = move.id
    RETURNING job.id, job.uuid::text, job.state, job.retry, move.worker, move.worker_pid, job.identity_key
), {_HEIRS}
SELECT id, uuid, state, retry, worker, worker_pid FROM moved
"""

_EXPLAIN = """
WITH known AS (
    UPDATE procman.job_attempt AS attempt
    SET reason = %(reason)s, exc_message = exc_message || ': ' || %(reason)s, exc_info = nullif(%(text)s, '')
    WHERE job_id = %(id)s AND outcome = 'dead' AND reason IS NULL
      AND number = (SELECT max(number) FROM procman.job_attempt WHERE job_id = %(id)s)
    RETURNING number
)
UPDATE procman.job SET exc_message = exc_message || ': ' || %(reason)s, exc_info = nullif(%(text)s, '')
FROM known WHERE id = %(id)s AND attempt = number AND exc_name = 'JobFoundDead'
"""


def start(cr: Any, uuid: str, worker: str, pid: int) -> Attempt | None:
    """enqueued → started; None when the job is not enqueued, as when somebody else was faster."""
    attempts = start_all(cr, [uuid], worker, pid)
    return attempts[0] if attempts else None


def start_all(cr: Any, uuids: Sequence[str], worker: str, pid: int) -> list[Attempt]:
    """`start` for several, in their order; those that are not enqueued are left out."""
    cr.execute(_START, (worker, _HOST, pid, list(uuids)))
    attempts = [Attempt(*row) for row in cr.fetchall()]
    return sorted(attempts, key=lambda attempt: uuids.index(attempt.uuid))


def hold_all(cr: Any, attempts: Sequence[Attempt]) -> tuple[int, set[int]]:
    """`hold` for several; the transaction's number, and the ids of those that are still in these tries."""
    notice = _NOTICE_DEATH if cr.connection.info.server_version >= 140000 else ""
    cr.execute(notice + _HOLD_ALL, ([each.id for each in attempts], [each.date_started for each in attempts]))
    rows = cr.fetchall()
    return rows[0][0] if rows else 0, {id for _, id, _ in rows}  # noqa: A001


def has_committed(cr: Any, transaction: int) -> bool:
    """Whether what a transaction did that has ended is there."""
    cr.execute("SELECT txid_status(%s)", (transaction,))
    return bool(cr.fetchone()[0] == "committed")


def finish_all(cr: Any, done: Sequence[tuple[Attempt, float, str | None]]) -> int:
    """`finish` for several, each with its seconds and its result; how many were still in these tries."""
    columns = (
        [attempt.id for attempt, _, _ in done],
        [attempt.date_started for attempt, _, _ in done],
        [seconds for _, seconds, _ in done],
        [result for _, _, result in done],
    )
    cr.execute(_FINISH_ALL, columns)
    return int(cr.rowcount)


def hold(cr: Any, attempt: Attempt) -> bool:
    """Lock the row until the end of the transaction: this is how others see that the try is alive."""
    cr.execute((_NOTICE_DEATH if cr.connection.info.server_version >= 140000 else "") + _HOLD, _names(attempt))
    return bool(cr.rowcount)


def finish(cr: Any, attempt: Attempt, *, seconds: float, result: str | None) -> bool:
    """started → done, in the transaction of the work."""
    cr.execute(_FINISH, {**_names(attempt), "seconds": seconds, "result": result})
    return bool(cr.rowcount)


def fail(cr: Any, attempt: Attempt, failure: Failure, *, seconds: float, reason: str | None = None) -> bool:
    """started → failed; ``reason`` is the limit that ended it, if one did."""
    cr.execute(_FAIL, {**_names(attempt), "seconds": seconds, "reason": reason, **_storable(cr, failure)})
    return bool(cr.rowcount)


def postpone(
    cr: Any, attempt: Attempt, failure: Failure, *, wait: float, counted: bool = True, outcome: str = "retry"
) -> bool:
    """started → pending, not before ``wait`` seconds from now; cancelled if an equal job waits.

    ``outcome`` is what the history says of the try: retry, or dead.
    """
    values = {**_names(attempt), **_storable(cr, failure), "wait": wait, "uncounted": 0 if counted else 1}
    cr.execute(_POSTPONE, {**values, "outcome": outcome, "reason": None})
    return bool(cr.rowcount)


def note_progress(cr: Any, attempt: Attempt, done: float, total: float | None, note: str) -> bool:
    """How far it is, from another connection than that of its transaction; false if the try is over."""
    cr.execute(_PROGRESS, {**_names(attempt), "done": done, "total": total, "note": note})
    return bool(cr.rowcount)


def offer(cr: Any, ids: Sequence[Any], token: str) -> list[tuple[int, str, datetime]]:
    """pending → enqueued, for those that are still pending and due; their id, uuid and date_enqueued.

    None at all when the lease is not (any more) that of the ``token``.
    """
    cr.execute(_OFFER, (list(ids), token))
    return list(cr.fetchall())


def take_back(cr: Any, offers: Sequence[tuple[Any, datetime | None]]) -> None:
    """enqueued → pending, for those of these offers (id, date_enqueued) that nobody has taken up; it is no try."""
    cr.execute(_TAKE_BACK, ([each[0] for each in offers], [each[1] for each in offers]))


def rescue(cr: Any, attempts: Sequence[tuple[Any, datetime]]) -> list[Rescued]:
    """started → pending (or failed, after too many tries) for those of these tries that nobody works on."""
    cr.execute(_RESCUE, ([each[0] for each in attempts], [each[1] for each in attempts]))
    return [Rescued(*row) for row in cr.fetchall()]


def explain(cr: Any, id: int, reason: str, text: str) -> None:  # noqa: A002
    """Say of the last try of a job, which was found dead, why its worker ended, and where it was (its stacks, or "").

    The history keeps it; the job's row says so as long as there is no other try.
    """
    cr.execute(_EXPLAIN, {"id": id, "reason": reason, "text": text.replace("\0", "?")})


def _names(attempt: Attempt) -> dict[str, Any]:
    return {"id": attempt.id, "date_started": attempt.date_started}


def _storable(cr: Any, failure: Failure) -> dict[str, str | None]:
    # Only to UTF8 every character can be converted; what can't would make the record of a failure fail.
    encoding = "utf-8" if cr.connection.info.parameter_status("server_encoding") == "UTF8" else "ascii"
    return {
        name: text and text.replace("\0", "\\0").encode(encoding, "backslashreplace").decode(encoding)
        for name, text in failure._asdict().items()
    }
