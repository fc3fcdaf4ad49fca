"""What the runner knows of one database, and how it comes to know more.

Two connections: one listens, the other one asks and writes. What is to be looked at is collected - rows named by
notices, rows somebody wants to look at again, now and then all rows that are not done - and read in batches, so
that jobs can be started between any two of them.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg2

from procman import signaling
from procman.jobs import states
from procman.jobs.scheduler import PENDING, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from procman.jobs.states import Rescued

NOTIFY_CHANNEL = "procman_job"
BATCH = 500
SWEEP_EVERY = 60.0

_COLUMNS = """
    id, state, channel, priority, extract(epoch FROM date_created)::float8,
    extract(epoch FROM eta - clock_timestamp())::float8, date_enqueued, date_started
"""
_BY_ID = f"SELECT {_COLUMNS} FROM procman.job WHERE id = ANY(%s)"
_LIVE = f"""
    SELECT {_COLUMNS} FROM procman.job WHERE id BETWEEN %s AND %s AND phase = 'live'
    ORDER BY id LIMIT %s
"""
_RUNNING = f"SELECT {_COLUMNS} FROM procman.job WHERE phase = 'live' AND state IN ('enqueued', 'started')"
_FAILED_CHANNELS = "SELECT DISTINCT channel FROM procman.job WHERE phase = 'failed'"
_FAILED = f"SELECT {_COLUMNS} FROM procman.job WHERE phase = 'failed' AND channel = ANY(%s)"
# The lock is the executing worker's, and it is let go again at the end of this statement.
_ABANDONED = """
    SELECT id, date_started FROM procman.job WHERE id = ANY(%s) AND state = 'started' FOR NO KEY UPDATE SKIP LOCKED
"""

_ALL = (0, 2**63 - 1)


class Row(NamedTuple):
    """A job's row as it was read; ``wait`` is how long until its eta."""

    id: int
    state: str
    channel: str
    priority: int
    created: float
    wait: float | None
    date_enqueued: datetime | None
    date_started: datetime | None

    def job(self, database: str, now: float) -> Job:
        """As the scheduler wants it. Its clock is ours, and the difference is what PostgreSQL says."""
        eta = now + self.wait if self.wait is not None and self.wait > 0 and self.state == PENDING else 0.0
        return Job(self.priority, self.created, self.id, database, self.id, eta, self.channel, self.state)


class Found(NamedTuple):
    """A batch: rows, and ids that were looked for and are no longer there."""

    rows: list[Row]
    gone: list[int]
    first_sweep: bool = False


