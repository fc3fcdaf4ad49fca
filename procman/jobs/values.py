"""Arguments and results as the row keeps them: JSON, and in objects with a ``_type`` what JSON has no word for.

What comes back is equal to what was given, and of the same type, with two exceptions: a tuple comes back as a list, and
of a time zone that is not one of `zoneinfo` only its offset is kept. ``date_isoformat`` and ``datetime_isoformat`` are
what OCA's queue_job writes.
"""

from __future__ import annotations

import base64
import json
import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Callable

_TYPE = "_type"


def encode(value: Any, where: str) -> str:
    """``value`` as JSON text; raises TypeError or ValueError, which begin with ``where``, if it can't be kept."""
    try:
        return json.dumps(_encoded(value, where), ensure_ascii=False)
    except RecursionError:
        raise ValueError(f"{where}: contains itself, or is nested too deeply") from None


def decode(value: Any) -> Any:
    """What was given to `encode`, from its JSON read by `json`; LookupError for a ``_type`` that is not known."""
    if isinstance(value, list):
        return [decode(each) for each in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_TYPE)
    if kind is None:
        return {name: decode(each) for name, each in value.items()}
    if kind not in _FROM:
        raise LookupError(f"a value is of _type {kind!r}, which can't be read here")
    return _FROM[kind](value)


def _encoded(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _number(value, where)
    if isinstance(value, list | tuple):
        return [_encoded(each, where) for each in value]
    if isinstance(value, dict):
        return _object(value, where)
    for kind, tag in _TO.items():
        if isinstance(value, kind):
            _check_zone(value, where)
            return tag(value)
    raise TypeError(
        f"{where}: {type(value).__module__}.{type(value).__qualname__} can't be kept with a job; it takes None, bool, "
        "int, float, str, bytes, Decimal, UUID, date, datetime, time, timedelta, and lists and dicts of them"
    )


def _text(value: str, where: str) -> str:
    # PostgreSQL, 8.14: jsonb has no \u0000; and text that is no Unicode can't be sent.
    if "\0" in value or (not value.isascii() and any("\ud800" <= sign <= "\udfff" for sign in value)):
        raise ValueError(f"{where}: a text with NUL or half a surrogate pair can't be stored")
    return str.__str__(value)  # of a StrEnum, what it is worth


def _number(value: float, where: str) -> Any:
    if not math.isfinite(value):
        raise ValueError(f"{where}: {value} can't be stored")
    text = float.__repr__(value)
    # jsonb keeps a numeric, which has no exponent and no negative zero: 1e+16 would come back as an int.
    if "e+" in text or text == "-0.0":
        return {_TYPE: "float", "value": text}
    return float(value)


def _object(value: dict[Any, Any], where: str) -> dict[str, Any]:
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"{where}: the key {key!r} is not a str, and JSON has no other")
    encoded = {_text(key, where): _encoded(each, where) for key, each in value.items()}
    return {_TYPE: "object", "value": encoded} if _TYPE in encoded else encoded


def _check_zone(value: Any, where: str) -> None:
    if isinstance(value, time) and value.tzinfo is not None and value.utcoffset() is None:
        raise ValueError(f"{where}: a time of day in {value.tzinfo} has no offset that could be stored")


def _of_datetime(value: datetime) -> dict[str, Any]:
    encoded: dict[str, Any] = {_TYPE: "datetime_isoformat", "value": value.isoformat()}
    if isinstance(value.tzinfo, ZoneInfo) and value.tzinfo.key:
        encoded["zone"] = value.tzinfo.key
    return encoded


def _to_datetime(value: dict[str, Any]) -> datetime:
    read = datetime.fromisoformat(value["value"])
    return read.astimezone(ZoneInfo(value["zone"])) if "zone" in value else read


def _of_timedelta(value: timedelta) -> dict[str, Any]:
    return {_TYPE: "timedelta", "value": [value.days, value.seconds, value.microseconds]}


def _tagged(kind: str, text: Callable[[Any], str]) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {_TYPE: kind, "value": text(value)}


# A datetime is a date as well, so it comes first.
_TO: dict[type, Callable[[Any], dict[str, Any]]] = {
    datetime: _of_datetime,
    date: _tagged("date_isoformat", date.isoformat),
    time: _tagged("time_isoformat", time.isoformat),
    timedelta: _of_timedelta,
    Decimal: _tagged("decimal", str),
    UUID: _tagged("uuid", str),
    bytes: _tagged("bytes", lambda value: base64.b64encode(value).decode("ascii")),
}

_FROM: dict[str, Callable[[dict[str, Any]], Any]] = {
    "object": lambda value: {name: decode(each) for name, each in value["value"].items()},
    "float": lambda value: float(value["value"]),
    "datetime_isoformat": _to_datetime,
    "date_isoformat": lambda value: date.fromisoformat(value["value"]),
    "time_isoformat": lambda value: time.fromisoformat(value["value"]),
    "timedelta": lambda value: timedelta(*value["value"]),
    "decimal": lambda value: Decimal(value["value"]),
    "uuid": lambda value: UUID(value["value"]),
    "bytes": lambda value: base64.b64decode(value["value"]),
}
