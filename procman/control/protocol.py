"""What is said on the control socket: the commands there are, their properties, and the form of the messages.

A request is ``{"id": …, "command": "stats", "properties": {…}}``; a reply repeats the id and has ``status`` "ok" or
"error", ``time`` and, when it is an error, ``reason`` and ``errno``. That is the shape which Circus's clients speak
(circus.commands.base), and where Circus has a command its name and its properties are Circus's. procman adds
``deadline``, in seconds since the epoch: a command that arrives later is not carried out, because its client has
given up and its operator may have done something else since.

`COMMANDS` is data. Validation, the client and the reference pages derive from it; what a command does, and whether it
may be done now, is decided by the daemon. This module reads no clock and no socket.
"""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any

from procman.errors import ControlError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MOST_BYTES = 64 * 1024  # of a request; no command needs a hundredth of it


class Errno(IntEnum):
    """``errno`` of an error reply: Circus's numbers (circus.commands.errors), then procman's own from 100 on."""

    NOT_SPECIFIED = 0
    INVALID_JSON = 1
    UNKNOWN_COMMAND = 2
    MESSAGE_ERROR = 3
    OS_ERROR = 4
    COMMAND_ERROR = 5
    BAD_MSG_DATA = 6
    REFUSED = 100
    LATE = 101


class BadMessage(ControlError):
    """The message is no request that can be carried out; ``errno`` and ``id`` are for the reply."""

    def __init__(self, reason: str, errno: Errno = Errno.MESSAGE_ERROR, id: str | int | None = None) -> None:  # noqa: A002
        super().__init__(reason)
        self.errno = errno
        self.id = id


class Form(StrEnum):
    """What the value of a property must be, in words that go into messages and into the reference."""

    TEXT = "a text"
    TEXTS = "a text or a list of texts"
    COUNT = "a whole number, 0 or more"
    INTEGER = "a whole number"
    FLAG = "true or false"
    SIGNAL = "a signal's name or number"


