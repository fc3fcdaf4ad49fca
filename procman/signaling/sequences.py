"""Odoo's own signals, for sharing a database with an Odoo server: each notices the other's invalidations.

Three generations of them, told apart by what is in the database:

* up to 16: the sequences ``base_registry_signaling`` and ``base_cache_signaling``, one for all caches;
* 17 and 18.0: ``base_registry_signaling`` and a sequence ``base_cache_signaling_<name>`` for each cache;
* from 18.1: tables ``orm_signaling_registry`` and ``orm_signaling_<name>``, into which each signal inserts a row.

A group that is called like one of Odoo's caches shares that one's signal; every other one shares ``default``'s.

What this inherits, and procman's own store does not have: a sequence is no part of any transaction, so it is moved
on after the commit, as Odoo does it, and a process that is killed in between has invalidated nothing; and a reader
between the two reads what is stale. ``max(id)`` of a table does not tell commits that come in another order than
their ids, so a signal is inserted in the transaction, where it can't be lost, and once more after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from procman.db.connection import execute
from procman.errors import DatabaseSetupError
from procman.signaling.foreign import execute_in
from procman.signaling.store import REGISTRY, Tag

if TYPE_CHECKING:
    from collections.abc import Iterable

    from procman.core.spec import Isolation
    from procman.db.connection import Connection

_DEFAULT = "default"

# What Odoo empties besides the cache that a signal names.
_ALSO_EMPTIED_BY = {_DEFAULT: "stable", "templates": "groups"}

_FIND = """\
SELECT relname, relkind::text FROM pg_class WHERE pg_table_is_visible(oid) AND (\
relkind = 'S' AND (relname = 'base_registry_signaling' OR relname LIKE 'base\\_cache\\_signaling%') \
OR relkind = 'r' AND relname LIKE 'orm\\_signaling\\_%') ORDER BY relname"""


class OdooSignals:
    """The numbers of all signals as they were just before a transaction began."""

    deltas = 0

    def __init__(self, numbers: dict[str, int], *, epoch: int) -> None:
        self.epoch = epoch  # an Odoo that was upgraded to another kind of signals counts from one again
        self._numbers = numbers

    def tag(self, group: str) -> Tag:
        """The numbers that empty the group's cache: its own and, as a new registry starts empty, the registry's."""
        values = [self._numbers[name] for name in self._sources(group)]
        return Tag(self.epoch, sum(values), hash(tuple(values)))

    def _sources(self, group: str) -> list[str]:
        if group == REGISTRY:
            return [REGISTRY]
        name = group if group in self._numbers else _DEFAULT
        return [REGISTRY, *(each for each in (name, _ALSO_EMPTIED_BY.get(name)) if each in self._numbers)]


class _Layout(NamedTuple):
    """Where each signal is: its name here, and the sequence or table that it has there."""

    tables: bool
    relations: dict[str, str]


class OdooStore:
    """Reads and writes Odoo's signals in one database."""

    def __init__(self) -> None:
        self._layout: _Layout | None = None

    def begin(self, connection: Connection, isolation: Isolation) -> OdooSignals:
        """Read the signals, then begin a transaction. Raises DatabaseSetupError for a database without any.

        Before and not in it: a sequence tells what is newer than the transaction's snapshot, and data of before a
        signal must not be kept as if they were of after it.
        """
        layout = self._find(connection)
        number = (
            "SELECT coalesce(max(id), 0) FROM {}" if layout.tables else "SELECT last_value + is_called::int FROM {}"
        )
        columns = ", ".join(f"({number.format(relation)})" for relation in layout.relations.values())
        row = execute(connection, f"SELECT {columns}").fetchone()
        # The SELECT takes the snapshot, so that it is not taken later than the application thinks.
        execute(connection, f"BEGIN ISOLATION LEVEL {isolation.upper()}; SELECT 1")
        return OdooSignals(dict(zip(layout.relations, row or (), strict=True)), epoch=hash(layout.tables))

    def within(self, connection: Connection, groups: Iterable[str]) -> str:
        """The statement by which a transaction signals before it commits; "" when it can't."""
        layout = self._find(connection)
        return "; ".join(self._moves(layout, groups)) if layout.tables else ""

    def after(self, connection: Connection, groups: Iterable[str]) -> None:
        """Signal what has been committed."""
        execute(connection, "; ".join(self._moves(self._find(connection), groups)))

    def through(self, using: Any, groups: Iterable[str]) -> None:
        """Signal in a transaction of somebody else's: before its commit, of which nobody tells us.

        Whoever reads between the signal and the commit keeps what is stale; so did Odoo's own cron up to 19.0.
        """
        layout = _layout(dict(execute_in(using, _FIND)), "of this connection")
        for move in self._moves(layout, groups):
            execute_in(using, move)

    def forget(self) -> None:
        """The database is another one, or Odoo has been upgraded: look again."""
        self._layout = None

    @staticmethod
    def _moves(layout: _Layout, groups: Iterable[str]) -> list[str]:
        names = {group if group in layout.relations else _DEFAULT for group in groups}
        relations = sorted(layout.relations[name] for name in names)
        if layout.tables:
            return [f"INSERT INTO {relation} DEFAULT VALUES" for relation in relations]
        return [f"SELECT nextval('{relation}')" for relation in relations]

    def _find(self, connection: Connection) -> _Layout:
        if self._layout is None:
            self._layout = _layout(dict(execute(connection, _FIND).fetchall()), connection.info.dbname)
        return self._layout


def _layout(found: dict[str, str], database: str) -> _Layout:
    tables = {name.removeprefix("orm_signaling_"): name for name, kind in found.items() if kind == "r"}
    if "registry" in tables and _DEFAULT in tables:
        registry = tables.pop("registry")
        return _Layout(tables=True, relations={REGISTRY: _quoted(registry), **_all_quoted(tables)})
    prefix = "base_cache_signaling"
    caches = {
        name.removeprefix(prefix).removeprefix("_") or _DEFAULT: name for name in found if name.startswith(prefix)
    }
    if "base_registry_signaling" in found and _DEFAULT in caches:
        # A database that came from 16 to 17 may still have the one for all, which nobody moves on any more.
        caches[_DEFAULT] = f"{prefix}_default" if f"{prefix}_default" in found else prefix
        return _Layout(tables=False, relations={REGISTRY: "base_registry_signaling", **_all_quoted(caches)})
    raise DatabaseSetupError(
        f'database {database} has none of Odoo\'s signals, which `signaling = "sequences"` reads: expected '
        "the sequences base_registry_signaling and base_cache_signaling or base_cache_signaling_default, "
        "or the tables orm_signaling_registry and orm_signaling_default"
    )


def _all_quoted(relations: dict[str, str]) -> dict[str, str]:
    return {name: _quoted(relation) for name, relation in relations.items()}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
