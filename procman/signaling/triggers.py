"""Signals for changes that procman does not see: statement triggers on the application's own tables.

With them psql, a migration or another program invalidates as well, in its own transaction and without knowing
anything of caches. The trigger calls ``procman.signal`` (migration 0005_triggers) once for each statement.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any

import psycopg2

from procman.db.connection import execute
from procman.signaling.foreign import execute_in
from procman.signaling.store import check_public_group

if TYPE_CHECKING:
    from procman.db.connection import Connection

log = logging.getLogger("procman.signaling")

_LONGEST_NAME = 63 - len("procman_signal_")  # identifiers are cut at 63 bytes (PostgreSQL, 4.1.1)
_LOCK_PATIENCE = "2s"

_declared: dict[tuple[str, str], None] = {}


def signal_on_change(table: str, *, group: str, using: Any = None) -> None:
    """Invalidate ``group`` whenever a statement changes ``table``, whoever runs it, when its transaction commits.

    Called at import, it is seen to when the process first uses a database: in each one that has the table and where
    the role may change it, a statement trigger for INSERT, UPDATE, DELETE and TRUNCATE is made unless it is there.
    ``using`` as for `invalidate` makes it at once, in that transaction, as in a migration of the application.

    ``table`` is written as in SQL: ``product_price``, ``shop.price``, ``"Price"``. A statement on a single partition
    does not fire the triggers of its parent (CREATE TRIGGER): name the partitions too. Raises ValueError.
    """
    check_public_group(group)
    if not isinstance(table, str) or not table or "\0" in table or "\\" in table:
        raise ValueError(f"{table!r} is no name of a table")
    if using is None:
        _declared[table, group] = None
    else:
        execute_in(using, _statement(table, group))


def install(connection: Connection) -> None:
    """Make the declared triggers that are missing in this database. Failures are logged, and tried by the next process.

    The connection is in autocommit mode.
    """
    for table, group in _declared:
        try:
            if _is_missing(connection, table, group):
                _create(connection, table, group)
        except psycopg2.Error as error:
            log.warning(
                "Changes of %s in database %s do not invalidate %r: %s",
                table,
                connection.info.dbname,
                group,
                str(error).strip(),
            )


def _create(connection: Connection, table: str, group: str) -> None:
    # CREATE TRIGGER waits for everybody who writes to the table, and everybody then waits for it: not for long.
    execute(connection, f"BEGIN; SET LOCAL lock_timeout = '{_LOCK_PATIENCE}'")
    try:
        execute(connection, _statement(table, group))
    except BaseException:
        if not connection.closed:
            execute(connection, "ROLLBACK")
        raise
    execute(connection, "COMMIT")
    log.info("Changes of %s in database %s invalidate %r from now on", table, connection.info.dbname, group)


def _is_missing(connection: Connection, table: str, group: str) -> bool:
    """False also for a table that is not there: it may be another database's."""
    found = execute(
        connection,
        f"SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = relation AND tgname = {_literal(_name(group))}) "
        f"FROM to_regclass({_literal(table)}) AS relation WHERE relation IS NOT NULL",
    ).fetchone()
    return found is not None and not found[0]


def _statement(table: str, group: str) -> str:
    """Makes the trigger. It has no parameters, so that it runs through any driver whatever its parameter style."""
    head = f"CREATE OR REPLACE TRIGGER {_name(group)} AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON "
    tail = f" FOR EACH STATEMENT EXECUTE FUNCTION procman.signal({_literal(group)})"
    # By way of regclass, which reads the name as SQL does and writes it so that nothing but a table can be meant.
    name = f"CAST({_literal(table)} AS regclass)"
    body = f"BEGIN EXECUTE {_literal(head)} || {name} || {_literal(tail)}; END"
    return f"DO {_literal(body)}"


def _name(group: str) -> str:
    """The trigger's name, quoted where it must be: the group's own name when that is short and plain."""
    plain = group.isascii() and group.replace("_", "a").isalnum() and group == group.lower()
    if not plain or len(group) > _LONGEST_NAME:
        group = hashlib.md5(group.encode(), usedforsecurity=False).hexdigest()
    return f"procman_signal_{group}"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
