"""One database as this process sees it: its connections, its caches, its registry."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.errors
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INERROR, TRANSACTION_STATUS_INTRANS

from procman.core.spec import SignalStore
from procman.db.connection import ConnectionPool, connect, execute
from procman.db.migrate import check, migrate
from procman.errors import DatabaseUnavailable
from procman.signaling import store, triggers
from procman.signaling.cache import Generations
from procman.signaling.hint import Hint, Recent
from procman.signaling.sequences import OdooStore
from procman.signaling.store import DigestStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from procman.core.spec import DatabaseSpec
    from procman.db.connection import Connection
    from procman.signaling.store import Fingerprints, Tag

log = logging.getLogger("procman.signaling")

_UNDEFINED = (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedFunction, psycopg2.errors.InvalidSchemaName)


def store_of(spec: DatabaseSpec | None) -> DigestStore | OdooStore:
    """Where invalidations are written and read."""
    return OdooStore() if spec is not None and spec.signaling is SignalStore.SEQUENCES else DigestStore()


class SharedRegistry:
    """The registry of this process, and what became of the last attempt to load a newer one."""

    def __init__(self) -> None:
        self.loaded: tuple[Tag, Any] | None = None
        self.failed: Tag | None = None
        self.failures = 0
        self.retry_at = 0.0
        self.lock = threading.RLock()


class Database:
    """Opened when it is first used; procman's schema is installed then."""

    def __init__(
        self,
        name: str,
        url: str,
        spec: DatabaseSpec,
        *,
        application_name: str,
        relaxed: float | None = None,
        hints: str | None = None,
        listen_url: str | None = None,
        install: bool = True,
    ) -> None:
        self.name = name
        self.url = url
        self._listen_url = listen_url or url
        self._isolation = spec.isolation
        self._store = store_of(spec)
        self._relaxed = relaxed
        self._hint = Hint(hints, name)
        self._recent: Recent | None = None
        self.generations = Generations()
        self.registry = SharedRegistry()
        self._application_name = application_name
        self._pool = ConnectionPool(
            url,
            application_name=application_name,
            most=spec.connections,
            idle_time=spec.connection_idle_time,
            lifetime=spec.connection_lifetime,
        )
        self._may_install = install
        self._migrated = False
        self._migrating = threading.Lock()

    def begin(self) -> tuple[Connection, Fingerprints]:
        """A connection in a new transaction, and the signals of its snapshot. Raises DatabaseUnavailable.

        Connections that died while they were idle are replaced: nothing had been done on them yet.
        """
        while True:
            connection = self._borrow()
            at, hint = monotonic(), self._hint.value
            try:
                signals = self._store.begin(connection, self._isolation)
            except _UNDEFINED:
                # The database has been made anew under its old name.
                execute(connection, "ROLLBACK")
                self._migrated = False
                self._store.forget()
                self._pool.give_back(connection)
            except DatabaseUnavailable:
                self._pool.give_back(connection)
                if not connection.used:
                    raise
            except BaseException:
                connection.close()
                self._pool.give_back(connection)
                raise
            else:
                if not connection.used:
                    self._revise(signals)
                self._recent = Recent(signals, at, hint)
                return connection, signals

    def recent_signals(self) -> Fingerprints | None:
        """Signals that may be believed without looking: none, unless the pool is relaxed.

        They are at most so many seconds old, and no worker of this daemon has invalidated anything since.
        """
        recent = self._recent
        if self._relaxed is None or recent is None or recent.hint != self._hint.value:
            return None
        return recent.signals if monotonic() - recent.at < self._relaxed else None

    def _revise(self, signals: Fingerprints) -> None:
        # A database that was restored from a backup has cut all its connections, and signals of the past.
        self.generations.revise(signals)
        loaded = self.registry.loaded
        if loaded is not None and signals.tag(store.REGISTRY).is_older(loaded[0]):
            self.registry.loaded = None

    def end(self, connection: Connection, signals: Fingerprints) -> None:
        """Take back a connection after its transaction; fold the deltas if they have become many."""
        if signals.deltas > store.FOLD_ABOVE and _is_idle(connection):
            self.fold(connection)
        self._pool.give_back(connection)

    def fold(self, connection: Connection) -> None:
        """Fold, if nobody else does. A failure is only noted: the next one will try."""
        try:
            store.fold(connection)
        except psycopg2.Error as error:
            log.debug("Database %s: signals not folded: %s", self.name, error)
            roll_back(connection)

    def signal(self, groups: Iterable[str]) -> None:
        """Signal, in a transaction that consists of nothing else."""
        groups = list(groups)
        with self.lend() as connection:
            if statement := self._store.within(connection, groups):
                execute(connection, statement)
            self._store.after(connection, groups)
        self._hint.change()

    def commit(self, connection: Connection, groups: Iterable[str]) -> None:
        """Commit the connection's transaction, and signal with it."""
        groups = list(groups)
        # In one message: signals cost no round trip, and no instant lies between them and COMMIT.
        statement = self._store.within(connection, groups) if groups else ""
        execute(connection, f"{statement}; COMMIT" if statement else "COMMIT")
        if groups:
            self._store.after(connection, groups)
            self._hint.change()

    @contextmanager
    def lend(self, *, bare: bool = False) -> Iterator[Connection]:
        """A connection in autocommit mode for the block; ``bare``: for what needs no tables of procman's."""
        connection = self._pool.borrow() if bare else self._borrow()
        try:
            yield connection
        finally:
            self._pool.give_back(connection)

    def connect(self) -> Connection:
        """A dedicated connection in autocommit mode, for LISTEN; the caller closes it."""
        connection = connect(self._listen_url, application_name=self._application_name)
        try:
            self._install(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._pool.close()

    def _borrow(self) -> Connection:
        connection = self._pool.borrow()
        try:
            self._install(connection)
        except BaseException:
            self._pool.give_back(connection)
            raise
        return connection

    def _install(self, connection: Connection) -> None:
        if not self._migrated:
            with self._migrating:
                if not self._migrated:
                    if self._may_install:
                        migrate(connection)
                        triggers.install(connection)
                    else:
                        check(connection)
                    self._migrated = True


def roll_back(connection: Connection) -> None:
    """End the transaction of the connection, or the connection if it is in no state for that."""
    status = connection.info.transaction_status
    if connection.closed or status == TRANSACTION_STATUS_IDLE:
        return
    if status not in (TRANSACTION_STATUS_INTRANS, TRANSACTION_STATUS_INERROR):
        # In the middle of a statement, as when a limit ended the unit: the server rolls back when we hang up.
        connection.close()
        return
    try:
        execute(connection, "ROLLBACK")
    except psycopg2.Error as error:
        log.debug("The connection is closed instead of rolled back: %s", error)
        connection.close()


def _is_idle(connection: Connection) -> bool:
    return not connection.closed and connection.info.transaction_status == TRANSACTION_STATUS_IDLE
