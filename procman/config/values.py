"""The types of values: how each is read from TOML, written to it, and named in a message.

A type reads one `Given` and either returns what the specification holds or raises `Wrong`.
"""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from procman.config.environment import Expanded, escape
from procman.config.problems import Code, Problem, Wrong, describe, quoted, suggestion, words

if TYPE_CHECKING:
    from collections.abc import Callable
    from enum import StrEnum

    from procman.config.problems import Path

T = TypeVar("T")

NONE = "none"
AUTO = "auto"
LARGEST = 2**63 - 1
LONGEST = 10 * 365 * 86400.0  # seconds; what is to last longer is "none"

_MOST_DIGITS = 40
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-zµ]+)")
_DURATION_UNITS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
_SIZE_UNITS = {
    "B": 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
_MEANT_UNITS = {"k": "KiB", "m": "MiB", "g": "GiB", "t": "TiB", "kb": "kB", "mb": "MB", "gb": "GB", "tb": "TB"}
_MEANT_UNITS |= {unit.lower(): unit for unit in ("KiB", "MiB", "GiB", "TiB")}
_MEANT_DURATIONS = {"sec": "s", "secs": "s", "second": "s", "seconds": "s", "min": "m", "mins": "m", "minute": "m"}
_MEANT_DURATIONS |= {"minutes": "m", "hour": "h", "hours": "h", "hr": "h", "hrs": "h", "msec": "ms", "millis": "ms"}


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it stands in the file, with its place and the directory that relative paths start from."""

    value: Any
    path: Path
    base: str

    def item(self, key: str | int, value: Any) -> Given:
        """A value inside this one."""
        return Given(value, (*self.path, key), self.base)

    def wrong(self, code: Code, message: str) -> Wrong:
        """This value is wrong, in these words."""
        return Wrong(Problem(code, self.path, message))

    def unexpected(self, code: Code, expected: str, hint: str = "") -> Wrong:
        """This value is not what was expected."""
        return self.wrong(code, f"expected {expected}, got {describe(self.value)}{hint}")

    def number(self) -> Any:
        """The value; a number when it is the text of one and came from the environment, where all is text."""
        if isinstance(self.value, Expanded) and len(self.value) < _MOST_DIGITS and _NUMBER.fullmatch(self.value):
            return float(self.value) if "." in self.value else int(self.value)
        return self.value


class Type(ABC, Generic[T]):
    """One type of value. ``expected`` completes the sentence "expected …" and stands in the reference."""

    expected: str

    @abstractmethod
    def read(self, given: Given) -> T:
        """The value as the specification holds it; raises `Wrong`."""

    @abstractmethod
    def write(self, value: T) -> str:
        """The value as TOML that `read` turns into the same again."""


def toml_string(text: str) -> str:
    """The text as a TOML basic string in which nothing is expanded."""
    # JSON's escapes are TOML's, except that TOML wants DEL escaped too.
    return json.dumps(escape(text), ensure_ascii=False).replace("\x7f", "\\u007f")


class Text(Type[str]):
    """A string; not empty, and without the NUL that no system call takes."""

    def __init__(self, expected: str = "a string", *, empty: bool = False) -> None:
        self.expected = expected
        self._empty = empty

    def read(self, given: Given) -> str:
        if not isinstance(given.value, str):
            number = isinstance(given.value, int | float) and not isinstance(given.value, bool)
            hint = f'; did you mean "{given.value}"?' if number else ""
            raise given.unexpected(Code.WRONG_TYPE, self.expected, hint)
        if "\0" in given.value:
            raise given.unexpected(Code.WRONG_TYPE, f"{self.expected} without NUL characters")
        if not given.value and not self._empty:
            raise given.unexpected(Code.WRONG_TYPE, self.expected)
        return str(given.value)

    def write(self, value: str) -> str:
        return toml_string(value)


class Boolean(Type[bool]):
    expected = "true or false"

    def read(self, given: Given) -> bool:
        value = given.value
        if isinstance(value, Expanded) and value in ("true", "false"):
            return value == "true"
        if not isinstance(value, bool):
            near = {"yes": "true", "on": "true", "true": "true", "1": "true"}
            near |= {"no": "false", "off": "false", "false": "false", "0": "false"}
            meant = near.get(str(value).lower())
            raise given.unexpected(Code.WRONG_TYPE, self.expected, f"; did you mean {meant}?" if meant else "")
        return value

    def write(self, value: bool) -> str:
        return "true" if value else "false"


class Integer(Type[int]):
    """A whole number between two bounds."""

    def __init__(self, least: int = 0, most: int = LARGEST, *, zero_is_at_once: bool = False) -> None:
        self.least, self.most = least, most
        self._zero_is_at_once = zero_is_at_once
        bounds = f"from {least} to {most}" if most < LARGEST else f"of at least {least}"
        self.expected = f"a whole number {bounds}"

    def read(self, given: Given) -> int:
        value = given.number()
        if isinstance(value, bool) or not isinstance(value, int):
            text_of_number = isinstance(value, str) and _NUMBER.fullmatch(value) and "." not in value
            raise given.unexpected(Code.WRONG_TYPE, self.expected, f"; did you mean {value}?" if text_of_number else "")
        if value == 0 and self._zero_is_at_once:
            raise given.wrong(Code.AT_ONCE, at_once("a whole number", optional=True))
        if not self.least <= value <= self.most:
            raise given.unexpected(Code.RANGE, self.expected)
        return value

    def write(self, value: int) -> str:
        return str(value)


class Fraction(Type[float]):
    """A number, whole or not, between two bounds."""

    def __init__(self, least: float, most: float) -> None:
        self.least, self.most = least, most
        self.expected = f"a number from {least:g} to {most:g}"

    def read(self, given: Given) -> float:
        value = given.number()
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise given.unexpected(Code.WRONG_TYPE, self.expected)
        if not self.least <= value <= self.most:
            raise given.unexpected(Code.RANGE, self.expected)
        return float(value)

    def write(self, value: float) -> str:
        return repr(value)


class Duration(Type[float]):
    """Seconds. Zero is refused unless it is said what it means."""

    def __init__(self, *, zero: bool = False, optional: bool = False) -> None:
        self._zero = zero
        self._optional = optional
        self.expected = 'a duration such as "30s"'

    def read(self, given: Given) -> float:
        value = given.number()
        if isinstance(value, str):
            seconds = self._from_text(given, value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0:
            # A whole number can be too large for a float; it is too large for a duration as well.
            seconds = float(min(value, LONGEST + 1))
        else:
            raise given.unexpected(Code.DURATION, self.expected)
        if seconds == 0 and not self._zero:
            raise given.wrong(Code.AT_ONCE, at_once(self.expected, optional=self._optional))
        if seconds > LONGEST:
            raise given.unexpected(Code.RANGE, f'a duration of at most "{LONGEST / 3600:.0f}h"')
        return seconds

    def _from_text(self, given: Given, text: str) -> float:
        match = _DURATION.fullmatch(text)
        if match and match[2] in _DURATION_UNITS:
            return float(Decimal(match[1]) * _DURATION_UNITS[match[2]])
        meant = ""
        if match and (unit := _MEANT_DURATIONS.get(match[2].lower(), match[2].lower())) in _DURATION_UNITS:
            meant = f'; did you mean "{match[1]}{unit}"?'
        elif _NUMBER.fullmatch(text):
            meant = f'; did you mean "{text}s"?'
        raise given.unexpected(Code.DURATION, self.expected, meant)

    def write(self, value: float) -> str:
        if value == int(value):
            return f'"{int(value)}s"'
        milliseconds = round(value * 1000)
        if float(Decimal(milliseconds) * _DURATION_UNITS["ms"]) == value:
            return f'"{milliseconds}ms"'
        return repr(value)


class Size(Type[int]):
    """Bytes; more than none."""

    def __init__(self, *, optional: bool = False) -> None:
        self._optional = optional
        self.expected = 'a size such as "512MiB"'

    def read(self, given: Given) -> int:
        value = given.number()
        if isinstance(value, str):
            size = self._from_text(given, value)
        elif isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            size = value
        else:
            raise given.unexpected(Code.SIZE, self.expected)
        if size == 0:
            raise given.wrong(Code.AT_ONCE, at_once(self.expected, optional=self._optional))
        if size > LARGEST:
            raise given.unexpected(Code.RANGE, 'a size below "8388608TiB"')
        return size

    def _from_text(self, given: Given, text: str) -> int:
        match = _DURATION.fullmatch(text)
        if match and match[2] in _SIZE_UNITS:
            return int(Decimal(match[1]) * _SIZE_UNITS[match[2]])
        meant = ""
        if match and (unit := _MEANT_UNITS.get(match[2].lower())):
            meant = f'; did you mean "{match[1]}{unit}"?'
        raise given.unexpected(Code.SIZE, self.expected, meant)

    def write(self, value: int) -> str:
        for unit in ("TiB", "GiB", "MiB", "KiB"):
            if value % _SIZE_UNITS[unit] == 0:
                return f'"{value // _SIZE_UNITS[unit]}{unit}"'
        return str(value)


def at_once(expected: str, *, optional: bool = False) -> str:
    """The message for a 0 that would mean "at once"."""
    away = '; for no limit leave the key out or write "none"' if optional else ""
    return f'expected {expected}, above 0: 0 would mean "at once"{away}'


class Word(Type[T]):
    """One of a few words; the value is what ``make`` makes of the word."""

    def __init__(self, choices: tuple[str, ...], make: Callable[[str], T]) -> None:
        self.choices = choices
        self._make = make
        self.expected = words(choices) if len(choices) == 1 else f"one of {words(choices)}"

    def read(self, given: Given) -> T:
        if not isinstance(given.value, str):
            raise given.unexpected(Code.WRONG_TYPE, self.expected)
        if given.value not in self.choices:
            raise given.unexpected(Code.CHOICE, self.expected, suggestion(given.value, self.choices))
        return self._make(str(given.value))

    def write(self, value: T) -> str:
        return quoted(str(value))


def member_of(enumeration: type[StrEnum], *without: StrEnum) -> Word[Any]:
    """One of the members' words."""
    return Word(tuple(member.value for member in enumeration if member not in without), enumeration)


class OrNone(Type[T | None]):
    """A limit: ``"none"`` is the same as leaving it out."""

    def __init__(self, inner: Type[T]) -> None:
        self._inner = inner
        self.expected = f'{inner.expected}, or "none"'

    def read(self, given: Given) -> T | None:
        return None if given.value == NONE else self._inner.read(given)

    def write(self, value: T | None) -> str:
        return quoted(NONE) if value is None else self._inner.write(value)


class OrAuto(Type[T | None]):
    """``"auto"``: not said, but found out."""

    def __init__(self, inner: Type[T]) -> None:
        self._inner = inner
        self.expected = f'{inner.expected}, or "auto"'

    def read(self, given: Given) -> T | None:
        if given.value == AUTO:
            return None
        try:
            return self._inner.read(given)
        except Wrong as wrong:
            raise given.unexpected(wrong.problems[0].code, self.expected) from None

    def write(self, value: T | None) -> str:
        return quoted(AUTO) if value is None else self._inner.write(value)


class ListOf(Type[tuple[T, ...]]):
    """A list, or one value instead of a list with one."""

    def __init__(self, inner: Type[T], *, empty: bool = False) -> None:
        self._inner = inner
        self._empty = empty
        self.expected = f"{inner.expected}, or a list of them"

    def read(self, given: Given) -> tuple[T, ...]:
        if not isinstance(given.value, list):
            return (self._inner.read(given),)
        if not given.value and not self._empty:
            raise given.unexpected(Code.WRONG_TYPE, self.expected)
        return read_all(given, self._inner)

    def write(self, value: tuple[T, ...]) -> str:
        items = [self._inner.write(item) for item in value]
        return items[0] if len(items) == 1 else f"[{', '.join(items)}]"


def read_all(given: Given, inner: Type[T]) -> tuple[T, ...]:
    """Every item of a list; all that is wrong is raised together."""
    items: list[T] = []
    problems: list[Problem] = []
    for index, value in enumerate(given.value):
        try:
            items.append(inner.read(given.item(index, value)))
        except Wrong as wrong:
            problems += wrong.problems
    if problems:
        raise Wrong(*problems)
    return tuple(items)
