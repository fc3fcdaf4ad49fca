"""The unit: one transaction, opened when first needed, and the caches as that transaction may see them.

Life: made → opened (BEGIN and the signals, in one message) → committed or rolled back. A unit that is never
opened costs nothing and ends for free.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast
from weakref import WeakSet

import psycopg2.errors
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INERROR, TRANSACTION_STATUS_INTRANS

from procman.db.connection import execute
from procman.errors import NoDatabase
from procman.signaling import store
from procman.signaling.cache import MISSING, Generation
from procman.signaling.database import roll_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from procman.db.connection import Connection, Cursor
    from procman.signaling.database import Database
    from procman.signaling.store import Fingerprints, Tag

log = logging.getLogger("procman.signaling")

T = TypeVar("T")

_NEXT_SAVEPOINT = "RELEASE SAVEPOINT procman; SAVEPOINT procman"

_current: ContextVar[Unit | None] = ContextVar("procman_unit", default=None)


class Collected(list[T]):
    """What a unit has collected to be written just before its commit; ``write`` is called with all of it, if any.

    A savepoint that is rolled back takes back what came since.
    """

    def __init__(self, write: Callable[[Cursor, list[T]], None]) -> None:
        super().__init__()
        self._write = write

    def __call__(self, cursor: Cursor) -> None:
        if self:
            self._write(cursor, self)


class Meter(Protocol):
    """Who counts what units do: the worker's record on the scoreboard."""

    def query(self, seconds: float) -> None: ...
    def in_database(self, database: str) -> None: ...
    def cache(self, *, hit: bool) -> None: ...


def current() -> Unit | None:
    """The unit this thread or greenlet is in."""
    return _current.get()


def make_current(unit: Unit) -> None:
    """From here on this thread or greenlet is in the unit."""
    _current.set(unit)


def forget_current() -> None:
    """This thread or greenlet is in no unit, whatever its parent process was in."""
    _current.set(None)


def roll_back_leftover() -> None:
    """End the unit that this thread or greenlet is in, if any, after a limit has struck.

    It may strike in the instant in which the transaction has begun and nobody knows it yet.
    """
    if (leftover := current()) is not None:
        leftover.rollback()


