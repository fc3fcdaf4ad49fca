"""Connections to PostgreSQL: opened, counted, pooled, and honest about a server that went away.

Nothing here assumes that libpq blocks: a gevent worker installs psycopg2's wait callback, and then every
call yields to other greenlets. Locks come from `threading`, which gevent patches.
"""

from __future__ import annotations

import getpass
import os
import threading
from select import POLLIN, poll
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.extensions
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, make_dsn, parse_dsn

from procman.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECT_SECONDS = 5
SUSPECT_AFTER = 60.0  # a connection idle for longer is asked for a sign of life before it is used
CHECK_CLIENT_EVERY = 200  # milliseconds between looks of the server, during a statement, whether we are still there
PATIENCE = 10.0  # how long `ConnectionPool.borrow` waits for one of its connections to come back

# libpq's names (PostgreSQL, 32.1.2). A dead peer is noticed after 30 + 3 * 10 seconds, and data that is not
# acknowledged after 30: without these a lost network is noticed after two hours.
_DEFAULTS = {
    "client_encoding": "UTF8",  # else the database's own, and a str may have no form in it
    "connect_timeout": CONNECT_SECONDS,
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}

# The same the other way round, for the server: a dead machine is noticed after 5 + 3 * 3 seconds.
SERVER_KEEPALIVES = {
    "tcp_keepalives_idle": 5,
    "tcp_keepalives_interval": 3,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": 14_000,
}

# SQLSTATE classes and codes that say: not this statement is wrong, the server is away (PostgreSQL, appendix A).
_AWAY = ("08", "57P01", "57P02", "57P03", "57P05")


class ServerAway(DatabaseUnavailable, psycopg2.OperationalError):
    """The connection was lost. It is psycopg2's own error too, for an application that expects that one."""


class Connection(psycopg2.extensions.connection):
    """psycopg2's connection; ``observer`` is called after each of the application's statements."""

    observer: Callable[[Cursor, float], None] | None = None
    opened_at: float = 0.0
    idle_since: float = 0.0
    used: bool = False
    thread: int = 0  # which has borrowed it last, by threading.get_ident()

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """psycopg2's; raises ServerAway when the connection was lost."""
        try:
            return super().cursor(*args, **kwargs)
        except psycopg2.InterfaceError as error:
            if self.closed:
                raise ServerAway("the connection to PostgreSQL is lost") from error
            raise


