"""procman's own queue, the table ``procman.job``, as the runner reads and moves it.

The moves are those of `procman.jobs.states`; the one that starts a job is tied to the lease as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg2.errors

from procman import signaling
from procman.jobs import states, steering, vacuum
from procman.jobs.dialect import Dead, Dialect, Key, Offered, Rescued, Row, Span
from procman.jobs.leadership import CHANNEL as LEADER_CHANNEL
from procman.jobs.leadership import Lease
from procman.jobs.scheduler import PENDING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from procman.jobs.vacuum import Ages

NOTIFY_CHANNEL = "procman_job"
_TOLD = 3  # priority, moment of creation and channel of a job that came alone
DATABASES_CHANNEL = "procman_databases"  # notified by who has made one, or knows that one has been made

_COLUMNS = """
    id, id, state, channel, priority, extract(epoch FROM date_created)::float8,
    extract(epoch FROM eta - clock_timestamp())::float8, date_enqueued, date_started, worker_host, worker_pid
"""
# Who has been tried before is tried alone: one that kills its worker is not to take the others' tries with it for ever.
_BATCH = "CASE attempt WHEN 0 THEN coalesce(batch, 0) ELSE 0 END"
_AWAITED = "EXISTS (SELECT FROM procman.job_dependency WHERE parent = job.id)"
_TIMES = """
    CASE WHEN attempt = 1 THEN extract(epoch FROM date_started - greatest(date_created, eta))::float8 END, exec_time
"""
_BY_KEY = f"SELECT {_COLUMNS}, {_AWAITED}, {_BATCH}, {_TIMES} FROM procman.job WHERE id = ANY(%s)"
_RESTING = """
    SELECT channel, 'failed', count(*) FROM procman.job WHERE phase = 'failed' GROUP BY channel
    UNION ALL
    SELECT channel, 'wait_dependencies', count(*) FROM procman.job WHERE phase = 'waiting' GROUP BY channel
"""
_LIVE = f"""
    SELECT {_COLUMNS}, false, {_BATCH} FROM procman.job
    WHERE id BETWEEN %s AND %s AND phase = 'live' ORDER BY id LIMIT %s
"""
_RUNNING = f"SELECT {_COLUMNS} FROM procman.job WHERE phase = 'live' AND state IN ('enqueued', 'started')"
_FAILED_CHANNELS = "SELECT DISTINCT channel FROM procman.job WHERE phase = 'failed'"
_FAILED = f"SELECT {_COLUMNS} FROM procman.job WHERE phase = 'failed' AND channel = ANY(%s)"
_PAUSED = "SELECT name, paused FROM procman.job_channel"
# The lock is the executing worker's, and it is let go again at the end of this statement.
_ABANDONED = """
    SELECT id, date_started FROM procman.job WHERE id = ANY(%s) AND state = 'started' FOR NO KEY UPDATE SKIP LOCKED
"""


class Tables(Dialect):
    """``worker`` is the name of this one, for people."""

    name = "procman"
    notices = NOTIFY_CHANNEL
    settings = "channels"

    def __init__(self, worker: str = "") -> None:
        self.leadership = self._lease = Lease(worker)

    def connect(self, database: str, *, listen: bool) -> Any:
        connection = signaling.open_session(database, listen=listen)
        with connection.cursor() as cr:
            if listen:
                cr.execute(f"LISTEN {LEADER_CHANNEL}; LISTEN {DATABASES_CHANNEL}")
            else:
                # To lose "enqueued" in a crash does no harm, and "started", which a worker writes, is never lost before
                # it: the log is flushed in order (PostgreSQL, 28.4).
                cr.execute("SET synchronous_commit = off")
        return connection

    def fields(self, database: str) -> str:
        return ""

    def understand(self, payload: str) -> Span | Row | Key | None:
        numbers, told = payload.split(" ", 4)[:2], payload.split(" ", 4)[2:]
        if len(numbers) < 2 or not all(number.isdigit() for number in numbers):
            return None
        first, last = map(int, numbers)
        if first != last:
            return Span(first, last)
        if len(told) < _TOLD:
            return first
        priority, created, channel = told
        return Row(first, first, PENDING, channel, int(priority), float(created), None, None, None, None, None)

    def by_key(self, cr: Any, keys: Sequence[Key]) -> list[Row]:
        return _rows(cr, _BY_KEY, list(keys))

    def live(self, cr: Any, span: Span, most: int) -> list[Row]:
        return _rows(cr, _LIVE, *span, most)

    def running(self, cr: Any) -> list[Row]:
        return _rows(cr, _RUNNING)

    def failed(self, cr: Any, matters: Callable[[str], bool]) -> list[Row]:
        cr.execute(_FAILED_CHANNELS)
        return _rows(cr, _FAILED, [channel for (channel,) in cr.fetchall() if matters(channel)])

    def paused(self, cr: Any) -> dict[str, bool]:
        cr.execute(_PAUSED)
        return dict(cr.fetchall())

    def find(self, cr: Any, uuid: str) -> Key | None:
        cr.execute("SELECT id FROM procman.job WHERE uuid = %s", (uuid,))
        row = cr.fetchone()
        return None if row is None else int(row[0])

    def resting(self, cr: Any) -> dict[tuple[str, str], int]:
        cr.execute(_RESTING)
        return {(channel, state): jobs for channel, state, jobs in cr.fetchall()}

    def abandoned(self, cr: Any, keys: Sequence[Key]) -> dict[Key, datetime]:
        cr.execute(_ABANDONED, (list(keys),))
        return dict(cr.fetchall())

    def release(self, cr: Any, over: Sequence[Key] | None) -> list[Key]:
        moved = steering.release_all(cr) if over is None else steering.release(cr, [int(key) for key in over])
        return [each.id for each in moved]

    def offer(self, cr: Any, keys: Sequence[Key]) -> list[Offered]:
        return [Offered(*job) for job in states.offer(cr, keys, self._lease.token)]

    def take_back(self, cr: Any, offers: Sequence[Offered]) -> None:
        states.take_back(cr, [(offer.key, offer.at) for offer in offers])

    def rescue(self, cr: Any, dead: Sequence[Dead]) -> list[Rescued]:
        try:
            rescued = states.rescue(cr, [(each.key, each.try_of) for each in dead])
        except psycopg2.errors.UniqueViolation:
            return []  # an equal job has come to wait in this very moment: then later
        known = {each.key: each for each in dead}
        for job in rescued:
            if (reason := known[job.id].reason) is not None:
                self.explain(cr, job.id, reason, known[job.id].text or "")
        return [Rescued(*job) for job in rescued]

    def explain(self, cr: Any, key: Key, reason: str, text: str) -> None:
        states.explain(cr, int(key), reason, text)

    def forget(self, cr: Any, ages: Ages) -> bool:
        return vacuum.forget(cr, ages)


def _rows(cr: Any, statement: str, *parameters: Any) -> list[Row]:
    cr.execute(statement, parameters)
    return [Row(*row) for row in cr.fetchall()]
