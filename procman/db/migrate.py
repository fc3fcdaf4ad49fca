"""procman's own schema in a database: versioned, installed and updated by whoever comes first.

Each file of ``migrations`` is run once, in the order of their names, and noted in ``procman.migration``. That a
file has been run is known by its name, so a hole in the numbers is filled later. For an administrator
``procmanctl db sql`` prints them all; with a role as its argument it also grants that role what procman needs.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import psycopg2.errors

from procman.db.connection import execute
from procman.errors import DatabaseSetupError

if TYPE_CHECKING:
    from procman.db.connection import Connection

# The first key of procman's advisory locks ("proc"), the second tells what is locked.
LOCK_CLASS = 0x70726F63
LOCK_MIGRATE = 1
LOCK_FOLD = 2

_REGISTER = "to_regclass('procman.migration')"
_SCHEMA = "CREATE SCHEMA procman;\n"
_TABLE = """\
CREATE TABLE procman.migration (
    name text PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);
"""


def migrate(connection: Connection) -> None:
    """Install or update the schema ``procman``; two short queries when it is up to date.

    The connection is in autocommit mode. Any number of processes may do so at once.
    Raises DatabaseSetupError when the role may not create it.
    """
    if not _missing(connection):
        return
    try:
        execute(connection, f"BEGIN; SELECT pg_advisory_xact_lock({LOCK_CLASS}, {LOCK_MIGRATE})")
        try:
            _apply(connection)
        except BaseException:
            if not connection.closed:
                execute(connection, "ROLLBACK")
            raise
        execute(connection, "COMMIT")
    except psycopg2.errors.InsufficientPrivilege as error:
        raise DatabaseSetupError(_hint(connection, error)) from error


def check(connection: Connection) -> None:
    """Raise DatabaseSetupError unless `migrate` would have nothing to do: for those who only look, or steer."""
    if missing := _missing(connection):
        what = (
            "it has no tables of procman's" if len(missing) == len(_migrations()) else f"it lacks {', '.join(missing)}"
        )
        raise DatabaseSetupError(
            f"{what}: workers make them when they begin, "
            "or an administrator does, by the script that `procmanctl db sql` prints"
        )


def sql(role: str | None = None) -> str:
    """Every migration as one script, which leaves a database as `migrate` does.

    An administrator who runs it owns the tables; it then gives ``role`` what procman needs.
    """
    parts = ["BEGIN;\n", _SCHEMA, _TABLE]
    for name, text in _migrations().items():
        parts += [text, f"INSERT INTO procman.migration (name) VALUES ('{name}');\n"]
    if role is not None:
        quoted = '"' + role.replace('"', '""') + '"'
        parts.append(f"GRANT USAGE ON SCHEMA procman TO {quoted};\n")
        parts += [f"GRANT ALL ON ALL {kind} IN SCHEMA procman TO {quoted};\n" for kind in ("TABLES", "SEQUENCES")]
    return "\n".join([*parts, "COMMIT;\n"])


def _apply(connection: Connection) -> None:
    # CREATE SCHEMA IF NOT EXISTS wants the privilege also where the schema exists, so it is not relied on.
    if not _is_there(connection, "to_regnamespace('procman')"):
        execute(connection, _SCHEMA)
    if not _is_there(connection, _REGISTER):
        execute(connection, _TABLE)
    # Asked again: what was missing may have been done by the one who held the lock before us.
    for name in _missing(connection):
        execute(connection, _migrations()[name])
        execute(connection, f"INSERT INTO procman.migration (name) VALUES ('{name}')")


def _missing(connection: Connection) -> list[str]:
    if not _is_there(connection, _REGISTER):
        return list(_migrations())
    applied = {name for (name,) in execute(connection, "SELECT name FROM procman.migration").fetchall()}
    return [name for name in _migrations() if name not in applied]


def _is_there(connection: Connection, what: str) -> bool:
    row = execute(connection, f"SELECT {what} IS NOT NULL").fetchone()
    return row is not None and bool(row[0])


@cache
def _migrations() -> dict[str, str]:
    """Name to text, in order."""
    files = [
        file for file in resources.files("procman.db").joinpath("migrations").iterdir() if file.name.endswith(".sql")
    ]
    return {file.name.removesuffix(".sql"): file.read_text("utf-8") for file in sorted(files, key=lambda f: f.name)}


def _hint(connection: Connection, error: psycopg2.Error) -> str:
    role, database = connection.info.user, connection.info.dbname
    return (
        f"role {role} may not install procman's schema in database {database} ({str(error).strip()}): have an "
        f'administrator run `CREATE SCHEMA procman AUTHORIZATION "{role}"` in it, '
        f"or the script that `procmanctl db sql {role}` prints"
    )
