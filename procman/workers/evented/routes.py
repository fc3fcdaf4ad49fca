"""What is answered under which path: polls, a health check, and everything else by the application."""

from __future__ import annotations

import logging
import socket
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gevent import Timeout

from procman.bus import protocol
from procman.bus.protocol import PollError, PollRequest
from procman.errors import DatabaseUnavailable, NoDatabase
from procman.workers.evented.unit import run_unit
from procman.workers.evented.waiting import watching

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from procman.bus.exchange import Exchange, Polled
    from procman.workers.evented.limits import Units

    StartResponse = Callable[..., Any]
    Environ = dict[str, Any]

log = logging.getLogger("procman.longpolling")

MOST_POLL_BYTES = 64 * 1024
_BODY_TIMEOUT = 10.0

# Where the bus stands after the answer: what to poll from the next time, also if the answer is empty.
LAST_HEADER = "Procman-Last"


class Routes:
    """The WSGI callable of a gevent worker."""

    def __init__(
        self,
        exchange: Exchange,
        application: Any,
        *,
        poll_timeout: float,
        units: Units,
    ) -> None:
        self._exchange = exchange
        self._application = application
        self._poll_timeout = poll_timeout
        self._units = units

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/longpolling/poll":
            return self._poll(environ, start_response)
        if path == "/longpolling/health":
            return _answer(start_response, "200 OK", b'{"status":"pass"}')
        if self._application is None:
            return _answer(start_response, "404 Not Found", b'{"error":"not found"}')
        return self._unit(environ, start_response)

    # -- polls ---------------------------------------------------------------------------------------------

    def _poll(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        headers = _cross_origin(environ)
        if environ["REQUEST_METHOD"] == "OPTIONS":
            start_response("204 No Content", [*headers, *_PREFLIGHT])
            return []
        if environ["REQUEST_METHOD"] != "POST":
            return _answer(
                start_response, "405 Method Not Allowed", b'{"error":"POST it"}', [("Allow", "POST, OPTIONS")]
            )
        try:
            body = _read_body(environ)
        except ValueError as refused:
            # Its rest is still to come: this connection can't be used any more.
            return _answer(start_response, str(refused), b"{}", [*headers, ("Connection", "close")])
        try:
            status, data, last = self._answered(body, environ["procman.socket"])
        except PollError as problem:
            status, data, last = "200 OK", protocol.error(problem), None
            if problem.code == protocol.UNAVAILABLE:
                status = "503 Service Unavailable"
                headers.append(("Retry-After", "1"))
        if last is not None:
            headers.append((LAST_HEADER, str(last)))
        self._units.count("POST /longpolling/poll")
        return _answer(start_response, status, data, headers)

    def _answered(self, body: bytes, client: Any) -> tuple[str, bytes, int]:
        request = protocol.parse(body)
        try:
            polled = self._wait(request, client)
        except (NoDatabase, LookupError) as problem:
            raise PollError(protocol.INVALID_PARAMS, str(problem), request.id) from None
        except DatabaseUnavailable as problem:
            log.warning("A poll can't be answered: %s", problem)
            raise PollError(protocol.UNAVAILABLE, "the database is not available", request.id) from None
        return "200 OK", protocol.answer(request, polled.messages, polled.last), polled.last

    def _wait(self, request: PollRequest, client: Any) -> Polled:
        if request.peek:
            return self._exchange.peek(request.channels, request.last, database=request.database)
        self._units.happened()
        woken = threading.Event()
        departure = _Departure(client, woken)
        with watching([client.fileno()], departure.look) as departure.stop:
            return self._exchange.poll(
                request.channels,
                request.last,
                timeout=self._poll_timeout,
                database=request.database,
                woken=woken,
                given_up=lambda: departure.seen,
            )

    # -- the application -----------------------------------------------------------------------------------

    def _unit(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self._units.begin(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        return run_unit(self._application, environ, start_response, self._units.end)


class _Departure:
    """Notices that the client of a waiting poll has gone, so that nobody waits for the sake of nobody."""

    def __init__(self, client: Any, woken: threading.Event) -> None:
        self._client = client
        self._woken = woken
        self.stop: Callable[[], None] = lambda: None
        self.seen = False

    def look(self) -> None:
        """The socket is readable: that is its end or, which is all right, the next request. Runs in the hub."""
        self.stop()
        self.seen = _has_ended(self._client)
        if self.seen:
            self._woken.set()


def _has_ended(client: Any) -> bool:
    before = client.gettimeout()
    client.settimeout(0.0)
    try:
        return not client.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        client.settimeout(before)


def _read_body(environ: Environ) -> bytes:
    """The body of a poll. Raises ValueError with the status to answer with."""
    with Timeout(_BODY_TIMEOUT, ValueError("408 Request Timeout")):
        body: bytes = environ["wsgi.input"].read(MOST_POLL_BYTES + 1)
    if len(body) > MOST_POLL_BYTES:
        raise ValueError("413 Content Too Large")
    return body


# -- pages of the same host at another port ----------------------------------------------------------------------

_PREFLIGHT = [
    ("Access-Control-Allow-Methods", "POST"),
    ("Access-Control-Allow-Headers", "Content-Type"),
    ("Access-Control-Max-Age", "86400"),
]


def _cross_origin(environ: Environ) -> list[tuple[str, str]]:
    """Let pages read answers that come from the same host name, whatever the port (Fetch standard, CORS protocol).

    That is what a page at port 8069 needs when no proxy unites the two ports. Any other origin is refused by its
    browser: "*" would let every page in the world read this bus through the browser of somebody inside the house.
    """
    origin = environ.get("HTTP_ORIGIN")
    headers = [("Vary", "Origin")]
    if origin and _host_name(origin) and _host_name(origin) == _host_name(f"//{environ.get('HTTP_HOST', '')}"):
        headers.append(("Access-Control-Allow-Origin", origin))
        headers.append(("Access-Control-Expose-Headers", LAST_HEADER))
    return headers


def _host_name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _answer(
    start_response: StartResponse, status: str, body: bytes, headers: Iterable[tuple[str, str]] = ()
) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store"), *headers])
    return [body]