class Cursor(psycopg2.extensions.cursor):
    """psycopg2's cursor; reports each statement to the connection's observer and a lost server as `ServerAway`."""

    def execute(self, query: Any, vars: Any = None) -> None:  # noqa: A002 - psycopg2's name for it
        self._observed(super().execute, query, vars)

    def executemany(self, query: Any, vars_list: Any) -> None:
        self._observed(super().executemany, query, vars_list)

    def callproc(self, procname: Any, parameters: Any = None) -> None:
        self._observed(super().callproc, procname, parameters)

    def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> None:
        self._observed(super().copy_expert, sql, file, size)

    def copy_from(self, *args: Any, **kwargs: Any) -> None:
        self._observed(super().copy_from, *args, **kwargs)

    def copy_to(self, *args: Any, **kwargs: Any) -> None:
        self._observed(super().copy_to, *args, **kwargs)

    def _observed(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        started = perf_counter()
        try:
            call(*args, **kwargs)
        except psycopg2.Error as error:
            if is_away(error, self.connection):
                raise ServerAway(in_short(error)) from error
            raise
        finally:
            observer = getattr(self.connection, "observer", None)
            if observer is not None:
                observer(self, perf_counter() - started)


def connect(url: str, *, application_name: str = "procman", autocommit: bool = True) -> Connection:
    """Open a connection to ``url``, a libpq URI or ``key=value`` string, whose own settings win over ours.

    Raises DatabaseUnavailable when it can't be had.
    """
    given = parse_dsn(url)
    ours = {"application_name": application_name, **_DEFAULTS}
    dsn = make_dsn(url, **{name: value for name, value in ours.items() if name not in given})
    try:
        connection: Connection = psycopg2.connect(dsn, connection_factory=Connection, cursor_factory=Cursor)
    except psycopg2.OperationalError as error:
        raise ServerAway(f"PostgreSQL can't be reached: {in_short(error)}") from error
    connection.autocommit = True
    if "client_connection_check_interval" not in dsn:
        _have_the_end_noticed(connection)
    connection.autocommit = autocommit
    return connection


def _have_the_end_noticed(connection: Connection) -> None:
    # Else a statement of a process that was killed runs to its end (PostgreSQL, 20.3.3, which needs 14 for it), and
    # what a machine had locked that was switched off stays so for two hours (20.3.2). Set by a statement: as an option
    # of the connection, poolers would refuse it.
    wishes = [f"SET {name} = {value}" for name, value in SERVER_KEEPALIVES.items()]
    if connection.info.server_version >= 140000:
        wishes.append(f"SET client_connection_check_interval = {CHECK_CLIENT_EVERY}")
    try:
        execute(connection, "; ".join(wishes))
    except psycopg2.Error as error:
        if is_away(error, connection):
            connection.close()
            raise ServerAway(f"PostgreSQL can't be reached: {in_short(error)}") from error


def execute(connection: Connection, statement: str) -> psycopg2.extensions.cursor:
    """Run a statement of our own, not counted as the application's; returns its cursor. Raises ServerAway."""
    cursor: psycopg2.extensions.cursor = connection.cursor(cursor_factory=psycopg2.extensions.cursor)
    try:
        cursor.execute(statement)
    except psycopg2.Error as error:
        if is_away(error, connection):
            raise ServerAway(in_short(error)) from error
        raise
    return cursor


def in_short(error: BaseException) -> str:
    """What libpq says of a connection, for one line of a log: without its guesses at the reason.

    There is one line for each address that was tried; the indented ones guess ("Is the server running locally …?").
    """
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    return "; ".join(lines) or "the connection to PostgreSQL is lost"


def is_away(error: psycopg2.Error, connection: psycopg2.extensions.connection) -> bool:
    """Whether the error means that the server, or the connection to it, is gone."""
    return bool(connection.closed) or (error.pgcode or "").startswith(_AWAY)


def url_for(url: str, database: str) -> str:
    """The same server, the same settings, another database; as a ``key=value`` string."""
    return str(make_dsn(**{**parse_dsn(url), "dbname": database}))


def database_name(url: str) -> str:
    """The database that libpq would open for ``url`` (PostgreSQL, 32.1.2 and 32.15)."""
    given = parse_dsn(url)
    named = given.get("dbname") or os.environ.get("PGDATABASE") or given.get("user") or os.environ.get("PGUSER")
    return named or getpass.getuser()


class ConnectionPool:
    """The connections of this process to one database: at most ``most``, the one used last is taken first.

    So those that a calm hour does not need stay idle at the bottom, and are closed after ``idle_time`` seconds; one
    that is older than ``lifetime`` seconds is closed when it comes back (None: never). Both are looked at when
    connections come and go, so that an idle process need not wake up for them. All connections are in autocommit
    mode: who borrows one begins and ends transactions by statements.
    """

    def __init__(
        self,
        url: str,
        *,
        application_name: str = "procman",
        most: int = 8,
        patience: float = PATIENCE,
        idle_time: float | None = None,
        lifetime: float | None = None,
    ) -> None:
        self.url = url
        self._application_name = application_name
        self._patience = patience
        self._idle_time = idle_time
        self._lifetime = lifetime
        self._idle: list[Connection] = []
        self._room = threading.BoundedSemaphore(most)

    def borrow(self) -> Connection:
        """A connection that seems alive; give it back with `give_back`.

        ``connection.used`` tells whether it comes from the pool: then the server may have gone meanwhile, which
        shows at its first statement. Raises DatabaseUnavailable.
        """
        if not self._room.acquire(timeout=self._patience):
            raise DatabaseUnavailable(f"all connections of this process are busy, for {self._patience:g} s by now")
        try:
            while self._idle:
                connection = self._idle.pop()
                if _seems_alive(connection):
                    connection.used = True
                    connection.thread = threading.get_ident()
                    return connection
                connection.close()
            connection = connect(self.url, application_name=self._application_name)
            connection.opened_at = monotonic()
            connection.thread = threading.get_ident()
            return connection
        except BaseException:
            self._room.release()
            raise

    def give_back(self, connection: Connection) -> None:
        """Take it back; one that is broken, or still in a transaction, is closed."""
        connection.observer = None
        now = monotonic()
        idle = not connection.closed and connection.info.transaction_status == TRANSACTION_STATUS_IDLE
        if idle and (self._lifetime is None or now - connection.opened_at < self._lifetime):
            connection.idle_since = now
            self._idle.append(connection)
            self._thin_out(now)
        else:
            connection.close()
        self._room.release()

    def _thin_out(self, now: float) -> None:
        while self._idle_time is not None and self._idle and now - self._idle[0].idle_since >= self._idle_time:
            try:
                self._idle.pop(0).close()
            except IndexError:
                return  # another thread has just borrowed it

    def close(self) -> None:
        """Close the idle ones; borrowed ones are closed by their borrowers or with the process."""
        while self._idle:
            self._idle.pop().close()


def _seems_alive(connection: Connection) -> bool:
    # An idle connection has nothing to read but its end, or the notice of it: seen without asking the server.
    watch = poll()
    watch.register(connection.fileno(), POLLIN)  # the default would be told that it is writable
    if any(events for _, events in watch.poll(0)):
        return False
    if monotonic() - connection.idle_since < SUSPECT_AFTER:
        return True
    try:
        execute(connection, "SELECT 1")
    except psycopg2.Error:
        return False
    return True
