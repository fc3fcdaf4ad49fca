"""What comes on a connection before HTTP: the header of the PROXY protocol, then the handshake of TLS.

Each of them is a `Stream` that stands in the place of the socket. So they are waited for in the worker's epoll, beside
everything else, and have to be through within `header_timeout`.
"""

from __future__ import annotations

import socket
from select import EPOLLIN
from typing import TYPE_CHECKING

from procman.errors import BadRequest
from procman.wire import proxy_protocol
from procman.workers import http_tls
from procman.workers.http_access import StampedStream
from procman.workers.http_proxies import set_scheme
from procman.workers.wsgi_environ import peer_environ

if TYPE_CHECKING:
    from collections.abc import Callable

    from procman.core.spec import HttpWork
    from procman.wire.forwarded import Trust
    from procman.wire.proxy_protocol import Proxied
    from procman.workers.http_access import Accesses
    from procman.workers.http_connection import Connection

# Who asks when a proxy speaks for somebody it does not know: nobody that is trusted, and not this machine.
_UNKNOWN = "unknown", 0


class Door:
    """What the connections of a pool have to pass. TLS is for TCP: on a unix socket there is nobody to listen."""

    def __init__(self, work: HttpWork, trust: Trust, accesses: Accesses | None = None) -> None:
        self._trust = trust
        self._accesses = accesses
        self._proxy_protocol = work.proxy_protocol
        self._tls = http_tls.context(work)

    def listen(self, sock: socket.SocketType) -> None:
        """Prepare a listening socket."""
        if self._accesses is not None:
            self._accesses.listen(sock)

    def receive(self, connection: Connection, sock: socket.SocketType) -> None:
        """Put before a new connection what it has to pass; mostly that is nothing."""
        if self._proxy_protocol and connection.peer[0] in self._trust:
            connection.put_on(HeaderStream(connection, sock, self._admit), plain=False)
        elif self._tls is not None or self._accesses is not None:
            self._admit(connection, sock)

    def _admit(self, connection: Connection, sock: socket.SocketType) -> None:
        if self._tls is not None and sock.family != socket.AF_UNIX:
            connection.put_on(http_tls.TlsStream(connection, sock, self._tls), plain=False)
        elif self._accesses is not None:
            connection.put_on(StampedStream(sock), plain=True)
        else:
            connection.put_on(sock, plain=True)


class HeaderStream:
    """Reads the PROXY protocol's header from a connection of a trusted proxy, which has to begin with one."""

    __slots__ = ("_connection", "_held", "_sock", "_through", "send", "setsockopt", "shutdown")

    wants = EPOLLIN

    def __init__(
        self, connection: Connection, sock: socket.SocketType, through: Callable[[Connection, socket.SocketType], None]
    ) -> None:
        self._connection = connection
        self._sock = sock
        self._through = through
        self._held = b""
        self.send, self.setsockopt, self.shutdown = sock.send, sock.setsockopt, sock.shutdown

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """What comes after the header. Raises BlockingIOError until it is complete."""
        connection, sock = self._connection, self._sock
        # What is behind the header is not ours to take: with TLS it is OpenSSL that reads it.
        seen = sock.recv(proxy_protocol.LONGEST - len(self._held), socket.MSG_PEEK)
        if not seen:
            return b""
        try:
            found = proxy_protocol.read(self._held + seen)
        except BadRequest as refusal:
            connection.put_on(sock, plain=True)
            return connection.refuse(refusal)
        if found is None:
            self._held += sock.recv(len(seen))
            raise BlockingIOError
        proxied, length = found
        sock.recv(length - len(self._held))
        _introduce(connection, proxied)
        self._through(connection, sock)
        return connection.recv(size)

    def close(self) -> None:
        """End the connection."""
        del self._connection, self._through  # it knows this object: nothing is left to the garbage collector
        self._sock.close()


def _introduce(connection: Connection, proxied: Proxied) -> None:
    if proxied.source is not None and proxied.target is not None:
        host, port = proxied.target
        name = f"[{host}]" if ":" in host else host
        server = {**connection.environ, "SERVER_NAME": name, "SERVER_PORT": str(port)}
        connection.peer = proxied.source
        connection.environ = server
        connection.remote = peer_environ(proxied.source)
    elif not proxied.local:
        connection.peer = _UNKNOWN
    if proxied.tls:
        connection.environ = dict(connection.environ)
        set_scheme(connection.environ, "https")
