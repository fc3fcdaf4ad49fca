"""Reads a table of the file by its table of keys (`procman.config.keys`): typed, closed, everything wrong at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from procman.config.environment import Unknown
from procman.config.keys import CHANNEL, POOL, TABLES, Computed, Named, Nested, Required
from procman.config.problems import Code, Problem, Wrong, dotted, quoted, suggestion
from procman.config.values import Given

if TYPE_CHECKING:
    from procman.config.keys import Key, Table
    from procman.core.spec import Kind


def read_table(given: Given, table: Table, problems: list[Problem], kind: Kind | None = None) -> dict[str, Any]:
    """The fields of the specification that the table gives, defaults included; what is wrong is reported and left out.

    A pool whose ``kind`` is not known (None) is read as far as that is possible. A `Computed` default is left out too:
    the caller knows what it depends on.
    """
    if not isinstance(given.value, dict):
        problems += given.unexpected(Code.WRONG_TYPE, "a table").problems
        return {}
    keys = _keys_by_name(table, kind)
    fields: dict[str, Any] = {}
    for name, value in given.value.items():
        item = given.item(name, value)
        try:
            if name not in keys:
                raise _refusal(item, name, table, kind)
            if (key := keys[name]) is not None:
                _read_key(key, item, problems, kind, fields)
        except Wrong as wrong:
            problems += wrong.problems
    for name, key in keys.items():
        if name in given.value or key is None or isinstance(key.default, Computed):
            continue
        if not isinstance(key.default, Required):
            fields[key.field] = key.default
        elif kind is not None or table is not POOL or name == "kind":
            problems += given.wrong(Code.MISSING_KEY, f"{name} is missing: expected {key.type.expected}").problems
    return fields


def _keys_by_name(table: Table, kind: Kind | None) -> dict[str, Key | None]:
    """The keys that count. None: which one it would be depends on the kind, and that is not known."""
    keys: dict[str, Key | None] = {}
    for key in table.keys:
        if kind is None and table is POOL and key.name in keys:
            keys[key.name] = None
        elif kind is None or kind in key.kinds:
            keys[key.name] = key
    return keys


def _read_key(key: Key, given: Given, problems: list[Problem], kind: Kind | None, fields: dict[str, Any]) -> None:
    if isinstance(key.type, Nested):
        before = len(problems)
        values = read_table(given, key.type.table, problems, kind)
        if len(problems) == before:
            fields[key.field] = key.type.make(**values)
    elif _is_unknown(given.value):
        return
    elif isinstance(key.type, Named) and isinstance(given.value, dict):
        fields[key.field] = _read_named(given, key.type, problems)
    else:
        fields[key.field] = key.type.read(given)


def _read_named(given: Given, named: Named[Any], problems: list[Problem]) -> Any:
    """Raises `Wrong` with nothing in it when all that is wrong has been reported."""
    made: dict[str, Any] = {}
    before = len(problems)
    for name, value in given.value.items():
        item = given.item(name, value)
        table = item if isinstance(value, dict) else Given({named.short: value}, item.path, item.base)
        count = len(problems)
        read = read_table(table, named.table, problems)
        try:
            if len(problems) == count:
                made[name] = named.make(item, name, read)
        except Wrong as wrong:
            problems += wrong.problems
    if len(problems) > before:
        raise Wrong
    return named.collect(given, made)


def _is_unknown(value: Any) -> bool:
    """The value, or a part of it, could not be expanded, which has been reported."""
    match value:
        case dict():
            return any(_is_unknown(item) for item in value.values())
        case list():
            return any(_is_unknown(item) for item in value)
        case _:
            return isinstance(value, Unknown)


def _refusal(given: Given, name: str, table: Table, kind: Kind | None) -> Wrong:
    """There is no such key here."""
    if any(key.name == name for key in table.keys):
        return Wrong(Problem(Code.WRONG_KIND, given.path, f'kind "{kind}" takes no {name}', at_key=True))
    return Wrong(Problem(Code.UNKNOWN_KEY, given.path, f"unknown key{_meant(given, name, table, kind)}", at_key=True))


def _meant(given: Given, name: str, table: Table, kind: Kind | None) -> str:
    here = [key.name for key in table.keys if kind is None or kind in key.kinds]
    for other in TABLES:
        if other is not table and any(key.name == name and (not kind or kind in key.kinds) for key in other.keys):
            return f"; it belongs in [{_title(other, given, table)}]"
    if table is CHANNEL and not suggestion(name, here):
        return f"; a channel whose name has a dot is quoted: {quoted('.'.join(map(str, (*given.path[3:-1], name))))}"
    return suggestion(name, here)


def _title(other: Table, given: Given, table: Table) -> str:
    """The other table's header, with the name of the pool in whose table the key stands."""
    if other.title.startswith("pools.") and table.title.startswith("pools."):
        return other.title.replace("pools.NAME", dotted(given.path[:2]))
    return other.title
