"""Types of values that have a grammar or a meaning of their own: applications, commands, accounts."""

from __future__ import annotations

import grp
import keyword
import pwd
import re
import resource
import signal
from typing import TYPE_CHECKING, Any

from procman.config.environment import VARIABLE_NAME
from procman.config.problems import Code, Problem, Wrong, quoted, suggestion
from procman.config.processors import usable_cores
from procman.config.values import (
    AUTO,
    Duration,
    Fraction,
    Given,
    Integer,
    OrNone,
    Size,
    Text,
    Type,
    read_all,
    toml_string,
)
from procman.core.databases import discovers
from procman.core.spec import Scaling

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

UNLIMITED = "unlimited"

_POOL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
_RLIMITS = sorted(name.removeprefix("RLIMIT_").lower() for name in dir(resource) if name.startswith("RLIMIT_"))
_IN_BYTES = {"as", "core", "data", "fsize", "memlock", "msgqueue", "rss", "stack"}
_SIGNALS = sorted(member.name.removeprefix("SIG") for member in signal.Signals)


class PoolName(Type[str]):
    """The name of a pool: part of worker names (``http.1@3``), metrics and event topics."""

    expected = "the name of a pool: a letter, then at most 31 letters, digits, - or _"

    def read(self, given: Given) -> str:
        if not isinstance(given.value, str):
            raise given.unexpected(Code.WRONG_TYPE, self.expected)
        if not _POOL_NAME.fullmatch(given.value):
            raise given.unexpected(Code.NAME, self.expected)
        return str(given.value)

    def write(self, value: str) -> str:
        return quoted(value)


class WorkerCount(Type[int]):
    """How many workers; ``"auto"`` is counted when the file is read."""

    expected = 'a whole number from 1 to 10000, or "auto"'

    def read(self, given: Given) -> int:
        if given.value == AUTO:
            return 2 * usable_cores() + 1
        try:
            return Integer(1, 10_000).read(given)
        except Wrong as wrong:
            hint = "; a pool that is not to run has autostart = false" if given.value == 0 else ""
            raise given.unexpected(wrong.problems[0].code, self.expected, hint) from None

    def write(self, value: int) -> str:
        return str(value)


class Workers(Type[int | Scaling]):
    """How many workers, or between how many a pool scales itself."""

    expected = f"{WorkerCount.expected}, or a table such as {{ min = 2, max = 8 }}"

    # By the name of the key: its type, and the field of `Scaling`.
    _KEYS: Mapping[str, tuple[Type[Any], str]] = {
        "min": (WorkerCount(), "least"),
        "max": (WorkerCount(), "most"),
        "busy": (Fraction(0.05, 1), "busy"),
        "memory_budget": (OrNone(Size(optional=True)), "memory_budget"),
    }

    def read(self, given: Given) -> int | Scaling:
        if not isinstance(given.value, dict):
            return WorkerCount().read(given)
        fields: dict[str, Any] = {}
        problems: list[Problem] = []
        for name, value in given.value.items():
            try:
                fields |= self._read_key(given.item(name, value), name)
            except Wrong as wrong:
                problems += wrong.problems
        for name in ("min", "max"):
            if name not in given.value:
                message = f"{name} is missing: expected a table such as {{ min = 2, max = 8 }}"
                problems += given.wrong(Code.MISSING_KEY, message).problems
        if not problems and fields["least"] > fields["most"]:
            problems += given.wrong(
                Code.CONTRADICTION, f"expected min of at most max, got {fields['least']} and {fields['most']}"
            ).problems
        if problems:
            raise Wrong(*problems)
        return Scaling(**fields)

    def _read_key(self, given: Given, name: str) -> dict[str, Any]:
        if name not in self._KEYS:
            raise Wrong(
                Problem(Code.UNKNOWN_KEY, given.path, f"unknown key{suggestion(name, self._KEYS)}", at_key=True)
            )
        kept_as, field = self._KEYS[name]
        return {field: kept_as.read(given)}

    def write(self, value: int | Scaling) -> str:
        if isinstance(value, int):
            return str(value)
        pairs = (f"{name} = {kept_as.write(getattr(value, field))}" for name, (kept_as, field) in self._KEYS.items())
        return f"{{ {', '.join(pairs)} }}"