class Feed:
    """One database. All methods raise DatabaseUnavailable or psycopg2.Error when the connection is lost."""

    def __init__(self, database: str, sweep_every: float = SWEEP_EVERY) -> None:
        self.database = database
        self._sweep_every = sweep_every
        self._listening: Any = None
        self._asking: Any = None
        self._ids: set[int] = set()
        self._ranges: deque[tuple[int, int]] = deque()
        self._sweep: int | None = None  # the id up to which this sweep has come
        self._sweep_began = self._sweep_next = 0.0
        self._seen: set[int] = set()
        self.swept = False

    # -- connections ---------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self._asking is not None

    def connect(self) -> None:
        """Listen first, then look at everything: what is committed after the look is notified."""
        self._listening = signaling.connect(self.database)
        with self._listening.cursor() as cr:
            cr.execute(f"LISTEN {NOTIFY_CHANNEL}")
        self._asking = signaling.connect(self.database)
        with self._asking.cursor() as cr:
            # To lose "enqueued" in a crash does no harm, and "started", which a worker writes, is never lost before it:
            # the log is flushed in order (PostgreSQL, 28.4).
            cr.execute("SET synchronous_commit = off")
        self._ids.clear()
        self._ranges.clear()
        self.swept = False
        self._begin_sweep()

    def close(self) -> None:
        for connection in (self._listening, self._asking):
            if connection is not None:
                connection.close()
        self._listening = self._asking = None

    def fileno(self) -> int:
        return -1 if self._listening is None or self._listening.closed else int(self._listening.fileno())

    # -- reading -------------------------------------------------------------------------------------------

    @property
    def has_more(self) -> bool:
        """Whether `read` has something to do at once."""
        # Notices that came in with the answer to a statement are no longer in the socket: nothing would wake us.
        return bool(self._ids or self._ranges or self._sweep is not None or self._listening.notifies)

    @property
    def deadline(self) -> float:
        """When there will be something to read without any notice."""
        return self._sweep_next

    def look_at(self, ids: Iterable[int]) -> None:
        """Read these rows again."""
        self._ids.update(ids)

    def take_notices(self) -> None:
        """Note what the notices are about that have arrived."""
        self._listening.poll()
        ours = self._asking.info.backend_pid
        for notice in self._listening.notifies:
            first, _, last = notice.payload.partition(" ")
            if notice.pid == ours or not (first.isdigit() and last.isdigit()):
                continue
            if first == last:
                self._ids.add(int(first))
            else:
                self._ranges.append((int(first), int(last)))
        self._listening.notifies.clear()

    def read(self, known: Iterable[Job], failed_matter: Callable[[str], bool] | None) -> Found:
        """The next batch.

        ``known`` is what the scheduler has of this database; ``failed_matter`` tells whether the failed jobs of a
        channel hold up others, None: they do nowhere.
        """
        if not self.swept:
            # First what runs, which takes room, and then the oldest: so even at the start the order is nearly right.
            return self._read_sweep(known, failed_matter)
        if self._ids:
            return self._read_ids()
        if self._ranges:
            return self._read_range()
        if self._sweep is None and monotonic() >= self._sweep_next:
            self._begin_sweep()
        if self._sweep is not None:
            return self._read_sweep(known, failed_matter)
        return Found([], [])

    def read_now(self, ids: Sequence[int]) -> Found:
        """These rows, before all others."""
        rows = self._rows(_BY_ID, list(ids))
        return Found(rows, list(set(ids) - {row.id for row in rows}))

    def _read_ids(self) -> Found:
        return self.read_now([self._ids.pop() for _ in range(min(BATCH, len(self._ids)))])

    def _read_range(self) -> Found:
        first, last = self._ranges.popleft()
        rows = self._rows(_LIVE, first, last, BATCH)
        if len(rows) == BATCH and rows[-1].id < last:
            self._ranges.appendleft((rows[-1].id + 1, last))
        return Found(rows, [])

    def _begin_sweep(self) -> None:
        self._sweep_began = monotonic()
        self._sweep = _ALL[0]
        self._seen = set()

    def _read_sweep(self, known: Iterable[Job], failed_matter: Callable[[str], bool] | None) -> Found:
        rows: list[Row] = []
        if self._sweep == _ALL[0]:
            with self._listening.cursor() as cr:
                cr.execute("SELECT 1")  # or a connection that died in silence would stay deaf
            rows = self._rows(_RUNNING)
            if failed_matter is not None:
                channels = [channel for (channel,) in self._query(_FAILED_CHANNELS) if failed_matter(channel)]
                rows += self._rows(_FAILED, channels)
        live = self._rows(_LIVE, self._sweep, _ALL[1], BATCH)
        rows += live
        self._seen.update(row.id for row in rows)
        first_sweep = not self.swept
        if len(live) == BATCH:
            self._sweep = live[-1].id + 1
        else:
            self._end_sweep(known)
        return Found(rows, [], first_sweep)

    def _end_sweep(self, known: Iterable[Job]) -> None:
        # What is known and was not seen has become something else without a notice.
        self._ids.update(job.id for job in known if job.id not in self._seen)
        self._seen = set()
        self._sweep = None
        self.swept = True
        took = monotonic() - self._sweep_began
        self._sweep_next = monotonic() + max(self._sweep_every, 20 * took)

    def abandoned(self, ids: Sequence[int]) -> dict[int, datetime]:
        """Which of these jobs are started and worked on by nobody; with the tries that they are in."""
        return dict(self._query(_ABANDONED, list(ids)))

    # -- writing -------------------------------------------------------------------------------------------

    def offer(self, ids: Sequence[int]) -> list[tuple[int, str, datetime]]:
        """pending → enqueued; id, uuid and date_enqueued of those that were pending and due."""
        with self._asking.cursor() as cr:
            return states.offer(cr, ids)

    def take_back(self, ids: Sequence[int]) -> None:
        """enqueued → pending."""
        with self._asking.cursor() as cr:
            states.take_back(cr, ids)

    def rescue(self, attempts: Sequence[tuple[int, datetime]]) -> list[Rescued]:
        """started → pending or failed, unless somebody works on it. An equal job may be in the way: then later."""
        with self._asking.cursor() as cr:
            try:
                return states.rescue(cr, attempts)
            except psycopg2.errors.UniqueViolation:
                return []

    def explain(self, id: int, reason: str, text: str) -> None:  # noqa: A002
        """Say in the row of a job that was found dead why its worker was killed."""
        with self._asking.cursor() as cr:
            states.explain(cr, id, reason, text)

    def _rows(self, statement: str, *parameters: Any) -> list[Row]:
        return [Row(*row) for row in self._query(statement, *parameters)]

    def _query(self, statement: str, *parameters: Any) -> list[Any]:
        with self._asking.cursor() as cr:
            cr.execute(statement, parameters)
            return list(cr.fetchall())
