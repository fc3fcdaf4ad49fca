"""What the workers under test serve; loaded in their processes."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

StartResponse = Any
OK = "200 OK"


def hello(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    body = f"hello from {os.getpid()}".encode()
    start_response(OK, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def echo(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    data = environ["wsgi.input"].read()
    start_response(OK, [("X-Length", environ.get("CONTENT_LENGTH", "")), ("X-Hash", hashlib.sha256(data).hexdigest())])
    return [data if len(data) < 100_000 else b"%d" % len(data)]


def show_environ(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    start_response(OK, [("Content-Type", "application/json")])
    return [json.dumps({key: value for key, value in environ.items() if isinstance(value, str)}).encode()]


def blocks(environ: dict[str, Any], start_response: StartResponse) -> Iterator[bytes]:
    count, size = environ["QUERY_STRING"].split(",")
    start_response(OK, [])
    for number in range(int(count)):
        yield b"%c" % (97 + number % 26) * int(size)


def big(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    start_response(OK, [])
    return [b"x" * int(environ["QUERY_STRING"])]


def send_file(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    # The application of PEP 3333 leaves the file to the server, which closes it.
    file = open(environ["QUERY_STRING"], "rb")  # noqa: SIM115
    start_response(OK, [])
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
    return wrapped


def fail(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    raise {"exit": SystemExit, "interrupt": KeyboardInterrupt}.get(environ["QUERY_STRING"], LookupError)("on purpose")


def fail_late(environ: dict[str, Any], start_response: StartResponse) -> Iterator[bytes]:
    start_response(OK, [])
    yield b"so far so good"
    raise LookupError("on purpose")


def hold(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """Tell the test that the unit runs, and go on when it says so."""
    with socket.socket(socket.AF_UNIX) as test:
        test.connect(environ["QUERY_STRING"])
        test.recv(1)
    start_response(OK, [])
    return [b"held"]


def trickle(environ: dict[str, Any], start_response: StartResponse) -> Iterator[bytes]:
    """A first block at once, the second one when the test says so."""
    start_response(OK, [])
    yield b"first"
    with socket.socket(socket.AF_UNIX) as test:
        test.connect(environ["QUERY_STRING"])
        test.recv(1)
    yield b"second"


def burn(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    end = time.process_time() + 30
    while time.process_time() < end:
        pass
    start_response(OK, [])
    return [b"burnt"]


def inject(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    start_response(OK, [("X-Bad", "a\r\nSet-Cookie: evil=1")])
    return [b"never"]


def nothing(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    start_response(environ["QUERY_STRING"].replace("+", " "), [])
    return [b"not to be sent"]


def short(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    start_response(OK, [("Content-Length", "100")])
    return [b"too short"]


def long(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    start_response(OK, [("Content-Length", "3")])
    return [b"to", b"o long"]


def accel(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    start_response(OK, [("X-Accel-Redirect", "/protected/x"), ("X-Sendfile", "/srv/x")])
    return []


ROUTES: dict[str, Callable[..., Iterable[bytes]]] = {
    "/": hello,
    "/echo": echo,
    "/environ": show_environ,
    "/blocks": blocks,
    "/big": big,
    "/file": send_file,
    "/fail": fail,
    "/fail-late": fail_late,
    "/hold": hold,
    "/trickle": trickle,
    "/burn": burn,
    "/inject": inject,
    "/nothing": nothing,
    "/short": short,
    "/long": long,
    "/accel": accel,
}


def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    return ROUTES[environ["PATH_INFO"] if environ["PATH_INFO"] in ROUTES else "/"](environ, start_response)


def strict(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    data = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or "0"))
    environ["wsgi.errors"].write("")
    start_response(OK, [("Content-Type", "application/octet-stream")])
    return [data or b"empty"]


validated = validator(strict)
