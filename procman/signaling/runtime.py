"""This process's databases, and how its units begin."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg2

from procman.core.databases import Existing, discovers, select
from procman.core.spec import DatabaseSpec
from procman.db.connection import connect as connect_to
from procman.db.connection import database_name, execute, url_for
from procman.db.migrate import migrate
from procman.errors import NoDatabase
from procman.signaling import store, units
from procman.signaling.cache import shrink
from procman.signaling.database import Database, store_of
from procman.signaling.units import Meter, Unit, current

if TYPE_CHECKING:
    from collections.abc import Iterator

    from procman.db.connection import Connection, Cursor
    from procman.signaling.cache import Table
    from procman.signaling.memo import Cached

log = logging.getLogger("procman.signaling")

known_functions: list[Cached[..., Any]] = []

# What can be found: `template0`, `template1` and the like are nobody's, and `postgres` is for maintenance.
_DISCOVER = """\
SELECT datname, pg_get_userbyid(datdba) = current_user FROM pg_database \
WHERE datallowconn AND NOT datistemplate AND datname <> 'postgres' AND has_database_privilege(datname, 'CONNECT') \
ORDER BY datname"""

# Seconds for which a list of databases is believed; one that is not on it is looked for again, at most so often.
_LISTED_FOR = 10.0
_LOOK_AGAIN = 0.1


class Runtime:
    """What `configure` has set up."""

    def __init__(
        self,
        spec: DatabaseSpec | None,
        *,
        application_name: str,
        meter: Meter | None,
        relaxed: float | None,
        hints: str | None,
        install: bool,
    ) -> None:
        self.spec = spec
        self.meter = meter
        self.store = store_of(spec)
        self._relaxed = relaxed
        self._hints = hints
        self._install = install
        self.main = database_name(spec.url) if spec is not None else ""
        self._application_name = application_name
        self._databases: OrderedDict[str, Database] = OrderedDict()
        self._listed: tuple[tuple[str, ...], float] = ((), 0.0)
        self._lock = threading.Lock()

    def database(self, name: str | None) -> Database | None:
        """The database of that name, the main one for None; None when there is none at all.

        NoDatabase for a name that is not configured.
        """
        if self.spec is None:
            if name:
                raise NoDatabase(f"database {name!r}: no database is configured")
            return None
        name = name or self.main
        database = self._databases.get(name)
        if database is None:
            if name not in self.names() and name not in self.names(_LOOK_AGAIN):
                raise NoDatabase(f"database {name!r} is not among the configured ones")
            with self._lock:
                database = self._databases.setdefault(name, self._make(name))
        self._note_use(name)
        return database

    def _note_use(self, name: str) -> None:
        """Give up what is known of the database that has not been used for longest, when there are too many.

        Units that are in it go on: what they hold goes with the last of them.
        """
        if len(self._databases) == 1 or self.spec is None:
            return
        with self._lock:
            if name in self._databases:
                self._databases.move_to_end(name)
            while len(self._databases) > self.spec.registries:
                forgotten, database = self._databases.popitem(last=False)
                log.info("Database %s has not been used for longest: its registry and caches are given up", forgotten)
                database.close()

    def names(self, age: float = _LISTED_FOR) -> tuple[str, ...]:
        """The configured databases, the main one first.

        If they are to be discovered the server is asked, unless it was within the last ``age`` seconds.
        """
        if self.spec is None:
            return ()
        if not discovers(self.spec.databases):
            return tuple(dict.fromkeys((self.main, *self.spec.databases)))
        listed, at = self._listed
        if not listed or monotonic() - at >= age:
            found = select(self.spec.databases, self._discover())
            listed = tuple(dict.fromkeys((self.main, *found)))
            self._listed = listed, monotonic()
        return listed

    def opened(self) -> list[Database]:
        """The databases that have been used so far."""
        return list(self._databases.values())

    def close(self) -> None:
        for database in self.opened():
            database.close()

    def _make(self, name: str) -> Database:
        url = self.url(name)
        if self.spec is None:
            raise NoDatabase(f"database {name!r}: no database is configured")
        return Database(
            name,
            url,
            self.spec,
            application_name=self._application_name,
            relaxed=self._relaxed,
            hints=self._hints,
            listen_url=self.url(name, listen=True),
            install=self._install,
        )

    def url(self, name: str, *, listen: bool = False) -> str:
        """How to connect to it: to ``listen``, past the pooler if there is one."""
        if self.spec is None:
            raise NoDatabase(f"database {name!r}: no database is configured")
        url = self.spec.listen_url if listen and self.spec.listen_url else self.spec.url
        return url if name == self.main and url is self.spec.url else url_for(url, name)

    def open_session(self, name: str, *, listen: bool, install: bool) -> Connection:
        connection = connect_to(self.url(name, listen=listen), application_name=self._application_name)
        try:
            if install and not listen:
                migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _discover(self) -> list[Existing]:
        with self._lock:
            main = self._databases.setdefault(self.main, self._make(self.main))
        with main.lend(bare=True) as connection:
            return [Existing(*row) for row in execute(connection, _DISCOVER).fetchall()]


_runtime: Runtime | None = None


def configure(
    spec: DatabaseSpec | None,
    *,
    application_name: str = "procman",
    meter: Meter | None = None,
    relaxed: float | None = None,
    hints: str | None = None,
    install: bool = True,
) -> None:
    """Say which databases this process uses; once per process, after it was forked. Connects to nothing yet.

    With ``relaxed`` signals are believed for so many seconds; processes that do so share a directory for ``hints``.
    Without ``install`` a database that lacks procman's tables is left as it is: DatabaseSetupError when it is used.
    """
    global _runtime
    if _runtime is not None:
        _runtime.close()
    _runtime = Runtime(
        spec, application_name=application_name, meter=meter, relaxed=relaxed, hints=hints, install=install
    )


def _forget() -> None:
    """A forked child must not speak on its parent's connections: it starts without any."""
    global _runtime
    _runtime = None
    units.forget_current()


