"""Channels of the job runner, and their notation: ``root:4,root.mail:2,root.slow:1:throttle=60``.

It is the one of OCA's queue_job, read strictly: a word that means nothing is an error here and not kept, a
negative capacity does not silently stop a channel, and ``sequential=false`` means what it says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from procman.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = "root"

FLAGS = ("sequential", "paused", "fair", "sequential_default")
NUMBERS = ("throttle", "per_database", "capacity_default")
OPTIONS = (*FLAGS, *NUMBERS)
_FALSE = ("false", "no", "0")
_TRUE = ("", "true", "yes", "1")
NOT_IN_NAMES = ",:\n"


class ChannelError(ConfigurationError):
    """The channels can't be understood; ``kind`` is one word for what is wrong, the text says where.

    ``word``: what was written in the place of an option.
    """

    def __init__(self, kind: str, entry: str, complaint: str, word: str = "") -> None:
        super().__init__(f'"{entry}": {complaint}')
        self.kind = kind
        self.word = word


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """What is configured for one channel.

    ``capacity``: jobs that may run at the same time in it and below it; None: as many as its parents allow.
    ``throttle``: seconds between two starts. ``sequential``: one at a time, in order, and a failed job or one
    that waits for its time holds up those behind it. ``paused``: nothing is started in it and below it.

    ``fair``: the databases whose jobs wait share its slots, in proportion to ``weights`` (by pattern of the database's
    name, 1 where none matches); without, the order is that of the jobs, whosever they are. ``per_database``: how many
    slots one database may have at most, by pattern.

    The defaults are for channels below it that nobody has configured.
    """

    name: str
    capacity: int | None = 1
    sequential: bool = False
    throttle: float = 0.0
    paused: bool = False
    fair: bool = False
    weights: tuple[tuple[str, int], ...] = ()
    per_database: tuple[tuple[str, int], ...] = ()
    capacity_default: int | None = None
    sequential_default: bool = False

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


def notation(channels: Iterable[Channel]) -> str | None:
    """What `parse` makes these channels of; None where it has no words for them."""
    entries = []
    for channel in channels:
        limits = dict(channel.per_database)
        if channel.weights or channel.throttle % 1 or (limits and set(limits) != {"*"}):
            return None
        options = [flag for flag in FLAGS if getattr(channel, flag)]
        numbers = {"throttle": int(channel.throttle), "capacity_default": channel.capacity_default}
        options += [f"{name}={number}" for name, number in numbers.items() if number]
        options += [f"per_database={most}" for most in limits.values()]
        entries.append(":".join([channel.name, str(channel.capacity or 0), *options]))
    return ",".join(entries)


def parse_databases(text: str) -> tuple[tuple[str, int], ...]:
    """Patterns and their numbers, ``prod_*:20,staging:2,*:5``, first match first; a number alone is for all.

    Raises ChannelError.
    """
    pairs = []
    for entry in re.split(r"[,\n]", text):
        if entry.strip():
            pattern, colon, number = (piece.strip() for piece in entry.rpartition(":"))
            if colon and not pattern:
                raise ChannelError("missing-name", entry.strip(), "the pattern of a database is missing")
            pairs.append((pattern or "*", _number(entry.strip(), number, "bad-int", "limit")))
    return tuple(pairs)


def full_name(name: str | None) -> str:
    """The name with its ``root.``, which may be left out; no name means the root."""
    name = (name or ROOT).strip()
    return name if name == ROOT or name.startswith(f"{ROOT}.") else f"{ROOT}.{name}"


def _channel(entry: str) -> Channel:
    name, *fields = (field.strip() for field in entry.split(":"))
    if not name:
        raise ChannelError("missing-name", entry, "the name of the channel is missing")
    name = full_name(name)
    capacity = None
    if fields and _key(fields[0]) not in OPTIONS:
        capacity = _capacity(entry, name, fields.pop(0))
    options: dict[str, int | bool] = dict(_options(entry, fields))
    sequential = bool(options.get("sequential"))
    if sequential and capacity not in (None, 0, 1):
        raise ChannelError("sequential-needs-capacity-1", entry, "a sequential channel has a capacity of 1")
    return Channel(
        name=name,
        capacity=1 if capacity is None or sequential else capacity or None,
        sequential=sequential,
        throttle=float(options.get("throttle", 0)),
        paused=bool(options.get("paused")),
        fair=bool(options.get("fair")),
        per_database=(("*", options["per_database"]),) if "per_database" in options else (),
        capacity_default=options.get("capacity_default") or None,
        sequential_default=bool(options.get("sequential_default")),
    )


def _capacity(entry: str, name: str, text: str) -> int:
    # The capacity may be left out before options, so what looks like a word is one of these, misspelt; but for the
    # root's, which is always given (OCA 18).
    if name != ROOT and text[:1].isalpha():
        raise ChannelError("bad-option", entry, _unknown(text), text)
    return _number(entry, text, "bad-capacity", "its capacity")


def _options(entry: str, fields: list[str]) -> Iterator[tuple[str, int | bool]]:
    seen = {"name", "capacity"}
    for field in fields:
        key, equals, value = (piece.strip() for piece in field.partition("="))
        if key in seen:
            raise ChannelError("duplicate-key", entry, f"{key} is given twice")
        if key not in OPTIONS or "=" in value or (equals and not value):
            raise ChannelError("bad-option", entry, _unknown(field), key)
        seen.add(key)
        if key in NUMBERS:
            kind = "bad-capacity-default" if key == "capacity_default" else "bad-int"
            yield key, _number(entry, value, kind, key)
        elif value.lower() in _TRUE or value.lower() in _FALSE:
            yield key, value.lower() in _TRUE
        else:
            raise ChannelError("bad-option", entry, f'{key} is true or false, got "{value}"')


def _unknown(field: str) -> str:
    return f'unknown option "{field}"'


def _key(field: str) -> str:
    return field.partition("=")[0].strip()


def _number(entry: str, text: str, kind: str, what: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ChannelError(kind, entry, f'expected a whole number as {what}, got "{text}"')
    return int(text)
