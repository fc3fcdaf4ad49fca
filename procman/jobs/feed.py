"""What the runner knows of one database's queue, and how it comes to know more.

Two connections: one listens, the other one asks and writes. What is to be looked at is collected - rows named by
notices, rows somebody wants to look at again, now and then all rows that are not done - and read in batches, so
that jobs can be started between any two of them. What is executed for it, the dialect knows.
"""

from __future__ import annotations

import logging
from collections import deque
from secrets import token_hex
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from procman.jobs.dialect import Row, Span
from procman.jobs.leadership import NOBODY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from procman.jobs.dialect import Dead, Dialect, Key, Offered, Rescued
    from procman.jobs.leadership import Standing

log = logging.getLogger("procman.jobs")

BATCH = 500
SWEEP_EVERY = 60.0
DEAF_SWEEP_EVERY = 5.0

_ALL = Span(0, 2**63 - 1)


class Found(NamedTuple):
    """A batch: rows, and keys that were looked for and are no longer there. ``told``: by notices, as they once were."""

    rows: list[Row]
    gone: list[Key]
    first_sweep: bool = False
    told: bool = False


class Feed:
    """One database. Methods that wait raise DatabaseUnavailable or psycopg2.Error when the connection is lost."""

    def __init__(self, database: str, dialect: Dialect, sweep_every: float = SWEEP_EVERY) -> None:
        self.database = database
        self.dialect = dialect
        self.swept = False
        self.sweep_every = sweep_every
        self._listening: Any = None
        self._asking: Any = None
        self._told: list[Row] = []  # new ones, by notices
        self._keys: set[Key] = set()
        self._spans: deque[Span] = deque()
        self._sweep: int | None = None  # the id up to which this sweep has come
        self._sweep_began = self._sweep_next = 0.0
        self._sweep_again = False
        self._seen: set[Key] = set()
        self._beats = ""
        self._heard = True
        self.deaf = False  # notices do not arrive

    # -- connections ---------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self._asking is not None

    def connect(self) -> None:
        """Connect, and listen."""
        self._asking = self.dialect.connect(self.database, listen=False)
        self._listening = self.dialect.connect(self.database, listen=True)
        self._heard, self.deaf, self._beats = True, False, f"procman_beat_{token_hex(8)}"
        with self._listening.cursor() as cr:
            cr.execute(f"LISTEN {self.dialect.notices}; LISTEN {self._beats}")

    def close(self) -> None:
        for connection in (self._listening, self._asking):
            if connection is not None:
                connection.close()
        self._listening = self._asking = None

    def fileno(self) -> int:
        return -1 if self._listening is None or self._listening.closed else int(self._listening.fileno())

    # -- who leads -----------------------------------------------------------------------------------------

    def claim(self) -> Standing:
        """Lead in this database, or go on leading, if that is possible now."""
        with self._listening.cursor() as listening, self._asking.cursor() as asking:
            return self.dialect.leadership.claim(listening, asking)

    def release(self) -> Standing:
        """Let another runner lead, at once."""
        with self._listening.cursor() as listening, self._asking.cursor() as asking:
            self.dialect.leadership.release(listening, asking)
        return NOBODY

    # -- reading -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Look at everything, from the beginning: what is committed after the look is notified."""
        self._told.clear()
        self._keys.clear()
        self._spans.clear()
        self.swept = False
        self._begin_sweep()

    @property
    def has_more(self) -> bool:
        """Whether `read` has something to do at once."""
        return bool(self._told or self._keys or self._spans or self._sweep is not None)

    @property
    def has_notices(self) -> bool:
        """Notices that came in with the answer to a statement are no longer in the socket: nothing would wake us."""
        return bool(self._listening.notifies)

    @property
    def deadline(self) -> float:
        """When there will be something to read without any notice."""
        return min(self._sweep_next, self._sweep_began + DEAF_SWEEP_EVERY) if self.deaf else self._sweep_next

    def look_at(self, keys: Iterable[Key]) -> None:
        """Read these rows again."""
        self._keys.update(keys)

    def take_notices(self) -> list[str]:
        """Note what the notices are about that have arrived; those that are about no rows are returned."""
        self._listening.poll()
        ours = self._asking.info.backend_pid
        others = []
        for notice in self._listening.notifies:
            if notice.channel == self._beats:
                self._heard = True
                continue
            about = self.dialect.understand(notice.payload) if notice.channel == self.dialect.notices else None
            if about is None:
                others.append(notice.payload if notice.channel == self.dialect.notices else notice.channel)
            elif notice.pid == ours:
                continue
            elif isinstance(about, Row):
                self._told.append(about)
            elif isinstance(about, Span):
                self._spans.append(about)
            else:
                self._keys.add(about)
        self._listening.notifies.clear()
        return others

    def read(self, known: Iterable[Key], failed_matter: Callable[[str], bool] | None) -> Found:
        """The next batch.

        ``known`` are the jobs that the scheduler has of this database; ``failed_matter`` tells whether the failed jobs
        of a channel hold up others, None: they do nowhere.
        """
        if not self.swept:
            # First what runs, which takes room, and then the oldest: so even at the start the order is nearly right.
            return self._read_sweep(known, failed_matter)
        if self._told:
            told, self._told = self._told, []
            return Found(told, [], told=True)
        if self._keys:
            return self.read_now([self._keys.pop() for _ in range(min(BATCH, len(self._keys)))])
        if self._spans:
            return self._read_span()
        if self._sweep is None and monotonic() >= self.deadline:
            self._begin_sweep()
        if self._sweep is not None:
            return self._read_sweep(known, failed_matter)
        return Found([], [])

    def read_now(self, keys: Sequence[Key]) -> Found:
        """These rows, before all others."""
        with self._asking.cursor() as cr:
            rows = self.dialect.by_key(cr, keys)
        return Found(rows, list(set(keys) - {row.key for row in rows}))

    def _read_span(self) -> Found:
        span = self._spans.popleft()
        with self._asking.cursor() as cr:
            rows = self.dialect.live(cr, span, BATCH)
        if len(rows) == BATCH and rows[-1].id < span.last:
            self._spans.appendleft(Span(rows[-1].id + 1, span.last))
        return Found(rows, [])

    def sweep(self) -> None:
        """Read all that matters again, soon, from the beginning."""
        self._sweep_next = 0.0
        self._sweep_again = True

    def _begin_sweep(self) -> None:
        self._sweep_again = False
        self._sweep_began = monotonic()
        self._sweep = _ALL.first
        self._seen = set()

    def _read_sweep(self, known: Iterable[Key], failed_matter: Callable[[str], bool] | None) -> Found:
        rows: list[Row] = []
        with self._asking.cursor() as cr:
            begin = _ALL.first if self._sweep is None else self._sweep
            if begin == _ALL.first:
                self.dialect.release(cr, None)
                rows += self.dialect.running(cr)
                if failed_matter is not None:
                    rows += self.dialect.failed(cr, failed_matter)
            live = self.dialect.live(cr, Span(begin, _ALL.last), BATCH)
        rows += live
        if self.swept:  # in the first one nothing is known but what it has read
            self._seen.update(row.key for row in rows)
        first_sweep = not self.swept
        if len(live) == BATCH:
            self._sweep = live[-1].id + 1
        else:
            self._end_sweep(known)
        return Found(rows, [], first_sweep)

    def _end_sweep(self, known: Iterable[Key]) -> None:
        if self.swept:
            # What is known and was not seen has become something else without a notice.
            self._keys.update(key for key in known if key not in self._seen)
            self._seen = set()
        self._sweep = None
        self.swept = True
        took = monotonic() - self._sweep_began
        self._sweep_next = 0.0 if self._sweep_again else monotonic() + max(self.sweep_every, 20 * took)

    def abandoned(self, keys: Sequence[Key]) -> dict[Key, datetime]:
        """Which of these jobs are started and worked on by nobody; with the tries that they are in."""
        with self._asking.cursor() as cr:
            return self.dialect.abandoned(cr, keys)

    def find(self, uuid: str) -> Key | None:
        """The key of the job of this uuid."""
        with self._asking.cursor() as cr:
            return self.dialect.find(cr, uuid)

    def resting(self) -> dict[tuple[str, str], int]:
        """How many jobs have failed, or wait for others, by channel and state."""
        with self._asking.cursor() as cr:
            return self.dialect.resting(cr)

    def paused(self) -> dict[str, bool]:
        """Channels that were paused, or set going, while everything runs."""
        with self._asking.cursor() as cr:
            return self.dialect.paused(cr)

    def beat(self) -> None:
        """Ask the connection that listens, and says nothing by itself, for a sign of life; and whether it hears."""
        with self._listening.cursor() as listening, self._asking.cursor() as asking:
            listening.execute("SELECT 1")
            deaf, self.deaf = self.deaf, not self._heard
            self._heard = False
            asking.execute("SELECT pg_notify(%s, '')", (self._beats,))
        if self.deaf and not deaf:
            # A pooler that gives each transaction another session takes LISTEN, and keeps to itself what comes of it.
            log.error(
                "Database %s: what is notified does not arrive, so that all rows are looked at every %g s. Is there a "
                "pooler before PostgreSQL? Then give [database] listen_url, which leads past it",
                self.database,
                DEAF_SWEEP_EVERY,
            )
        elif deaf and not self.deaf:
            log.info("Database %s: what is notified arrives (again)", self.database)

    # -- writing -------------------------------------------------------------------------------------------

    def offer(self, keys: Sequence[Key]) -> list[Offered]:
        """pending → enqueued; those that were pending and due."""
        with self._asking.cursor() as cr:
            return self.dialect.offer(cr, keys)

    def release_children(self, over: Sequence[Key]) -> None:
        """Whoever has waited for these jobs, and waits for nothing any more, is looked at."""
        with self._asking.cursor() as cr:
            self._keys.update(self.dialect.release(cr, over))

    def take_back(self, offers: Sequence[Offered]) -> None:
        """enqueued → pending."""
        with self._asking.cursor() as cr:
            self.dialect.take_back(cr, offers)

    def explain(self, key: Key, reason: str, text: str) -> None:
        """Say why the worker of a job has ended that was rescued."""
        with self._asking.cursor() as cr:
            self.dialect.explain(cr, key, reason, text)

    def rescue(self, dead: Sequence[Dead]) -> list[Rescued]:
        """started → pending or failed, unless somebody works on it."""
        with self._asking.cursor() as cr:
            return self.dialect.rescue(cr, dead)
