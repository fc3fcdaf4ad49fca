"""What one image of the daemon leaves to the next: the state of the arbiter as plain JSON values, and back.

Two rules. The two images may be of different versions, in either order (an upgrade is taken back by another one):
what a reader does not know it ignores, what is missing keeps its default, and only what it can't do without, or can't
understand, is an error. And nothing may be forgotten: every field is handed over unless it is named in `DERIVED`,
with the reason; a test compares both with the classes as they are.

A specification is written once, into a table, however many workers have it.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from procman.core import codec
from procman.core.arbiter import Arbiter
from procman.core.event import Haste
from procman.core.hooks import Run
from procman.core.pool import Pool, Template
from procman.core.restart import Restarts
from procman.core.roll import Roll
from procman.core.scaling import Scaler
from procman.core.spec import PoolSpec
from procman.core.worker import ExitRecord, Worker

if TYPE_CHECKING:
    from collections.abc import Mapping

# What is not handed over, and why not.
DERIVED: Mapping[type, Mapping[str, str]] = {
    Arbiter: {"_workers": "which pool a worker is of: said by the pools", "_deadlines": "said by the pools"},
    Pool: {
        "serial": "belongs to the arbiter",
        "roster": "counted from the workers",
        "survey": "follows from what is wanted and what there is",
        "exits_of_slot": "said by the records",
    },
}

# The fields of an arbiter besides its pools.
ARBITER: Mapping[str, Any] = {
    "_last_id": int,
    "_shutdown": Haste | None,
    "_announced": bool,
    "_left": bool,
    "_exit_status": int,
}

# Written field by field, because they hold others or change in place; everything else is as `codec` has it.
_STRUCTURES = (Pool, Roll, Run, Template, Restarts, Scaler, Worker)
# What annotations name and their modules import for type checkers alone.
_NAMES = {
    "Callable": Callable,
    "ExitRecord": ExitRecord,
    "PoolSpec": PoolSpec,
    "Roll": Roll,
    "Run": Run,
    "Worker": Worker,
}


class Unreadable(ValueError):
    """The state can't be understood by this version; ``str()`` says which part of it."""


class Writer:
    """Turns state into JSON values; ``specs`` is the table of the specifications met so far."""

    def __init__(self) -> None:
        self.specs: list[Any] = []
        self._known: dict[PoolSpec, int] = {}

    def write(self, value: Any) -> Any:
        """The JSON form of any value of the state."""
        if isinstance(value, PoolSpec):
            return self._spec(value)
        if is_dataclass(value) and isinstance(value, _STRUCTURES):
            left_out = DERIVED.get(type(value), {})
            return {
                field.name: self.write(getattr(value, field.name))
                for field in fields(value)
                if field.name not in left_out
            }
        if isinstance(value, dict):
            return [[key, self.write(item)] for key, item in value.items()]
        if isinstance(value, (list, tuple, deque)):
            return [self.write(item) for item in value]
        return codec.encode(value)

    def _spec(self, spec: PoolSpec) -> int:
        number = self._known.setdefault(spec, len(self.specs))
        if number == len(self.specs):
            self.specs.append(codec.encode(spec))
        return number


class Reader:
    """The way back, with the table that a `Writer` has made. Raises Unreadable."""

    def __init__(self, specs: list[Any]) -> None:
        self._specs = [_understood("a specification", PoolSpec, spec) for spec in specs]

    def read(self, kind: Any, data: Any) -> Any:
        """The value of this type whose JSON form is ``data``."""
        origin, members = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType) and type(None) in members:
            others = [member for member in members if member is not type(None)]
            if data is None or len(others) == 1:
                return None if data is None else self.read(others[0], data)
        if kind is PoolSpec:
            return self._spec(data)
        if kind in _STRUCTURES:
            return _build(kind, self.fields(kind, data))
        if origin in (list, deque, dict):
            return self._container(origin, members, data)
        return _understood(getattr(kind, "__name__", str(kind)), kind, data)

    def fields(self, kind: type, data: Any) -> dict[str, Any]:
        """The fields that are known and were handed over."""
        if not isinstance(data, dict):
            raise Unreadable(f"{kind.__name__}: expected an object, got {data!r}")
        found = {}
        for name, hint in _hints(kind).items():
            if name in data and name not in DERIVED.get(kind, {}):
                try:
                    found[name] = self.read(hint, data[name])
                except Unreadable as error:
                    raise Unreadable(f"{kind.__name__}.{name}: {error}") from None
        return found

    def _spec(self, number: Any) -> PoolSpec:
        if not isinstance(number, int) or not 0 <= number < len(self._specs):
            raise Unreadable(f"there is no specification {number!r}")
        return self._specs[number]  # type: ignore[no-any-return]

    def _container(self, origin: Any, members: tuple[Any, ...], data: Any) -> Any:
        if not isinstance(data, list):
            raise Unreadable(f"expected a list, got {data!r}")
        if origin is not dict:
            return origin(self.read(members[0], item) for item in data)
        try:
            return {self.read(members[0], key): self.read(members[1], item) for key, item in data}
        except (TypeError, ValueError) as error:
            raise Unreadable(str(error)) from None


def dump(arbiter: Arbiter, writer: Writer) -> dict[str, Any]:
    """Everything that the arbiter knows; `restore` makes one of it that goes on in the same way."""
    pools = [writer.write(pool) for pool in arbiter.pools.values()]
    return {**{name: writer.write(getattr(arbiter, name)) for name in ARBITER}, "pools": pools}


def restore(data: Mapping[str, Any], reader: Reader) -> Arbiter:
    """The arbiter that was dumped. Raises Unreadable."""
    arbiter = Arbiter(())
    for name, kind in ARBITER.items():
        if name in data:
            setattr(arbiter, name, reader.read(kind, data[name]))
    for item in data.get("pools", ()):
        arbiter.adopt(_pool(item, arbiter, reader))
    return arbiter


def _pool(data: Any, arbiter: Arbiter, reader: Reader) -> Pool:
    found = reader.fields(Pool, data)
    if "spec" not in found:
        raise Unreadable("a pool without its specification")
    pool = Pool(found["spec"], arbiter.next_id)
    for name, value in found.items():
        setattr(pool, name, value)
    return pool


def _build(kind: Any, values: dict[str, Any]) -> Any:
    missing = [
        field.name
        for field in fields(kind)
        if field.name not in values and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        raise Unreadable(f"{kind.__name__}: {', '.join(missing)} is missing")
    return kind(**values)


def _understood(what: str, kind: Any, data: Any) -> Any:
    try:
        return codec.decode(kind, data)
    except (ValueError, TypeError) as error:
        raise Unreadable(f"{what}: {error}") from None


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, localns=_NAMES)
