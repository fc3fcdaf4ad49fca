"""What can be wrong with a configuration, and how it is said.

Every problem has a stable code: it may be searched for, and its meaning never changes. A message says what was
expected, what was got, and what is probably meant.
"""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from procman.config.positions import Positions

Path = tuple[str | int, ...]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST_QUOTE = 80


class Code(Enum):
    """The index of errors. The text says what the code stands for; the message in a problem is always particular."""

    UNREADABLE = ("P001", "The configuration file can't be read.")
    ENCODING = ("P002", "The file is not UTF-8, which TOML requires.")
    SYNTAX = ("P003", "The file is not TOML.")
    NO_POOLS = ("P004", "There is no pool, so there is nothing to run.")
    UNKNOWN_KEY = ("P010", "No such key. Keys are closed: nothing that is misspelled is silently ignored.")
    MISSING_KEY = ("P012", "A key is missing that the table can't do without.")
    WRONG_KIND = ("P013", "The key exists, but pools of this kind don't take it.")
    NO_VARIABLE = ("P015", "An environment variable is not set and no default is given.")
    BAD_EXPANSION = ("P016", 'A "${…}" can\'t be understood.')
    WRONG_TYPE = ("P020", "The value has another type than the key.")
    SIZE = ("P021", 'Not a size: a number of bytes, or a number with kB, MB, GB, TB, KiB, MiB, GiB or TiB ("640MiB").')
    DURATION = ("P022", 'Not a duration: a number of seconds, or a number with ms, s, m or h ("250ms", "5m").')
    ADDRESS = ("P023", 'Not an address: "HOST:PORT", "[IPV6]:PORT", "unix:PATH" or "fd:NAME".')
    RANGE = ("P024", "The number is outside what the key allows.")
    CHOICE = ("P025", "The word is not one of those that the key allows.")
    APPLICATION = (
        "P026",
        'Not an application: "module:callable" or "module:factory()", or for cron "module".',
    )
    COMMAND = ("P027", "Not a command: a list of strings, the program first.")
    PATH_TOO_LONG = ("P028", "The path of a unix socket is longer than the kernel allows (107 bytes, unix(7)).")
    AT_ONCE = ("P029", '0 would mean "at once". A limit that is not wanted is left out or "none".')
    NAME = ("P030", "The name has characters that a name of this sort can't have, or is empty or too long.")
    RESERVED = ("P031", "The name of the pool is taken by procman itself.")
    ACCOUNT = ("P032", "There is no such user or group on this machine.")
    UMASK = ("P033", "Not a umask: a string of octal digits.")
    CHANNELS = ("P034", "The notation of the job runner's channels can't be understood.")
    URL = ("P035", "The URL can't be understood.")
    ENDPOINT = ("P036", "The endpoint of the control socket is not usable.")
    ENV_FILE = ("P037", "The file of environment variables can't be read or has a line that can't be understood.")
    KEYS = ("P038", "Control over tcp without usable CURVE keys, or a key that can't be used.")
    UNKNOWN_POOL = ("P040", "The name of a pool is expected, and there is no pool of that name.")
    CYCLE = ("P041", "Pools wait for each other in a circle, so none could ever start.")
    TARGET = ("P042", "The job runner needs exactly one http pool, or one url, to run the jobs in.")
    DATABASE = ("P043", "Pools of this kind work on the database, and none is configured.")
    TAKEN = ("P044", "Two sockets are to be bound to the same address.")
    CONTRADICTION = ("P045", "Two values contradict each other.")
    NO_MODULE = ("P050", "The application's module is not found (--check).")
    NO_COMMAND = ("P051", "The program of a command is not found or can't be executed (--check).")
    NO_DIRECTORY = ("P052", "A directory is missing, is not a directory, or can't be written (--check).")
    NOT_PERMITTED = ("P053", "What the pool asks for needs root (--check).")
    CERTIFICATE = ("P054", "A certificate or its private key can't be used (--check).")

    def __init__(self, code: str, meaning: str) -> None:
        self.code = code
        self.meaning = meaning


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. ``at_key`` points at the name of the key rather than at its value."""

    code: Code
    path: Path
    message: str
    at_key: bool = False

    def line(self, file: str, positions: Positions) -> str:
        """The problem as it is shown: ``file:line:col: error[code]: path: message``."""
        line, column = positions.of_key(self.path) if self.at_key else positions.of_value(self.path)
        subject = f"{dotted(self.path)}: " if self.path else ""
        return f"{file}:{line}:{column}: error[{self.code.code}]: {subject}{_on_one_line(self.message)}"


class Wrong(Exception):
    """Values that can't be used: one problem or, for a list or a table, one for each bad item."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = problems


def dotted(path: Path) -> str:
    """The path as one writes it: ``pools.http.bind[1]``, keys quoted where TOML asks for it."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if _BARE_KEY.fullmatch(part) else quoted(part)
            text += f".{name}" if text else name
    return text


def _on_one_line(message: str) -> str:
    """A message that names a file, say, whose name has a line feed in it is one line all the same."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in message)


def quoted(text: str) -> str:
    """The text in double quotes, control characters escaped, cut when it is very long."""
    if len(text) > _LONGEST_QUOTE:
        text = text[: _LONGEST_QUOTE - 1] + "…"
    return json.dumps(text, ensure_ascii=False)


def describe(value: Any) -> str:
    """The value as the user knows it: as written in TOML, or by its type when it is an array or a table."""
    match value:
        case str():
            return quoted(value)
        case bool():
            return "true" if value else "false"
        case list():
            return "an array" if value else "an empty array"
        case dict():
            return "a table"
        case datetime.datetime() | datetime.date() | datetime.time():
            return f"the date or time {value.isoformat()}"
        case int() if value.bit_length() > _LONGEST_QUOTE * 3:
            return "a number with very many digits"  # which Python may refuse to write out (sys.set_int_max_str_digits)
        case _:
            return repr(value)


def suggestion(word: str, candidates: Iterable[str]) -> str:
    """``; did you mean "…"?`` when one of the candidates is close to the word, else nothing."""
    from difflib import get_close_matches  # late: a file without problems does not need it

    by_lower = {candidate.lower(): candidate for candidate in candidates}
    close = get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.6)
    return f"; did you mean {quoted(by_lower[close[0]])}?" if close else ""


def words(names: Iterable[str], last: str = "or") -> str:
    """``"a", "b" or "c"``."""
    listed = [quoted(name) for name in names]
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} {last} {listed[-1]}"
