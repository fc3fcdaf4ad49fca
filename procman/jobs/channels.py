"""The notation of channels: ``root:4,root.mail:2,root.slow:1:throttle=60``.

It is the one of OCA's queue_job, read strictly: a word that means nothing is an error here and not kept, a
negative capacity does not silently stop a channel, and ``sequential=false`` means what it says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from procman.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = "root"

_FLAGS = ("sequential", "paused", "sequential_default", "fair")
_NUMBERS = ("throttle", "capacity_default", "per_database")
_FALSE = ("false", "no", "0")


class ChannelError(ConfigurationError):
    """The channels can't be understood; ``kind`` is one word for what is wrong, the text says where."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """What is configured for one channel.

    ``capacity``: jobs that may run at the same time in it and below it; None: as many as its parents allow.
    ``throttle``: seconds between two starts. ``sequential``: one at a time, in order, and a failed job or one
    that waits for its time holds up those behind it. The defaults are for channels below it that nobody has
    configured.
    """

    name: str
    capacity: int | None = 1
    sequential: bool = False
    throttle: float = 0.0
    paused: bool = False
    capacity_default: int | None = None
    sequential_default: bool = False
    fair: bool = False
    weights: tuple[tuple[str, int], ...] = ()
    per_database: tuple[tuple[str, int], ...] = ()

    @property
    def by_database(self) -> bool:
        """Whether it matters here whose jobs they are."""
        return self.fair or bool(self.per_database)


def parse(text: str) -> dict[str, Channel]:
    """Full name (``root.…``) to channel, as written: a later entry replaces an earlier one of the same name.

    Raises ChannelError.
    """
    channels = {}
    for entry in re.split(r"[,\n]", text):
        if entry.strip():
            channel = _channel(entry.strip())
            channels[channel.name] = channel
    return channels


def full_name(name: str | None) -> str:
    """The name with its ``root.``, which may be left out; no name means the root."""
    name = (name or ROOT).strip()
    return name if name == ROOT or name.startswith(f"{ROOT}.") else f"{ROOT}.{name}"


def _channel(entry: str) -> Channel:
    name, *fields = (field.strip() for field in entry.split(":"))
    if not name:
        raise ChannelError("missing-name", f"{entry!r}: the name of the channel is missing")
    capacity = None
    if fields and _key(fields[0]) not in (*_FLAGS, *_NUMBERS):
        capacity = _number(entry, fields.pop(0), "bad-capacity", "capacity")
    options: dict[str, int | bool] = dict(_options(entry, fields))
    sequential = bool(options.get("sequential"))
    if sequential and capacity not in (None, 0, 1):
        raise ChannelError("sequential-needs-capacity-1", f"{entry!r}: a sequential channel has a capacity of 1")
    return Channel(
        name=full_name(name),
        capacity=1 if capacity is None or sequential else capacity or None,
        sequential=sequential,
        throttle=float(options.get("throttle", 0)),
        paused=bool(options.get("paused")),
        capacity_default=options.get("capacity_default") or None,
        sequential_default=bool(options.get("sequential_default")),
        fair=bool(options.get("fair")),
        per_database=(("*", options["per_database"]),) if "per_database" in options else (),
    )


def _options(entry: str, fields: list[str]) -> Iterator[tuple[str, int | bool]]:
    seen = {"name", "capacity"}
    for field in fields:
        key, equals, value = (piece.strip() for piece in field.partition("="))
        if key in seen:
            raise ChannelError("duplicate-key", f"{entry!r}: {key} is given twice")
        if key not in (*_FLAGS, *_NUMBERS) or "=" in value or (equals and not value):
            known = ", ".join((*_FLAGS, *_NUMBERS))
            raise ChannelError("bad-option", f"{entry!r}: unknown option {field!r}; there are {known}")
        seen.add(key)
        if key in _NUMBERS:
            yield key, _number(entry, value, "bad-int" if key == "throttle" else "bad-capacity-default", key)
        else:
            yield key, value.lower() not in _FALSE


def _key(field: str) -> str:
    return field.partition("=")[0].strip()


def _number(entry: str, text: str, kind: str, what: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ChannelError(kind, f"{entry!r}: expected a whole number as {what}, got {text!r}")
    return int(text)
