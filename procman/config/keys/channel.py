"""Channels of a job runner: the table of one, and the type of all of them, which may be a text in OCA's notation."""

from __future__ import annotations

from typing import Any

from procman.config.keys.key import Named, Table, key
from procman.config.problems import Code, Problem, Wrong, quoted, suggestion
from procman.config.values import Boolean, Duration, Given, Integer, OrNone, Type, toml_string
from procman.core.channels import (
    NOT_IN_NAMES,
    OPTIONS,
    Channel,
    ChannelError,
    full_name,
    notation,
    parse,
    parse_databases,
)

_TEXT = 'channels such as "root:4,root.mail:2"'

Numbers = tuple[tuple[str, int], ...]


class ByDatabase(Type[Numbers]):
    """Whole numbers by pattern of a database's name."""

    expected = 'a whole number, or a table by pattern of the database such as { "prod_*" = 20, "*" = 5 }'

    def __init__(self, least: int) -> None:
        self._number = Integer(least)

    def read(self, given: Given) -> Numbers:
        if isinstance(given.value, dict):
            return tuple(self._pairs(given))
        if isinstance(given.value, str) and not isinstance(given.number(), int):
            return self._notation(given)
        if isinstance(given.value, int | str) and not isinstance(given.value, bool):
            return (("*", self._number.read(given)),)
        raise given.unexpected(Code.WRONG_TYPE, self.expected)

    def _pairs(self, given: Given) -> list[tuple[str, int]]:
        problems: list[Problem] = []
        pairs = []
        for pattern, value in given.value.items():
            try:
                pairs.append((pattern, self._number.read(given.item(pattern, value))))
            except Wrong as wrong:
                problems += wrong.problems
        if problems:
            raise Wrong(*problems)
        return pairs

    def _notation(self, given: Given) -> Numbers:
        try:
            return parse_databases(given.value)
        except ChannelError as error:
            raise given.wrong(Code.CHANNELS, f"expected {self.expected}; {error}") from None

    def write(self, value: Numbers) -> str:
        pairs = [f"{toml_string(pattern)} = {number}" for pattern, number in value]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"


class Fair(Type[bool | Numbers]):
    """Whether the databases share the channel, and in which proportion."""

    expected = 'true, false, or a table of weights by pattern of the database such as { "prod_*" = 4, "*" = 1 }'

    def read(self, given: Given) -> bool | Numbers:
        if isinstance(given.value, dict):
            return ByDatabase(1).read(given)
        try:
            return Boolean().read(given)
        except Wrong:
            raise given.unexpected(Code.WRONG_TYPE, self.expected) from None

    def write(self, value: bool | Numbers) -> str:
        return Boolean().write(value) if isinstance(value, bool) else ByDatabase(1).write(value)


CHANNEL = Table(
    title="pools.NAME.channels.CHANNEL",
    doc=(
        "A channel: `root`, or one below it, whose name with dots is quoted: `root.mail = 2` would be something else "
        'than `"root.mail" = 2`. A number instead of a table is the capacity. See docs/jobs.md.'
    ),
    keys=(
        key(
            "capacity",
            OrNone(Integer(1)),
            "So many jobs may run at the same time in it and the channels below it.",
            of=Channel,
        ),
        key(
            "sequential",
            Boolean(),
            "One at a time, in order: one that has failed, or waits for its time, holds up those behind it.",
            of=Channel,
        ),
        key("throttle", Duration(zero=True), "Between two starts, in it and the channels below it.", of=Channel),
        key("paused", Boolean(), "Start nothing in it and the channels below it.", of=Channel),
        key(
            "fair",
            Fair(),
            "Share its slots among the databases whose jobs wait, instead of by the order of the jobs alone.",
            of=Channel,
        ),
        key("per_database", ByDatabase(0), "So many of its slots are for one database at most.", of=Channel),
        key(
            "capacity_default",
            OrNone(Integer(1)),
            "The capacity of channels below it that are not named.",
            of=Channel,
        ),
        key(
            "sequential_default", Boolean(), "Whether channels below it that are not named are sequential.", of=Channel
        ),
    ),
)


class Channels(Named[tuple[Channel, ...]]):
    """Channels as a text in OCA's notation, ``root:4,root.mail:2:sequential``, or as a table of tables."""

    table = CHANNEL
    short = "capacity"
    expected = f'{_TEXT}, or a table of them such as {{ root = 4, "root.mail" = 2 }}'

    def read(self, given: Given) -> tuple[Channel, ...]:
        if not isinstance(given.value, str):
            raise given.unexpected(Code.WRONG_TYPE, self.expected)
        try:
            channels = tuple(parse(given.value).values())
        except ChannelError as error:
            meant = suggestion(error.word, OPTIONS) if error.word else ""
            raise given.wrong(Code.CHANNELS, f"expected {_TEXT}; {error}{meant}") from None
        if not channels:
            raise given.unexpected(Code.CHANNELS, _TEXT)
        return channels

    def make(self, given: Given, name: str, fields: dict[str, Any]) -> Channel:
        if not name.strip() or any(sign in name for sign in NOT_IN_NAMES):
            message = f'expected the name of a channel such as "root.mail", got {quoted(name)}'
            raise Wrong(Problem(Code.NAME, given.path, message, at_key=True))
        fair = fields.pop("fair")
        weights = () if isinstance(fair, bool) else fair
        if fields["sequential"] and fields["capacity"] not in (None, 1):
            place = given.item("capacity", None) if isinstance(given.value, dict) else given
            raise place.wrong(Code.CONTRADICTION, "expected 1, which is the capacity of a sequential channel")
        if fields["sequential"]:
            fields["capacity"] = 1
        return Channel(name=full_name(name), fair=fair is not False, weights=weights, **fields)

    def collect(self, given: Given, made: dict[str, Channel]) -> tuple[Channel, ...]:
        problems = []
        if not made:
            raise given.wrong(Code.CHANNELS, f"expected {self.expected}, got an empty table")
        names: dict[str, str] = {}
        for name, channel in made.items():
            if channel.name in names:
                message = f"the same channel as {quoted(names[channel.name])}, which is given as well"
                problems.append(Problem(Code.CHANNELS, (*given.path, name), message, at_key=True))
            names.setdefault(channel.name, name)
        if problems:
            raise Wrong(*problems)
        return tuple(made.values())

    def write(self, value: tuple[Channel, ...]) -> str:
        text = notation(value)
        return toml_string(text) if text is not None else f"{{ {', '.join(map(_table_of, value))} }}"


def _table_of(channel: Channel) -> str:
    fields: dict[str, Any] = {each.name: getattr(channel, each.field) for each in CHANNEL.keys}
    if channel.weights:
        fields["fair"] = channel.weights
    default = Channel(name=channel.name)
    pairs = [
        f"{each.name} = {each.type.write(fields[each.name])}"
        for each in CHANNEL.keys
        if fields[each.name] != getattr(default, each.field)
    ]
    return f"{toml_string(channel.name)} = {{ {', '.join(pairs)} }}" if pairs else f"{toml_string(channel.name)} = 1"
