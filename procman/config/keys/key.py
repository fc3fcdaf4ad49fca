"""What a key is, and a table of keys. Which there are is said in the modules beside this one."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, TypeVar

from procman.config.problems import Code
from procman.config.values import Given, Type
from procman.core.spec import Kind

T = TypeVar("T")

# The kinds that can be written in a file.
KINDS = frozenset(Kind) - {Kind.POSTGRES}
# The kinds whose workers work in units, which is what limits are about.
WITH_UNITS = KINDS - {Kind.EXEC}


@dataclass(frozen=True, slots=True)
class Computed:
    """A default that depends on other things, in words for the reference; `procman.config.reader` finds it."""

    words: str


@dataclass(frozen=True, slots=True)
class Required:
    """No default: the table can't do without the key."""


REQUIRED = Required()


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key. ``field`` is its name in the specification, ``doc`` one line of the reference."""

    name: str
    type: Type[Any]
    doc: str
    field: str
    default: Any
    kinds: frozenset[Kind] = KINDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of keys; ``title`` as in its header."""

    title: str
    doc: str
    keys: tuple[Key, ...]


class Nested(Type[Any]):
    """A table in a table, which becomes an object of its own."""

    def __init__(self, table: Table, make: type[Any]) -> None:
        self.table = table
        self.make = make
        self.expected = "a table"

    def read(self, given: Given) -> Any:
        raise given.unexpected(Code.WRONG_TYPE, self.expected)

    def write(self, value: Any) -> str:
        raise TypeError(f"{self.table.title} is a table, which is written under its own header")


class Named(Type[T]):
    """A table of tables whose names are the user's own; or, for `read`, something that says the same in short.

    A value in the place of one of those tables is that of their key ``short``.
    """

    table: Table
    short: str

    @abstractmethod
    def make(self, given: Given, name: str, fields: dict[str, Any]) -> Any:
        """What one table comes to; raises `Wrong`."""

    @abstractmethod
    def collect(self, given: Given, made: dict[str, Any]) -> T:
        """What all of them come to; raises `Wrong`."""


def key(
    name: str, kept_as: Type[Any], doc: str, *, of: Any = None, default: Any = None, kinds: Any = KINDS, field: str = ""
) -> Key:
    """A key; its default is given, or that of the field of the class ``of``."""
    field = field or name
    if default is None and of is not None:
        default = next(one for one in dataclasses.fields(of) if one.name == field).default
        default = REQUIRED if default is dataclasses.MISSING else default
    return Key(name=name, type=kept_as, doc=doc, field=field, default=default, kinds=frozenset(kinds))