_TEXTUAL = (Form.TEXT, Form.TEXTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Property:
    """One property. ``only``, when not empty, lists the values that are accepted.

    Circus's client sends some properties always, also where procman has nothing to choose.
    """

    name: str
    form: Form = Form.TEXT
    required: bool = False
    only: tuple[Any, ...] = ()
    doc: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command. ``waits``: it starts an operation, whose end the reply waits for when ``waiting`` is true.

    A command with ``means`` is another name: `parse` turns it into that command, with the properties ``adapt`` makes.
    """

    name: str
    doc: str
    properties: tuple[Property, ...] = ()
    waits: bool = False
    means: str = ""
    adapt: Callable[[dict[str, Any]], dict[str, Any]] = dict


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that has passed validation: ``command`` is in the table, ``properties`` have their forms."""

    id: str | int | None
    command: str
    properties: Mapping[str, Any]
    deadline: float | None = None
    cast: bool = False  # Circus: no reply is wanted

    @property
    def names(self) -> tuple[str, ...]:
        """The pools or workers that are meant; empty for all of them."""
        name = self.properties.get("name", ())
        return (name,) if isinstance(name, str) else tuple(name)

    @property
    def waiting(self) -> bool:
        """The reply is to wait for the end of the operation."""
        return bool(self.properties.get("waiting", False))

    def late(self, now: float) -> bool:
        """The deadline has passed; ``now`` is wall-clock time, because another process has set the deadline."""
        return self.deadline is not None and now > self.deadline


def _scale_by(sign: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def adapt(properties: dict[str, Any]) -> dict[str, Any]:
        return {**{k: v for k, v in properties.items() if k != "nb"}, "by": sign * properties.get("nb", 1)}

    return adapt


_WAITING = Property(name="waiting", form=Form.FLAG, doc="answer when the operation has ended, not when it has begun")
_POOLS = Property(name="name", form=Form.TEXTS, doc="the pools; without it, all")
_POOL = Property(name="name", doc="the pool; without it, all")
_ONE_POOL = Property(name="name", required=True, doc="the pool")
_TARGET = Property(name="name", doc="a pool or a worker; without it, all")
_MATCH = Property(name="match", only=("glob", "simple"), doc="how names are compared; a pattern is a glob")
_PID = Property(name="pid", form=Form.COUNT, doc="only the worker with this pid")
_NB = Property(name="nb", form=Form.COUNT, doc="how many; 1 by default")

COMMANDS: Mapping[str, Command] = {
    command.name: command
    for command in (
        Command(name="list", doc="The names of the pools, or the pids of one pool's workers.", properties=(_POOL,)),
        Command(
            name="status",
            doc="State of the daemon and its pools, with the last exits, what is parked and what is under way.",
            properties=(_TARGET,),
        ),
        Command(
            name="stats",
            doc="Figures of the daemon, its pools and their workers.",
            properties=(_TARGET, Property(name="extended", form=Form.FLAG, only=(False,), doc="not supported")),
        ),
        Command(name="numprocesses", doc="How many workers there are.", properties=(_POOL,)),
        Command(name="check", doc="Whether every pool has the workers it should have, and what is missing."),
        Command(
            name="dumpstacks",
            doc="The Python stacks of every thread, by worker, with the unit that each worker is in.",
            properties=(Property(name="name", form=Form.TEXTS, doc="pools or workers; without it, all"),),
        ),
        Command(
            name="reload",
            doc="Replace the workers by a new generation with the code as it is on disk now; no request is lost.",
            properties=(
                _POOLS,
                _WAITING,
                Property(name="graceful", form=Form.FLAG, only=(True,), doc="always; see restart"),
                Property(name="sequential", form=Form.FLAG, only=(False,), doc="not supported"),
            ),
            waits=True,
        ),
        Command(
            name="start",
            doc="Start pools that are stopped or parked.",
            properties=(_POOLS, _WAITING, _MATCH),
            waits=True,
        ),
        Command(
            name="stop", doc="Stop pools; each unit may finish.", properties=(_POOLS, _WAITING, _MATCH), waits=True
        ),
        Command(name="restart", doc="Stop pools, then start them.", properties=(_POOLS, _WAITING, _MATCH), waits=True),
        Command(
            name="scale",
            doc="Have this many workers in a pool, or so many more or fewer.",
            properties=(
                _ONE_POOL,
                Property(name="count", form=Form.COUNT, doc="how many workers from now on"),
                Property(name="by", form=Form.INTEGER, doc="how many more; fewer when negative"),
                _WAITING,
            ),
            waits=True,
        ),
        Command(
            name="incr",
            doc="More workers in a pool.",
            properties=(_ONE_POOL, _NB, _WAITING),
            waits=True,
            means="scale",
            adapt=_scale_by(1),
        ),
        Command(
            name="decr",
            doc="Fewer workers in a pool.",
            properties=(_ONE_POOL, _NB, _WAITING),
            waits=True,
            means="scale",
            adapt=_scale_by(-1),
        ),
        Command(
            name="signal",
            doc="Send a signal to a worker, or to every worker of a pool.",
            properties=(
                Property(name="name", required=True, doc="a pool or a worker"),
                Property(name="signum", form=Form.SIGNAL, required=True, doc="the signal"),
                _PID,
                Property(name="children", form=Form.FLAG, only=(False,), doc="not supported"),
                Property(name="recursive", form=Form.FLAG, only=(False,), doc="not supported"),
            ),
        ),
        Command(
            name="kill",
            doc="End a worker now, with its unit; it is replaced.",
            properties=(Property(name="name", required=True, doc="a worker, or its pool with pid"), _PID, _WAITING),
            waits=True,
        ),
        Command(name="shutdown", doc="Stop every pool, then the daemon.", properties=(_WAITING,), waits=True),
        Command(name="quit", doc="The same as shutdown.", properties=(_WAITING,), waits=True, means="shutdown"),
    )
}

# Circus has these. They would let whoever reaches the socket run code of their own.
REFUSED = frozenset({"add", "rm", "ipython"})


# -- requests ---------------------------------------------------------------------------------------------


def parse(data: bytes) -> Request:
    """The request that these bytes are. Raises BadMessage, which says what is wrong with them."""
    message = _load(data)
    identity = message.get("id")
    if not isinstance(identity, (str, int, type(None))):
        raise BadMessage("id: expected a text or a number")
    try:
        return _request(identity, message)
    except BadMessage as error:
        error.id = identity
        raise


def _load(data: bytes) -> dict[str, Any]:
    if len(data) > MOST_BYTES:
        raise BadMessage(f"the message has {len(data)} bytes, the most is {MOST_BYTES}")
    try:
        # NaN and Infinity are no JSON (RFC 8259, section 6), and a deadline of NaN would never pass.
        message = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # RecursionError: thousands of nested brackets
        raise BadMessage(f"the message is not valid JSON: {error}", Errno.INVALID_JSON) from None
    if not isinstance(message, dict):
        raise BadMessage(f"the message is {_a(message)}, expected an object", Errno.INVALID_JSON)
    return message


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _request(identity: str | int | None, message: dict[str, Any]) -> Request:
    command = _command(message.get("command"))
    given = message.get("properties")
    if given is not None and not isinstance(given, dict):
        raise BadMessage(f"properties: expected an object, got {_a(given)}")
    properties = _properties(command, given or {})
    return Request(
        id=identity,
        command=command.means or command.name,
        properties=command.adapt(properties),
        deadline=_deadline(message.get("deadline")),
        cast=message.get("msg_type") == "cast",
    )


def _command(name: Any) -> Command:
    if not isinstance(name, str):
        raise BadMessage(f"command: expected a text, got {_a(name)}")
    word = name[:64].lower()
    if word in REFUSED:
        raise BadMessage(
            f"command {word!r} is refused: it could run code that is not in the configuration", Errno.REFUSED
        )
    if word not in COMMANDS:
        raise BadMessage(f"unknown command {word!r}{did_you_mean(word, COMMANDS)}", Errno.UNKNOWN_COMMAND)
    return COMMANDS[word]


def _deadline(value: Any) -> float | None:
    if value is None:
        return None
    # An integer of any length is valid JSON; one that is no float would raise later, where nobody expects it.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e12:
        raise BadMessage("deadline: expected a time in seconds since the epoch")
    return float(value)


def _properties(command: Command, given: Mapping[str, Any]) -> dict[str, Any]:
    known = {wanted.name: wanted for wanted in command.properties}
    for name in given:
        if name not in known:
            raise BadMessage(f"{command.name}: unknown property {name[:64]!r}{did_you_mean(name[:64], known)}")
    values = {name: _value(command, known[name], value) for name, value in given.items() if value is not None}
    for wanted in command.properties:
        if wanted.required and wanted.name not in values:
            raise BadMessage(f"{command.name}: property {wanted.name!r} is missing")
    if command.name == "scale" and ("count" in values) == ("by" in values):
        raise BadMessage("scale: expected one of the properties 'count' and 'by'")
    return values


def _value(command: Command, wanted: Property, value: Any) -> Any:
    read = _READERS[wanted.form](value)
    if read is None:
        got = "an empty or too long one" if isinstance(value, str) and wanted.form in _TEXTUAL else _a(value)
        raise BadMessage(f"{command.name}: property {wanted.name!r}: expected {wanted.form}, got {got}")
    if wanted.only and read not in wanted.only:
        accepted = " or ".join(json.dumps(one) for one in wanted.only)
        raise BadMessage(f"{command.name}: property {wanted.name!r}: only {accepted} is supported")
    return read


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= 255 else None


def _texts(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, list):
        texts = [_text(item) for item in value]
        return tuple(text for text in texts if text is not None) if None not in texts else None
    text = _text(value)
    return None if text is None else (text,)


def _integer(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        return int(value)  # circusctl passes its arguments on as they were typed
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31 else None


def _count(value: Any) -> int | None:
    number = _integer(value)
    return number if number is not None and number >= 0 else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _signal(value: Any) -> int | None:
    return signal_number(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else None


_READERS: Mapping[Form, Callable[[Any], Any]] = {
    Form.TEXT: _text,
    Form.TEXTS: _texts,
    Form.COUNT: _count,
    Form.INTEGER: _integer,
    Form.FLAG: _flag,
    Form.SIGNAL: _signal,
}


def signal_number(value: str | int) -> int | None:
    """The number of the signal given as ``15``, ``"15"``, ``"TERM"`` or ``"sigterm"``; None when there is none."""
    if isinstance(value, str) and not value.isdigit():
        word = value.upper().removeprefix("SIG")
        found = signal.Signals.__members__.get(f"SIG{word}")
        return None if found is None else int(found)
    number = _integer(value)
    return number if number is not None and number in signal.valid_signals() else None


def _a(value: Any) -> str:
    """What kind of JSON value it is. Never the value itself, which may be a nested bomb or a secret."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return kinds.get(type(value), "a number")


def did_you_mean(word: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    """``", did you mean 'reload'?"`` when a known word is close to this one, else nothing."""
    # Imported only when something is wrong: it costs a procmanctl that is right a few milliseconds.
    from difflib import get_close_matches

    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else ""


# -- messages ---------------------------------------------------------------------------------------------


def request(identity: str, command: str, properties: Mapping[str, Any], deadline: float | None) -> bytes:
    """The bytes of a request."""
    message: dict[str, Any] = {"id": identity, "command": command, "properties": dict(properties)}
    if deadline is not None:
        message["deadline"] = deadline
    return _dump(message)


def ok(identity: str | int | None, time: float, fields: Mapping[str, Any]) -> bytes:
    """The bytes of the reply to a command that was carried out; ``fields`` may have a ``status`` of its own (Circus).

    Raises ValueError or TypeError when ``fields`` can't be JSON.
    """
    return _dump({"id": identity, "status": "ok", "time": time, **fields})


def error(
    identity: str | int | None, time: float, reason: str, errno: int, fields: Mapping[str, Any] | None = None
) -> bytes:
    """The bytes of an error reply; ``tb`` is there because Circus's client looks for it."""
    return _dump(
        {
            "tb": None,
            **(fields or {}),
            "id": identity,
            "status": "error",
            "time": time,
            "reason": reason,
            "errno": int(errno),
        }
    )


def _dump(message: Mapping[str, Any]) -> bytes:
    # ASCII: a lone surrogate from somebody's file name must not make the reply impossible to send.
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode("ascii")
