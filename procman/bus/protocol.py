"""What a poll looks like on the wire: JSON-RPC 2.0, with the method, parameters and result of Odoo's long polling.

    {"jsonrpc": "2.0", "method": "call", "id": 7,
     "params": {"channels": ["prices"], "last": 41, "options": {"peek": false, "database": null}}}
    {"jsonrpc": "2.0", "id": 7, "result": [{"id": 42, "channel": "prices", "message": {"price": "12.50"}}]}

The parameters alone are understood too. With ``options.peek`` the answer comes at once and says where the bus
stands: ``{"notifications": […], "channels": […], "last": 42}``. Bytes in, bytes out: nothing here waits or knows
of HTTP.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from procman.bus.hub import Message

MOST_CHANNELS = 1000

# JSON-RPC 2.0, section 5.1.
PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
# From here on the numbers are the implementation's own.
UNAVAILABLE = -32000


class PollError(Exception):
    """The request can't be carried out; ``str()`` says why, for the client. ``id`` is the request's, if it had one."""

    def __init__(self, code: int, reason: str, request_id: Any = None) -> None:
        super().__init__(reason)
        self.code = code
        self.id = request_id


@dataclass(frozen=True, slots=True, kw_only=True)
class PollRequest:
    """One poll: everything newer than ``last`` on ``channels``; 0 is "from now on"."""

    id: Any = None
    channels: tuple[str, ...]
    last: int = 0
    peek: bool = False
    database: str | None = None


def parse(body: bytes) -> PollRequest:
    """The poll that these bytes ask for. Raises PollError."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise PollError(PARSE_ERROR, "the body is not JSON") from None
    if not isinstance(data, dict):
        raise PollError(INVALID_REQUEST, "expected one JSON-RPC request object")
    if "params" not in data and "channels" in data:
        return _request(None, data)
    request_id = data.get("id")
    if isinstance(request_id, bool) or not isinstance(request_id, (str, int, type(None))):
        raise PollError(INVALID_REQUEST, "id: expected a string or a whole number")
    if data.get("method", "call") != "call":
        raise PollError(METHOD_NOT_FOUND, 'method: expected "call"', request_id)
    params = data.get("params")
    if not isinstance(params, dict):
        raise PollError(INVALID_PARAMS, "params: expected an object", request_id)
    return _request(request_id, params)


def _request(request_id: Any, params: dict[str, Any]) -> PollRequest:
    channels = params.get("channels")
    if not isinstance(channels, list) or not all(map(_is_text, channels)):
        raise PollError(INVALID_PARAMS, "channels: expected a list of strings", request_id)
    if len(channels) > MOST_CHANNELS:
        raise PollError(INVALID_PARAMS, f"channels: at most {MOST_CHANNELS}", request_id)
    last = params.get("last") or 0
    # 2**63 is where PostgreSQL's bigint ends.
    if isinstance(last, bool) or not isinstance(last, int) or not 0 <= last < 2**63:
        raise PollError(INVALID_PARAMS, "last: expected the id of a message, or 0", request_id)
    options = params.get("options") or {}
    if not isinstance(options, dict):
        raise PollError(INVALID_PARAMS, "options: expected an object", request_id)
    database = options.get("database")
    if not isinstance(database, (str, type(None))):
        raise PollError(INVALID_PARAMS, "options.database: expected a string", request_id)
    return PollRequest(
        id=request_id, channels=tuple(channels), last=last, peek=bool(options.get("peek")), database=database
    )


def _is_text(value: Any) -> bool:
    # What PostgreSQL takes as text: neither NUL nor half of a surrogate pair.
    return isinstance(value, str) and "\0" not in value and not any("\ud800" <= char <= "\udfff" for char in value)


def answer(request: PollRequest, messages: Sequence[Message], last: int) -> bytes:
    """The answer to a poll that stands at ``last`` after these messages."""
    items = _items(messages)
    if request.peek:
        channels = json.dumps(request.channels)
        items = f'{{"notifications": {items}, "channels": {channels}, "last": {last}}}'
    return f'{{"jsonrpc": "2.0", "id": {json.dumps(request.id)}, "result": {items}}}'.encode()


def error(problem: PollError) -> bytes:
    """The answer to a request that can't be carried out."""
    data = {"jsonrpc": "2.0", "id": problem.id, "error": {"code": problem.code, "message": str(problem)}}
    return json.dumps(data).encode()


def _items(messages: Iterable[Message]) -> str:
    # The text of a message is JSON already; it is written once however many readers get it.
    return "[" + ", ".join(map(_item, messages)) + "]"


def _item(message: Message) -> str:
    return f'{{"id": {message.id}, "channel": {json.dumps(message.channel)}, "message": {message.text}}}'
