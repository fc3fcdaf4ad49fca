"""Writes a specification as the TOML that reads back to the same: what ``--print-config`` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from procman.config.addresses import EMBEDDED
from procman.config.keys import AUTH, DAEMON, DATABASE, POOL, Nested
from procman.config.rules import POSTGRES, is_dashboard
from procman.config.values import OrNone
from procman.core.spec import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from procman.config.keys import Key, Table
    from procman.core.spec import DaemonSpec, DatabaseSpec, PoolSpec


def render(spec: DaemonSpec) -> str:
    """The effective configuration, defaults included.

    Passwords in it are printed as they are, for it would not be the same configuration without them.
    """
    lines = [f"# The effective configuration of {printable(spec.source)}", ""]
    lines += ["[procman]", *_lines(DAEMON, None, spec), ""]
    if spec.auth is not None:
        lines += [f"[{AUTH.title}]", *_lines(AUTH, None, spec.auth), ""]
    if spec.database is not None:
        lines += ["[database]", *_database(spec.database), ""]
    for pool in spec.pools:
        if pool.kind is not Kind.POSTGRES and not is_dashboard(pool, spec):
            lines += [*_pool(pool, embedded=spec.database is not None and spec.database.embedded), ""]
    return "\n".join(lines)


def printable(text: str) -> str:
    """The text on one line, as a comment needs it."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _database(database: DatabaseSpec) -> Iterator[str]:
    for key in _written(DATABASE, None):
        value = EMBEDDED if key.name == "url" and database.embedded else getattr(database, key.field)
        yield f"{key.name} = {key.type.write(value)}"


def _pool(pool: PoolSpec, *, embedded: bool) -> Iterator[str]:
    yield f"[pools.{pool.name}]"
    nested = []
    for key in _written(POOL, pool.kind):
        value = _value(pool, key)
        if embedded and key.name == "depends_on":
            value = tuple(name for name in value if name != POSTGRES)
        if isinstance(key.type, Nested):
            nested += ["", f"[pools.{pool.name}.{key.name}]", *_lines(key.type.table, pool.kind, value)]
        elif value is not None or isinstance(key.type, OrNone):
            yield f"{key.name} = {key.type.write(value)}"
    yield from nested


def _value(pool: PoolSpec, key: Key) -> Any:
    """The field of the pool or of its work; None when the specification keeps it in another form (``env_file``)."""
    if key.field == "workers" and pool.scaling is not None:
        return pool.scaling
    return getattr(pool, key.field) if hasattr(pool, key.field) else getattr(pool.work, key.field, None)


def _lines(table: Table, kind: Kind | None, spec: Any) -> Iterator[str]:
    for key in _written(table, kind):
        value = getattr(spec, key.field)
        # None where a limit may be "none" is written; where there is no word for it, the key is left out.
        if not isinstance(key.type, Nested) and (value is not None or isinstance(key.type, OrNone)):
            yield f"{key.name} = {key.type.write(value)}"


def _written(table: Table, kind: Kind | None) -> Iterator[Key]:
    for key in table.keys:
        if kind is None or kind in key.kinds:
            yield key
