"""What is said on the control socket: the form of the messages, and which of them are valid.

A request is ``{"id": …, "command": "stats", "properties": {…}}``; a reply repeats the id and has ``status`` "ok" or
"error", ``time`` and, when it is an error, ``reason`` and ``errno``. That is the shape which Circus's clients speak
(circus.commands.base), and where Circus has a command its name and its properties are Circus's. procman adds
``deadline``, in seconds since the epoch: a command that arrives later is not carried out, because its client has
given up and its operator may have done something else since. An upgrade of the daemon costs every connection; a client
that has no answer yet connects anew and repeats its request with the same id and ``"again": true``, and an operation
that has begun is joined and not begun a second time.

Which commands there are is in `procman.control.commands`. This module reads no clock and no socket.
"""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from procman.control.commands import COMMANDS, REFUSED, Form
from procman.errors import ControlError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from procman.control.commands import Command, Property

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
    UPGRADING = 102


_TEXTUAL = (Form.TEXT, Form.TEXTS)


class BadMessage(ControlError):
    """The message is no request that can be carried out; ``errno`` and ``id`` are for the reply."""

    def __init__(self, reason: str, errno: Errno = Errno.MESSAGE_ERROR, id: str | int | None = None) -> None:  # noqa: A002
        super().__init__(reason)
        self.errno = errno
        self.id = id


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that has passed validation: ``command`` is in the table, ``properties`` have their forms."""

    id: str | int | None
    command: str
    properties: Mapping[str, Any]
    deadline: float | None = None
    cast: bool = False  # Circus: no reply is wanted
    again: bool = False  # it was sent before, on a connection that is lost: perhaps it was received, perhaps not

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
        again=message.get("again") is True,
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


def _seconds(value: Any) -> float | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and 0 <= value < 1e9 else None


def _options(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


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
    Form.SECONDS: _seconds,
    Form.SIGNAL: _signal,
    Form.OPTIONS: _options,
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


def request(
    identity: str, command: str, properties: Mapping[str, Any], deadline: float | None, *, again: bool = False
) -> bytes:
    """The bytes of a request; ``again``: what was sent before with this ``identity`` may or may not have come."""
    message: dict[str, Any] = {"id": identity, "command": command, "properties": dict(properties)}
    if deadline is not None:
        message["deadline"] = deadline
    if again:
        message["again"] = True
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
