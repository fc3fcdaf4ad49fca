"""The WSGI application (PEP 3333) that serves what is exposed."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from procman.rpc import json_rpc, services, xml_rpc
from procman.rpc.calls import Origin, Pages
from procman.rpc.credentials import Credentials
from procman.rpc.exposure import names
from procman.rpc.faults import Fault, InternalError, InvalidRequest, Temporary
from procman.rpc.values import for_json, for_xml

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

_JSON = "/jsonrpc"
_XML = {"/xmlrpc": "", "/xmlrpc/2/common": "common", "/xmlrpc/2/object": "object"}
_TYPES = {
    _JSON: ("application/json", "application/json-rpc", "application/jsonrequest"),
    **dict.fromkeys(_XML, ("text/xml", "application/xml")),
}


def serves(path: str) -> bool:
    """Whether a request for this path is for `application`: only where something is exposed."""
    return path in _TYPES and bool(names())


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Serve one body of calls, each of which is a unit of its own; not to be called inside of a unit."""
    path = environ.get("PATH_INFO", "")
    media_type = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    if path not in _TYPES:
        return _refuse(start_response, "404 Not Found")
    if environ["REQUEST_METHOD"] != "POST":
        return _refuse(start_response, "405 Method Not Allowed", ("Allow", "POST"))
    # Browsers send these types to other sites only after having asked (Fetch, CORS protocol), which is refused.
    if media_type not in _TYPES[path] or environ.get("HTTP_CONTENT_ENCODING", "identity").lower() != "identity":
        return _refuse(start_response, "415 Unsupported Media Type", ("Accept", _TYPES[path][0]))
    body = _body(environ)
    if path == _JSON:
        status, answer = _json(body, _origin(environ, for_json))
        content_type = "application/json"
    else:
        status, answer = _xml(body, _origin(environ, for_xml), _XML[path])
        content_type = "text/xml; charset=utf-8"
    headers = [("Content-Type", content_type)] if answer else []
    if status.startswith("503"):
        headers.append(("Retry-After", "1"))
    if not isinstance(answer, bytes):
        start_response(status, headers)
        return answer
    if answer:
        headers.append(("Content-Length", str(len(answer))))
    start_response(status, headers)
    return [answer]


# -- JSON-RPC -----------------------------------------------------------------------------------------------


def _json(body: bytes, origin: Origin) -> tuple[str, bytes | Iterator[bytes]]:
    try:
        batch = json_rpc.parse(body)
    except Fault as fault:
        return "200 OK", json_rpc.failure(None, fault)
    if batch.several:
        answers = [_json_answer(origin, request)[1] for request in batch.requests]
        wanted = [each for each in answers if isinstance(each, bytes) and each]
        return ("200 OK", json_rpc.several(wanted)) if wanted else ("204 No Content", b"")
    return _json_answer(origin, batch.requests[0], may_stream=True)


def _json_answer(
    origin: Origin, request: json_rpc.Request, *, may_stream: bool = False
) -> tuple[str, bytes | Iterator[bytes]]:
    """The status if this were the only call, and what to say; nothing to a notification."""
    status = "200 OK"
    answer: bytes | Iterator[bytes]
    try:
        if request.fault is not None:
            raise request.fault
        result = _json_call(origin, request, may_stream=may_stream and not request.notification)
    except Fault as fault:
        answer = json_rpc.failure(request.id, fault)
        status = _status(fault)
    else:
        if isinstance(result, Pages):
            return status, json_rpc.stream(request.id, result.values)
        answer = json_rpc.response(request.id, result)
    return ("204 No Content", b"") if request.notification else (status, answer)


def _json_call(origin: Origin, request: json_rpc.Request, *, may_stream: bool) -> Any:
    match request:
        case json_rpc.Request(method="call", kwargs={"service": str(name), "method": str(method), "args": list(args)}):
            return services.service(origin, name, method, args, may_stream=may_stream)
        case json_rpc.Request(method="call", kwargs={"service": _}):
            raise InvalidRequest("expected params with a service, a method and args")
        case _:
            return services.direct(origin, request.method, request.args, request.kwargs or {}, may_stream=may_stream)


# -- XML-RPC ------------------------------------------------------------------------------------------------


def _xml(body: bytes, origin: Origin, service: str) -> tuple[str, bytes | Iterator[bytes]]:
    try:
        method, args = xml_rpc.parse(body)
        if service:
            result = services.service(origin, service, method, args, may_stream=True)
        elif method.startswith("system."):
            result = services.system(origin, method, args)
        else:
            result = services.direct(origin, method, args, {}, may_stream=True)
    except Fault as fault:
        return _status(fault), xml_rpc.failure(fault)
    if isinstance(result, Pages):
        return "200 OK", xml_rpc.stream(result.values)
    return "200 OK", xml_rpc.response(result)


# -- HTTP ---------------------------------------------------------------------------------------------------


def _status(fault: Fault) -> str:
    """Both protocols want 200 for a fault; what can be tried again is said so that proxies and clients see it."""
    if isinstance(fault, Temporary):
        return "503 Service Unavailable"
    return "500 Internal Server Error" if isinstance(fault, InternalError) else "200 OK"


def _refuse(start_response: StartResponse, status: str, *headers: tuple[str, str]) -> list[bytes]:
    body = status.encode() + b"\n"
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), *headers])
    return [body]


def _body(environ: WSGIEnvironment) -> bytes:
    stream = environ["wsgi.input"]
    body: bytes = stream.read() if environ.get("wsgi.input_terminated") else stream.read(_length(environ))
    return body


def _length(environ: WSGIEnvironment) -> int:
    length = environ.get("CONTENT_LENGTH", "")
    return int(length) if length.isdecimal() else 0


def _origin(environ: WSGIEnvironment, prepare: Any) -> Origin:
    address = environ.get("REMOTE_ADDR", "")
    # What the pool's `database_from` says, or else what the caller asks for: both only among those configured.
    database = environ.get("procman.database") or parse_qs(environ.get("QUERY_STRING", "")).get("db", [None])[0]
    return Origin(address, _credentials(environ, address, database), database, prepare)


def _credentials(environ: WSGIEnvironment, address: str, database: str | None) -> Credentials | None:
    """What the Authorization header shows: Basic (RFC 7617, as UTF-8) or Bearer (RFC 6750)."""
    scheme, _, shown = environ.get("HTTP_AUTHORIZATION", "").strip().partition(" ")
    match scheme.lower():
        case "bearer":
            return Credentials(None, None, shown.strip(), database, address)
        case "basic":
            try:
                login, colon, secret = base64.b64decode(shown, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                return None
            return Credentials(login, None, secret, database, address) if colon else None
        case _:
            return None
