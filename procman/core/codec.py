"""Frozen dataclasses to plain JSON values and back.

What comes from a worker is never unpickled: a worker runs the application's code, perhaps as another user,
and must not be able to run any in the arbiter. Unknown fields are ignored and missing ones take their
default, so that a daemon and the workers of its next version understand each other.
"""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints


def encode(value: Any) -> Any:
    """The JSON form of a dataclass instance (tagged with its class name), an enum, a tuple or a scalar."""
    if is_dataclass(value) and not isinstance(value, type):
        data = {name: encode(getattr(value, name)) for name, _ in _plan(type(value))}
        data["is"] = type(value).__name__
        return data
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    return value


def decode(kind: Any, data: Any) -> Any:
    """The value of type ``kind`` whose JSON form is ``data``.

    Raises ValueError when ``data`` is not the form of any member of ``kind``.
    """
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(get_args(kind), data)
    if origin is tuple:
        return _decode_tuple(get_args(kind), data)
    if is_dataclass(kind) and isinstance(kind, type):
        return _decode_dataclass(kind, data)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(data)
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if isinstance(kind, type) and not isinstance(data, kind):
        raise ValueError(f"expected {kind.__name__}, got {data!r}")
    return data


@cache
def _plan(kind: Any) -> tuple[tuple[str, Any], ...]:
    hints = get_type_hints(kind)
    return tuple((field.name, hints[field.name]) for field in fields(kind))


def _decode_dataclass(kind: Any, data: Any) -> Any:
    if not isinstance(data, dict) or data.get("is") != kind.__name__:
        raise ValueError(f"expected a {kind.__name__}, got {data!r}")
    values = {name: decode(hint, data[name]) for name, hint in _plan(kind) if name in data}
    try:
        return kind(**values)
    except TypeError as missing:
        raise ValueError(f"{kind.__name__}: {missing}") from None


def _decode_union(members: tuple[Any, ...], data: Any) -> Any:
    if data is None and type(None) in members:
        return None
    for member in members:
        if member is type(None):
            continue
        if isinstance(data, dict) and is_dataclass(member) and data.get("is") != _name(member):
            continue
        try:
            return decode(member, data)
        except ValueError:
            if len(members) == 1 or is_dataclass(member):
                raise
    raise ValueError(f"expected one of {', '.join(map(_name, members))}, got {data!r}")


def _decode_tuple(members: tuple[Any, ...], data: Any) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise ValueError(f"expected a list, got {data!r}")
    if len(members) == 2 and members[1] is Ellipsis:
        return tuple(decode(members[0], item) for item in data)
    if len(data) != len(members):
        raise ValueError(f"expected {len(members)} items, got {len(data)}")
    return tuple(decode(member, item) for member, item in zip(members, data, strict=True))


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))
