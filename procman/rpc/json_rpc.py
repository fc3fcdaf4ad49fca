"""JSON-RPC 2.0 on the wire: bytes to calls, results and faults to bytes. Pure.

https://www.jsonrpc.org/specification. An application's own fault is sent as Odoo sends it, with code 200 and its
name in ``data``: that is where clients of Odoo look.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from procman.rpc.faults import Fault, InvalidRequest, ParseError

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_CALLS = 1000  # in one batch
APPLICATION_FAULT = 200

# Fault codes that are JSON-RPC's own.
_OWN = range(-32768, -31999)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call. ``notification``: nobody waits for the answer. ``fault``: it is no valid call."""

    method: str = ""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] | None = None
    id: str | int | float | None = None
    notification: bool = False
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What one body asks for; ``several``: it is an array, and so is the answer."""

    requests: tuple[Request, ...]
    several: bool


def parse(body: bytes) -> Batch:
    """The calls in a body; raises ParseError, or InvalidRequest for an array that is empty or too long."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ParseError(f"this is no JSON: {error}") from None
    if not isinstance(found, list):
        return Batch((_request(found),), several=False)
    if not 1 <= len(found) <= MOST_CALLS:
        raise InvalidRequest(f"a batch has 1 to {MOST_CALLS} calls, this one has {len(found)}")
    return Batch(tuple(_request(each) for each in found), several=True)


def _request(found: Any) -> Request:
    if not isinstance(found, dict) or not isinstance(method := found.get("method"), str):
        return Request(fault=InvalidRequest("a call is an object with a method"))
    identity = found.get("id")
    if isinstance(identity, bool) or not isinstance(identity, str | int | float | None):
        return Request(fault=InvalidRequest("an id is a string or a number"))
    if found.get("jsonrpc") != "2.0":
        return Request(id=identity, fault=InvalidRequest('expected "jsonrpc": "2.0"'))
    params = found.get("params", [])
    notification = "id" not in found
    if isinstance(params, list):
        return Request(method=method, args=tuple(params), id=identity, notification=notification)
    if isinstance(params, dict):
        return Request(method=method, kwargs=params, id=identity, notification=notification)
    return Request(id=identity, fault=InvalidRequest("params are an array or an object"))


def response(identity: Any, value: Any) -> bytes:
    """The answer with a result, such as `for_json` has made."""
    return _dumps({"jsonrpc": "2.0", "id": identity, "result": value})


def stream(identity: Any, values: Iterator[Any]) -> Iterator[bytes]:
    """The answer with an array of what comes, each such as `for_json` has made."""
    yield b'{"jsonrpc": "2.0", "id": ' + _dumps(identity) + b', "result": ['
    separator = b""
    for value in values:
        yield separator + _dumps(value)
        separator = b", "
    yield b"]}"


def failure(identity: Any, fault: Fault) -> bytes:
    """The answer with a fault."""
    kind = type(fault)
    described: dict[str, Any] = {
        "code": fault.code if fault.code in _OWN else APPLICATION_FAULT,
        "message": str(fault),
        "data": {
            "name": f"{kind.__module__}.{kind.__qualname__}",
            "message": str(fault),
            "arguments": [str(argument) for argument in fault.args],
            "fault_code": fault.code,
        },
    }
    return _dumps({"jsonrpc": "2.0", "id": identity, "error": described})


def several(answers: list[bytes]) -> bytes:
    """The answers of a batch."""
    return b"[" + b", ".join(answers) + b"]"


def _dumps(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode()