class Application(Type[str]):
    """``module:attribute``, the attribute a WSGI application, or with ``()`` a factory of one."""

    expected = 'an application such as "package.module:application" or "package.module:make_app()"'

    def read(self, given: Given) -> str:
        if not isinstance(given.value, str):
            raise given.unexpected(Code.APPLICATION, self.expected)
        module, colon, attribute = given.value.partition(":")
        if not colon or not is_dotted_name(module) or not is_dotted_name(attribute.removesuffix("()")):
            hint = f'; did you mean "{module}:application"?' if not colon and is_dotted_name(module) else ""
            raise given.unexpected(Code.APPLICATION, self.expected, hint)
        return str(given.value)

    def write(self, value: str) -> str:
        return toml_string(value)


class DatabaseResolver(Type[str]):
    """How to tell which database a request is for."""

    expected = 'a way to choose the database, such as "host:^%d$", "header:X-Database" or "package.module:function"'

    def read(self, given: Given) -> str:
        if not isinstance(given.value, str):
            raise given.unexpected(Code.WRONG_TYPE, self.expected)
        kind, _, argument = given.value.partition(":")
        match kind:
            case "header":
                right = re.fullmatch(r"[A-Za-z0-9-]+", argument) is not None
            case "host":
                right = _is_pattern(argument)
            case _:
                right = is_dotted_name(kind) and is_dotted_name(argument)
        if not right:
            raise given.unexpected(Code.APPLICATION, self.expected)
        return given.value

    def write(self, value: str) -> str:
        return toml_string(value)


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text.replace("%h", "h").replace("%d", "d"))
    except re.error:
        return False
    return bool(text)


class Module(Type[str]):
    """A module to import."""

    expected = 'a module such as "package.module"'

    def read(self, given: Given) -> str:
        if not isinstance(given.value, str):
            raise given.unexpected(Code.APPLICATION, self.expected)
        if not is_dotted_name(given.value):
            module = given.value.partition(":")[0].removesuffix(".py").replace("/", ".")
            hint = f"; did you mean {quoted(module)}?" if module != given.value and is_dotted_name(module) else ""
            raise given.unexpected(Code.APPLICATION, self.expected, hint)
        return str(given.value)

    def write(self, value: str) -> str:
        return toml_string(value)


def is_dotted_name(text: str) -> bool:
    """The text is one or more identifiers, with dots between them."""
    return all(part.isidentifier() and not keyword.iskeyword(part) for part in text.split("."))


class Command(Type[tuple[str, ...]]):
    """A program and its arguments. There is no shell."""

    expected = 'a list such as ["redis-server", "--port", "0"]'

    def read(self, given: Given) -> tuple[str, ...]:
        if isinstance(given.value, str) and given.value.split():
            meant = ", ".join(quoted(word) for word in given.value.split())
            raise given.unexpected(Code.COMMAND, self.expected, f"; did you mean [{meant}]?")
        if not isinstance(given.value, list) or not given.value:
            raise given.unexpected(Code.COMMAND, self.expected)
        arguments = read_all(given, Text(empty=True))
        if not arguments[0]:
            raise given.item(0, "").unexpected(Code.COMMAND, "the program to run")
        return arguments

    def write(self, value: tuple[str, ...]) -> str:
        return f"[{', '.join(toml_string(item) for item in value)}]"