os.register_at_fork(after_in_child=_forget)


def _from_environment(url: str) -> DatabaseSpec:
    try:
        database_name(url)
    except psycopg2.ProgrammingError as error:
        raise NoDatabase(
            'PROCMAN_DATABASE_URL: expected a URI such as "postgresql://user@host/database", or libpq\'s "key=value"'
        ) from error
    return DatabaseSpec(url=url)


def _configured() -> Runtime:
    """The runtime; outside of procmand's workers it comes from PROCMAN_DATABASE_URL."""
    if _runtime is None:
        url = os.environ.get("PROCMAN_DATABASE_URL")
        configure(_from_environment(url) if url else None)
    if _runtime is None:
        raise RuntimeError("configure() has set nothing up")
    return _runtime


def begin(database: str | None = None) -> Unit:
    """Begin a unit, which becomes the current one; end it by its `commit` or `rollback`. Nothing is sent yet.

    Raises RuntimeError inside another unit, NoDatabase for a database that is not configured.
    """
    if current() is not None:
        raise RuntimeError("a unit can't begin inside another unit")
    runtime = _configured()
    unit = Unit(runtime.database(database), runtime.meter)
    units.make_current(unit)
    return unit


@contextmanager
def unit(database: str | None = None) -> Iterator[Unit]:
    """A unit for the block: committed when the block ends well, else rolled back."""
    begun = begin(database)
    try:
        yield begun
    except BaseException:
        begun.rollback()
        raise
    if not begun.ended:  # by a block that has decided itself
        begun.commit()


@contextmanager
def cursor(database: str | None = None) -> Iterator[Cursor]:
    """A cursor in the current unit's transaction; outside of units, in one of its own that commits at the end.

    The transaction is REPEATABLE READ. Nested blocks share it. Raises DatabaseUnavailable when the server is
    away, NoDatabase when none is configured, ValueError when the unit is in another database than asked for.
    """
    outer = current()
    if outer is None:
        with unit(database) as own, own.cursor() as cr:
            yield cr
        return
    if database is not None and database != outer.database:
        raise ValueError(f"the unit is in database {outer.database!r}, not in {database!r}")
    with outer.cursor() as cr:
        yield cr


@contextmanager
def lend(database: str | None = None) -> Iterator[Connection]:
    """A connection of the pool in autocommit mode for the block, beside the current unit if there is one.

    For procman's own statements that are transactions of their own: READ COMMITTED, one round trip.
    Raises DatabaseUnavailable, NoDatabase.
    """
    found = _configured().database(database)
    if found is None:
        raise NoDatabase("no database is configured")
    with found.lend() as connection:
        yield connection


def invalidate(*groups: str, using: Any = None) -> None:
    """What was cached in these groups is to be computed anew, in every process, from the commit of this unit on.

    Never if the unit rolls back. The unit itself sees its own changes at once. Outside of units it is a
    transaction of its own. ``using`` signals in another transaction instead: that of a DB-API cursor of any
    driver, or of a Connection or Session of SQLAlchemy.
    """
    for group in groups:
        store.check_public_group(group)
    if groups:
        signal(*groups, using=using)


def signal(*groups: str, using: Any = None) -> None:
    """`invalidate` for any group, also those that procman keeps for itself."""
    outer = current()
    if using is not None and not (outer is not None and outer.uses(getattr(using, "connection", None))):
        _configured().store.through(using, groups)
    elif outer is not None:
        outer.invalidate(*groups)
    else:
        with unit() as own:
            own.invalidate(*groups)


def tables() -> Iterator[tuple[Any, Table]]:
    """The values of each cached function, in each database that this process has used."""
    for database in _configured().opened():
        for generation in database.generations.current().values():
            yield from generation.tables().items()


def limit_caches() -> None:
    """Give up values when all of this process together have become too large."""
    spec = _configured().spec
    if spec is not None and spec.cache_size is not None:
        shrink((table for _, table in tables()), spec.cache_size)


def clear(function: Any) -> None:
    """Forget what this process has cached of the function."""
    for database in _configured().opened():
        for generation in database.generations.current().values():
            generation.clear(function)


def databases(*, now: bool = False) -> tuple[str, ...]:
    """The names of the configured databases, the main one first; empty without a database.

    Those that are discovered may have been so some seconds ago, unless they are to be as they are ``now``.
    """
    return _configured().names(0.0) if now else _configured().names()


def database_url(name: str) -> str:
    """How to connect to a configured database."""
    return _configured().url(name)


def connect(name: str) -> Connection:
    """A dedicated connection in autocommit mode, for LISTEN, with procman's schema there; the caller closes it."""
    database = _configured().database(name)
    if database is None:
        raise NoDatabase("no database is configured")
    return database.connect()


def open_session(name: str, *, listen: bool = False, install: bool = True) -> Connection:
    """A dedicated connection as `connect`, of a process that waits for many databases at once in one thread.

    So nothing is locked, and the name is not looked up among the configured ones. Without ``install`` the database is
    left as it is found. Raises DatabaseUnavailable.
    """
    return _configured().open_session(name, listen=listen, install=install)