class Unit:
    """One request, job, cron run or message. Ends by `commit` or `rollback`; both also make it no longer current."""

    def __init__(self, database: Database | None, meter: Meter | None) -> None:
        self.database = database.name if database is not None else ""
        self.queries = 0
        self.query_seconds = 0.0
        self.computing = 0  # depth of cached functions that are being computed
        self._database = database
        self._meter = meter
        self._connection: Connection | None = None
        self._signals: Fingerprints | None = None
        self._ended = False
        self._cursors: WeakSet[Cursor] = WeakSet()
        self._invalidated: set[str] = set()
        self._private: dict[str, Generation] = {}
        self._generations: dict[str, Generation] = {}
        self.registry: Any = MISSING  # the registry this unit has met: it does not change under its feet
        self._wrote = False
        self._clean_at = 0
        self._saved_at = -1  # queries that there had been when `next_savepoint` made one
        self._before_commit: list[Callable[[Cursor], None]] = []
        self._after_commit: list[Callable[[], None]] = []

    # -- what applications and workers use -----------------------------------------------------------------

    @property
    def opened(self) -> bool:
        """Whether the transaction has begun."""
        return self._connection is not None

    @property
    def ended(self) -> bool:
        """Whether it has been committed or rolled back."""
        return self._ended

    def cursor(self) -> Cursor:
        """A cursor in the unit's transaction, which is opened. Raises DatabaseUnavailable, NoDatabase."""
        cursor = cast("Cursor", self.connection().cursor())
        self._cursors.add(cursor)
        return cursor

    def invalidate(self, *groups: str) -> None:
        """Signal these groups when, and only if, the unit commits. Until then the unit bypasses their caches."""
        for group in groups:
            store.check_group(group)
        self._require_running()
        for group in groups:
            self._invalidated.add(group)
            self._private[group] = Generation(None)
        if store.REGISTRY in groups:
            self.registry = MISSING

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """A savepoint for the block: an exception takes back all that the unit has done since.

        Its invalidations and hooks too. UnitAborted and its like end the whole unit, so they undo nothing here.
        """
        connection = self.connection()
        execute(connection, "SAVEPOINT procman")
        before = self._position()
        try:
            yield
        except Exception:
            if not self._ended and not connection.closed:
                execute(connection, "ROLLBACK TO SAVEPOINT procman; RELEASE SAVEPOINT procman")
                self._rewind(*before)
            raise
        if not self._ended:
            execute(connection, "RELEASE SAVEPOINT procman")

    @contextmanager
    def next_savepoint(self) -> Iterator[None]:
        """`savepoint` for blocks that follow each other: a message for each, and none after one that sent nothing.

        A block that leaves an aborted transaction behind, and no exception, gets psycopg2's InFailedSqlTransaction.
        """
        connection = self.connection()
        if self._saved_at != self.queries:
            execute(connection, "SAVEPOINT procman" if self._saved_at < 0 else _NEXT_SAVEPOINT)
            self._saved_at = self.queries
        before = self._position()
        try:
            yield
            if not self._ended and connection.info.transaction_status == TRANSACTION_STATUS_INERROR:
                raise psycopg2.errors.InFailedSqlTransaction("an earlier error has aborted the transaction")
        except Exception:
            if not self._ended and not connection.closed:
                execute(connection, "ROLLBACK TO SAVEPOINT procman")
                self._rewind(*before)
                self._saved_at = self.queries
            raise

    def before_commit(self, hook: Callable[[Cursor], None]) -> None:
        """Call ``hook`` with a cursor of the transaction just before it commits; an exception rolls it back."""
        self._before_commit.append(hook)

    def after_commit(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` when the unit has been committed and is no longer current; exceptions are logged."""
        self._after_commit.append(hook)

    def commit(self) -> None:
        """Commit, with the signals in the same transaction.

        When it raises, the unit has been rolled back; if it raises DatabaseUnavailable, the connection was lost
        and nobody can know whether the commit came through. A transaction that an earlier statement has aborted
        raises psycopg2's InFailedSqlTransaction: PostgreSQL would answer COMMIT with a silent ROLLBACK.
        """
        self._require_running()
        try:
            self._run_before_commit()
            if self._connection is not None:
                self._commit_transaction(self._connection)
            elif self._invalidated:
                self.require_database().signal(sorted(self._invalidated))
        except BaseException:
            self.rollback()
            raise
        self._leave()
        for hook in self._after_commit:
            _call_after_commit(hook)

    def rollback(self) -> None:
        """Undo everything; never raises for a connection that is lost."""
        if self._connection is not None:
            roll_back(self._connection)
        self._leave()

    # -- what caches use -----------------------------------------------------------------------------------

    def connection(self) -> Connection:
        """The connection of the unit's transaction, which is opened."""
        return self._open()[0]

    def require_database(self) -> Database:
        """The database of the unit; NoDatabase when none is configured."""
        if self._database is None:
            raise NoDatabase("no database is configured: set `url` in [database], or PROCMAN_DATABASE_URL")
        return self._database

    def uses(self, connection: Any) -> bool:
        """Whether this is the connection of the unit's transaction."""
        return self._connection is not None and self._connection is connection

    def generation(self, group: str) -> Generation:
        """The generation whose values this unit may use: shared, or private once it invalidated the group."""
        private = self._private.get(group) if group in self._invalidated else None
        if private is not None:
            return private
        generation = self._generations.get(group)
        if generation is None:
            generation = self.require_database().generations.take(group, self.tag(group))
            self._generations[group] = generation
        return generation

    def own(self, group: str) -> Generation | None:
        """The values this unit keeps to itself, if there are any."""
        return self._private.get(group)

    def keep(self, group: str) -> Generation:
        """Where the unit puts values that only it may use."""
        return self._private.setdefault(group, Generation(None))

    def tag(self, group: str) -> Tag:
        """The group's fingerprint in the unit's snapshot; in a relaxed pool perhaps one of a moment before.

        What is computed in the snapshot may then be kept under an older tag than it deserves, never under a newer.
        """
        signals = self._signals
        if signals is None:
            self._require_running()
            signals = self.require_database().recent_signals()
        return (signals or self._open()[1]).tag(group)

    def has_invalidated(self, group: str) -> bool:
        return group in self._invalidated

    def is_clean(self) -> bool:
        """Whether the transaction has changed nothing so far: only then may others use what it computes.

        Otherwise a value could be computed from changes that are rolled back later.
        """
        if self._wrote or self._connection is None:
            return not self._wrote
        if self._clean_at != self.queries:
            self._wrote = not _has_no_xid(self._connection)
            self._clean_at = self.queries
        return not self._wrote

    def count_cache(self, *, hit: bool) -> None:
        if self._meter is not None:
            self._meter.cache(hit=hit)

    # -- savepoints ----------------------------------------------------------------------------------------

    def _position(self) -> tuple[frozenset[str], Any, list[int], int]:
        lengths = [len(hook) if isinstance(hook, Collected) else 0 for hook in self._before_commit]
        return frozenset(self._invalidated), self.registry, lengths, len(self._after_commit)

    def _rewind(self, invalidated: frozenset[str], registry: Any, lengths: list[int], after_commit: int) -> None:
        self._invalidated = set(invalidated)
        # Values computed since the savepoint may rest on changes that are undone.
        self._private = {group: Generation(None) for group in self._private}
        self.registry = registry
        known, since = self._before_commit[: len(lengths)], self._before_commit[len(lengths) :]
        for hook, length in zip(known, lengths, strict=True):
            if isinstance(hook, Collected):
                del hook[length:]
        for hook in since:
            if isinstance(hook, Collected):
                hook.clear()
        # One that collects stays: whoever made it goes on putting things into it.
        self._before_commit = [*known, *(hook for hook in since if isinstance(hook, Collected))]
        del self._after_commit[after_commit:]

    # -- the transaction -----------------------------------------------------------------------------------

    def _open(self) -> tuple[Connection, Fingerprints]:
        if self._connection is None or self._signals is None:
            self._require_running()
            self._connection, self._signals = self.require_database().begin()
            self._connection.observer = self._observe
            if self._meter is not None:
                self._meter.in_database(self.database)
        return self._connection, self._signals

    def _observe(self, cursor: Cursor, seconds: float) -> None:
        self.queries += 1
        self.query_seconds += seconds
        if self._meter is not None:
            self._meter.query(seconds)
        if self._private and b"rollback" in (cursor.query or b"").lower():
            # Perhaps back to a savepoint: values computed since then may rest on changes that are undone.
            self._private = {group: Generation(None) for group in self._private}

    def _run_before_commit(self) -> None:
        while self._before_commit:
            hooks, self._before_commit = self._before_commit, []
            for hook in hooks:
                with self.cursor() as cursor:
                    hook(cursor)

    def _commit_transaction(self, connection: Connection) -> None:
        status = connection.info.transaction_status
        if status == TRANSACTION_STATUS_INERROR:
            raise psycopg2.errors.InFailedSqlTransaction("an earlier error has aborted the unit's transaction")
        if status == TRANSACTION_STATUS_IDLE:
            log.warning("The application ended the transaction of its unit itself")
        self.require_database().commit(connection, sorted(self._invalidated))

    def _leave(self) -> None:
        self._ended = True
        if _current.get() is self:
            _current.set(None)
        for cursor in self._cursors:
            # Or it would go on speaking on a connection that may be another unit's by then.
            cursor.close()
        connection, self._connection = self._connection, None
        self._private.clear()
        self._generations.clear()
        if connection is not None and self._signals is not None:
            connection.observer = None
            self.require_database().end(connection, self._signals)

    def _require_running(self) -> None:
        if self._ended:
            raise RuntimeError("the unit has ended")


def _has_no_xid(connection: Connection) -> bool:
    # PostgreSQL gives a transaction an id at its first change of anything, in a savepoint or a function too.
    if connection.closed or connection.info.transaction_status != TRANSACTION_STATUS_INTRANS:
        return False
    row = execute(connection, "SELECT pg_current_xact_id_if_assigned() IS NULL").fetchone()
    return row is not None and bool(row[0])


def _call_after_commit(hook: Callable[[], None]) -> None:
    try:
        hook()
    except Exception:
        # A hook's boundary: the commit has happened, and nothing that fails now may look as if it had not.
        log.exception("after_commit hook %r failed", hook)
