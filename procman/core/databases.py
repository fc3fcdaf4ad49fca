"""Which databases a process serves: those that are named, and those that are found on the server."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

AUTO = "auto"  # in place of a name: every database that the role owns
NOT = "!"  # before a pattern: none of these
_WILD = "*?["


class Existing(NamedTuple):
    """A database on the server that the role may connect to."""

    name: str
    owned: bool


def is_name(entry: str) -> bool:
    """It names one database: it has no ``*``, ``?`` or ``[`` and no ``!``, and is not "auto"."""
    return entry != AUTO and not entry.startswith(NOT) and not any(character in entry for character in _WILD)


def discovers(entries: Iterable[str]) -> bool:
    """The server has to be asked which databases there are."""
    return not all(is_name(entry) for entry in entries)


def select(entries: Sequence[str], existing: Iterable[Existing]) -> list[str]:
    """The names that the entries mean: those named, and of the existing ones those that match and are not excluded."""
    names = [entry for entry in entries if is_name(entry)]
    excluded = [entry.removeprefix(NOT) for entry in entries if entry.startswith(NOT)]
    wanted = [entry for entry in entries if not is_name(entry) and not entry.startswith(NOT)]
    if excluded and not wanted:
        wanted = [AUTO]
    found = (database for database in existing if any(_means(entry, database) for entry in wanted))
    names += [each.name for each in found if not any(fnmatchcase(each.name, pattern) for pattern in excluded)]
    return list(dict.fromkeys(names))


def _means(entry: str, database: Existing) -> bool:
    return database.owned if entry == AUTO else fnmatchcase(database.name, entry)
