"""Python values as JSON and XML-RPC can say them. Pure."""

from __future__ import annotations

import base64
import dataclasses
import math
import re
from collections.abc import Mapping, Set
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable

# What XML 1.0 has no way to write (section 2.2, production 2), also not as a character reference.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def for_json(value: Any) -> Any:
    """The value with nothing in it that `json.dumps` does not know: dates by ISO 8601, bytes by base64.

    Raises TypeError or ValueError for what can't be sent.
    """
    return _plain(value, _json_leaf)


def for_xml(value: Any) -> Any:
    """The value with nothing in it that XML-RPC has no element for. XML-RPC's dates have no zone: they are UTC.

    Raises TypeError or ValueError for what can't be sent.
    """
    return _plain(value, _xml_leaf)


def _json_leaf(value: Any) -> Any:
    match value:
        case datetime() | date() | time():
            return value.isoformat()
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode()
        case _:
            return value


def _xml_leaf(value: Any) -> Any:
    match value:
        case str():
            return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", str(value))
        case int() if not -(2**63) <= value < 2**63:
            raise ValueError(f"{value} has more than 64 bits")
        case int():
            return int(value)  # the codec looks at the exact type
        case float():
            return float(value)
        case datetime():
            return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
        case date() | time():
            return value.isoformat()
        case bytes() | bytearray() | memoryview():
            return bytes(value)
        case _:
            return value


def _plain(value: Any, leaf: Callable[[Any], Any]) -> Any:
    match value:
        case Enum():
            return _plain(value.value, leaf)
        case None | bool():
            return value
        case Mapping():
            return {_key(key, leaf): _plain(each, leaf) for key, each in value.items()}
        case list() | tuple() | Set():
            return [_plain(each, leaf) for each in value]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: _plain(getattr(value, field.name), leaf) for field in dataclasses.fields(value)}
        case _:
            return leaf(_scalar(value))


def _scalar(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            raise ValueError(f"{value} can't be sent")
        case Decimal() | UUID():
            return str(value)
        case str() | int() | float() | datetime() | date() | time() | bytes() | bytearray() | memoryview():
            return value
        case _:
            raise TypeError(f"a {type(value).__qualname__} can't be sent")


def _key(key: Any, leaf: Callable[[Any], Any]) -> str:
    if isinstance(key, str | int | UUID | Decimal) and not isinstance(key, bool):
        return str(leaf(str(key.value if isinstance(key, Enum) else key)))
    raise TypeError(f"a {type(key).__qualname__} can't be the key of a mapping that is sent")