class Databases(Type[tuple[str, ...]]):
    """Names of databases on the same server, or how to find them."""

    expected = 'a list of names such as ["sales", "shop_*", "!shop_test"], or "auto"'

    def read(self, given: Given) -> tuple[str, ...]:
        if isinstance(given.value, str) and discovers((given.value,)):
            return (DatabaseName().read(given),)
        if not isinstance(given.value, list):
            hint = f"; did you mean [{quoted(given.value)}]?" if isinstance(given.value, str) else ""
            raise given.unexpected(Code.WRONG_TYPE, self.expected, hint)
        names = read_all(given, DatabaseName())
        twice = [
            Problem(Code.TAKEN, (*given.path, index), f"the database {quoted(name)} is listed twice")
            for index, name in enumerate(names)
            if name in names[:index]
        ]
        if twice:
            raise Wrong(*twice)
        return names

    def write(self, value: tuple[str, ...]) -> str:
        if len(value) == 1 and discovers(value):
            return toml_string(value[0])
        return f"[{', '.join(toml_string(item) for item in value)}]"


class DatabaseName(Text):
    """PostgreSQL cuts identifiers at 63 bytes (chapter 4.1.1), so a longer name would be another database."""

    def __init__(self) -> None:
        super().__init__("the name of a database")

    def read(self, given: Given) -> str:
        name = super().read(given)
        if len(name.encode()) > 63:
            raise given.unexpected(Code.NAME, "the name of a database, at most 63 bytes")
        return name


