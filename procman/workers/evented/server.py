"""gevent's WSGI server, made fit for a worker that shares its socket, is replaced in service, and is not alone.

What is changed: answers leave at once, idle and slow clients are bounded in time, the log is procman's, and the
connections are known, so that a worker can leave without breaking off any answer.
"""

from __future__ import annotations

import logging
import socket
import threading
from typing import TYPE_CHECKING, Any

from gevent import Timeout, with_timeout
from gevent.pywsgi import LoggingLogAdapter, WSGIHandler, WSGIServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

log = logging.getLogger("procman.longpolling")

# Longer than a browser's poll and its pause, shorter than what proxies and NAT tables remember.
KEEPALIVE = 75.0
HEADER_TIMEOUT = 10.0
# For a connection that becomes idle when the worker is about to go, and has not told the client so.
_LAST_CALL = 1.0


class Connections:
    """The open connections of a worker, which ``is_leaving`` says is about to go."""

    def __init__(self, is_leaving: Callable[[], bool]) -> None:
        self._is_leaving = is_leaving
        self._open: set[Handler] = set()
        self._changed = threading.Event()

    @property
    def leaving(self) -> bool:
        """No more connections, and every answer from now on is the last of its connection."""
        return self._is_leaving()

    def add(self, handler: Handler) -> None:
        self._open.add(handler)

    def discard(self, handler: Handler) -> None:
        self._open.discard(handler)
        self._changed.set()

    def drain(self, *, linger: float) -> None:
        """Wait until all connections are closed; idle ones are closed after ``linger`` seconds."""
        with_timeout(linger, self._wait_until_none, timeout_value=None)
        for handler in list(self._open):
            handler.hang_up_if_idle()
        self._wait_until_none()

    def __len__(self) -> int:
        return len(self._open)

    def _wait_until_none(self) -> None:
        while self._open:
            self._changed.clear()
            self._changed.wait()


class Handler(WSGIHandler):
    """One connection."""

    server: Server

    def handle(self) -> None:
        self.idle = True
        self.server.connections.add(self)
        try:
            super().handle()
        finally:
            self.server.connections.discard(self)

    def hang_up_if_idle(self) -> None:
        """Make a connection that waits for a request see the end of it."""
        if self.idle:
            try:
                self.socket.shutdown(socket.SHUT_RD)
            except OSError:
                pass  # the client was faster

    def read_requestline(self) -> str:
        self.idle = True
        seconds = _LAST_CALL if self.server.connections.leaving else KEEPALIVE
        line: str = with_timeout(seconds, super().read_requestline, timeout_value="")
        self.idle = False
        return line

    def read_request(self, raw_requestline: str) -> Any:
        with Timeout(HEADER_TIMEOUT, _TooSlow("the header did not arrive in time")):
            return super().read_request(raw_requestline)

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        environ["procman.socket"] = self.socket
        return environ

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if self.server.connections.leaving:
            headers = [*headers, ("Connection", "close")]
        return super().start_response(status, headers, exc_info)

    def log_request(self) -> None:
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s", self.format_request())

    def log_error(self, msg: str, *args: object) -> None:
        # What clients do wrong is not an error of ours.
        log.info(msg, *args) if args else log.info("%s", msg)


class _TooSlow(ValueError):
    """Answered with 400, as pywsgi answers every ValueError from reading a request."""


class Server(WSGIServer):
    """Accepts on a socket that is bound, listening, and shared with other workers."""

    handler_class = Handler

    def __init__(self, listener: socket.socket, application: Application, connections: Connections) -> None:
        self.connections = connections
        errors = LoggingLogAdapter(log, logging.WARNING)
        # multiprocess: accept one connection at a time, and leave the others to the other workers.
        environ = {"wsgi.multiprocess": True, "SERVER_NAME": _name(listener)}
        super().__init__(listener, application, log=None, error_log=errors, environ=environ)

    def do_read(self) -> Any:
        # An orphan's sockets are shut down, which makes them readable; there is nothing to accept from them.
        return None if self.connections.leaving else super().do_read()

    def handle(self, sock: Any, address: Any) -> None:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            # pywsgi sends head and body apart: without this the body waits for the client's delayed
            # acknowledgement of the head, 40 ms (Nagle's algorithm, tcp(7)).
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().handle(sock, address)


def _name(listener: socket.socket) -> str:
    # Said here, because pywsgi would ask the resolver for it.
    address = listener.getsockname()
    return str(address[0]) if isinstance(address, tuple) else ""