class Account(Type[str]):
    """A user or group of this machine, by name or number; the name afterwards."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._look_up: Callable[[str], str | None] = user_name if what == "user" else group_name
        self.expected = f"the name of a {what} of this machine"

    def read(self, given: Given) -> str:
        value = given.value
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "" or "\0" in str(value):
            raise given.unexpected(Code.WRONG_TYPE, self.expected)
        name = self._look_up(str(value))
        if name is None:
            raise given.wrong(Code.ACCOUNT, f"there is no {self._what} {value} on this machine")
        return name

    def write(self, value: str) -> str:
        return toml_string(value)


def user_name(user: str) -> str | None:
    """The name of the user given by name or number; None when there is none on this machine."""
    try:
        return (pwd.getpwuid(int(user)) if _is_id(user) else pwd.getpwnam(user)).pw_name
    except KeyError:
        return None


def group_name(group: str) -> str | None:
    """The name of the group given by name or number; None when there is none on this machine."""
    try:
        return (grp.getgrgid(int(group)) if _is_id(group) else grp.getgrnam(group)).gr_name
    except KeyError:
        return None


def _is_id(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}", text) is not None


class Umask(Type[int]):
    """A mask of permissions, umask(2)."""

    expected = 'a string of octal digits such as "022"'

    def read(self, given: Given) -> int:
        value = given.value
        if isinstance(value, str) and re.fullmatch(r"(0o)?[0-7]{1,4}", value) and int(value, 8) <= 0o777:
            return int(value, 8)
        # tomli gives 0o022 as 18, so what a number means would be a guess, unless it has a digit that is not octal.
        octal = type(value) is int and 0 <= value <= 0o777 and re.search("[89]", str(value))
        hint = f'; did you mean "{value:03o}"?' if octal else ""
        raise given.unexpected(Code.UMASK, self.expected, hint)

    def write(self, value: int) -> str:
        return f'"{value:03o}"'


class SignalName(Type[str]):
    """A signal by name, with or without SIG; without afterwards."""

    expected = 'the name of a signal such as "TERM"'

    def read(self, given: Given) -> str:
        if not isinstance(given.value, str):
            raise given.unexpected(Code.WRONG_TYPE, self.expected)
        name = given.value.removeprefix("SIG")
        if name not in _SIGNALS:
            near = suggestion(given.value.upper().removeprefix("SIG"), _SIGNALS)
            raise given.unexpected(Code.CHOICE, self.expected, near)
        return name

    def write(self, value: str) -> str:
        return quoted(value)


class Variables(Type[tuple[tuple[str, str], ...]]):
    """A table of environment variables."""

    expected = 'a table such as { TZ = "UTC" }'

    def read(self, given: Given) -> tuple[tuple[str, str], ...]:
        if not isinstance(given.value, dict):
            raise given.unexpected(Code.WRONG_TYPE, self.expected)
        pairs: list[tuple[str, str]] = []
        problems: list[Problem] = []
        for name, value in given.value.items():
            if not VARIABLE_NAME.fullmatch(name):
                # POSIX, Base Definitions, 8.1.
                message = f"expected a name of letters, digits and underscores, got {quoted(name)}"
                problems.append(Problem(Code.NAME, (*given.path, name), message, at_key=True))
            try:
                pairs.append((name, Text(empty=True).read(given.item(name, value))))
            except Wrong as wrong:
                problems += wrong.problems
        if problems:
            raise Wrong(*problems)
        return tuple(pairs)

    def write(self, value: tuple[tuple[str, str], ...]) -> str:
        return f"{{ {', '.join(f'{name} = {toml_string(text)}' for name, text in value)} }}" if value else "{}"


class ResourceLimits(Type[tuple[tuple[str, int], ...]]):
    """A table of resource limits, setrlimit(2), by the name in lower case without RLIMIT_; -1 is no limit."""

    expected = 'a table such as { nofile = 65536, core = "unlimited" }'

    def read(self, given: Given) -> tuple[tuple[str, int], ...]:
        if not isinstance(given.value, dict):
            raise given.unexpected(Code.WRONG_TYPE, self.expected)
        pairs: list[tuple[str, int]] = []
        problems: list[Problem] = []
        for name, value in given.value.items():
            try:
                pairs.append((name, self._one(name, given.item(name, value))))
            except Wrong as wrong:
                problems += wrong.problems
        if problems:
            raise Wrong(*problems)
        return tuple(pairs)

    @staticmethod
    def _one(name: str, given: Given) -> int:
        if name not in _RLIMITS:
            meant = suggestion(name.lower().removeprefix("rlimit_").removeprefix("limit"), _RLIMITS)
            raise Wrong(Problem(Code.UNKNOWN_KEY, given.path, f"no such resource limit{meant}", at_key=True))
        if given.value == UNLIMITED:
            return resource.RLIM_INFINITY
        # 0 is meant here: no core file, for example.
        if isinstance(given.value, str) and name in _IN_BYTES:
            return Size().read(given)
        return Integer(0).read(given)

    def write(self, value: tuple[tuple[str, int], ...]) -> str:
        pairs = [f"{name} = {number if number >= 0 else quoted(UNLIMITED)}" for name, number in value]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"


_ROOT = "root"
_CHANNEL_NAME = re.compile(r"[^\s,:](?:[^,:\n]*[^\s,:])?")


class HistoryAge(Type[tuple[tuple[str, float | None], ...]]):
    """How long jobs are kept: a duration for all, or a table of channels."""

    expected = 'a duration such as "720h", "none", or a table of them such as { root = "720h", "root.mail" = "24h" }'

    def __init__(self) -> None:
        self._one = OrNone(Duration())

    def read(self, given: Given) -> tuple[tuple[str, float | None], ...]:
        if not isinstance(given.value, dict):
            return ((_ROOT, self._one.read(given)),)
        if not given.value:
            raise given.unexpected(Code.WRONG_TYPE, self.expected)
        pairs: list[tuple[str, float | None]] = []
        problems: list[Problem] = []
        for name, value in given.value.items():
            if not _CHANNEL_NAME.fullmatch(name):
                message = f"expected the name of a channel, got {quoted(name)}"
                problems.append(Problem(Code.CHANNELS, (*given.path, name), message, at_key=True))
            try:
                pairs.append((name, self._one.read(given.item(name, value))))
            except Wrong as wrong:
                problems += wrong.problems
        if problems:
            raise Wrong(*problems)
        return tuple(pairs)

    def write(self, value: tuple[tuple[str, float | None], ...]) -> str:
        if [name for name, _ in value] == [_ROOT]:
            return self._one.write(value[0][1])
        return f"{{ {', '.join(f'{toml_string(name)} = {self._one.write(age)}' for name, age in value)} }}"
