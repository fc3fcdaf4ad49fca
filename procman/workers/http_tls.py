"""TLS on the connections of an http pool, for people without a proxy.

The handshake takes its turns in the worker's epoll like everything that a client may be slow with; it begins with
the first byte of the client and has to be through within `header_timeout`.
"""

from __future__ import annotations

import logging
import socket
import ssl
from functools import lru_cache
from select import EPOLLIN, EPOLLOUT
from typing import TYPE_CHECKING, cast

from procman.config.certificates import load
from procman.errors import BadRequest
from procman.workers.http_proxies import set_scheme

if TYPE_CHECKING:
    from procman.core.spec import HttpWork
    from procman.workers.http_connection import Connection

log = logging.getLogger("procman.http")

_PLAIN_HTTP = "HTTP_REQUEST"  # OpenSSL's reason when it has seen a method where a handshake should be


@lru_cache(maxsize=1)
def _context(certfile: str, keyfile: str | None) -> ssl.SSLContext:
    return load(certfile, keyfile)


def context(work: HttpWork) -> ssl.SSLContext | None:
    """What the pool serves with; None when it speaks plain HTTP.

    Loaded once, by the template and as the daemon's own user, who alone can read the key as a rule; inherited by all
    workers of the generation, so that a session begun with one of them can be resumed with any. Raises
    CertificateError.
    """
    return None if work.certfile is None else _context(work.certfile, work.keyfile)


class TlsStream:
    """A connection's socket with TLS around it: a `Stream` of what is inside.

    BlockingIOError means that OpenSSL has to wait first: for whichever direction ``wants`` says.
    """

    __slots__ = ("_aborted", "_connection", "_established", "_tls", "wants")

    def __init__(self, connection: Connection, sock: socket.SocketType, tls: ssl.SSLContext) -> None:
        self._connection = connection
        self._tls = tls.wrap_socket(cast(socket.socket, sock), server_side=True, do_handshake_on_connect=False)
        self._established = False
        self._aborted = False
        self.wants = EPOLLIN

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Decrypted bytes; empty at the end."""
        self.wants = EPOLLIN
        try:
            if not self._established:
                self._shake_hands()
            data = self._tls.recv(size)
            # A record that OpenSSL has read already is not seen by epoll any more.
            while data and (pending := self._tls.pending()):
                data += self._tls.recv(pending)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            self.wants = _direction(error)
            raise BlockingIOError from None
        except ssl.SSLError as error:
            return self._failed(error)
        return data

    def send(self, data: bytes | memoryview, flags: int = 0, /) -> int:
        """How many bytes were taken: as many as the kernel takes, record by record. ``flags`` mean nothing here."""
        self.wants = EPOLLOUT
        sent, view = 0, memoryview(data)
        try:
            while sent < len(view):
                sent += self._tls.send(view[sent:])
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            # OpenSSL keeps the record that it could not send, and has to be given the same bytes again.
            self.wants = _direction(error)
            if not sent:
                raise BlockingIOError from None
        return sent

    def setsockopt(self, level: int, name: int, value: bytes, /) -> None:
        """As of the socket; with SO_LINGER the end is to be a reset."""
        self._aborted = self._aborted or (level, name) == (socket.SOL_SOCKET, socket.SO_LINGER)
        self._tls.setsockopt(level, name, value)

    def shutdown(self, how: int, /) -> None:
        """Say that nothing more comes, in TLS (RFC 8446 section 6.1) and in TCP; what comes in can still be read."""
        self._say_goodbye()
        socket.socket.shutdown(self._tls, how)

    def close(self) -> None:
        """End the connection: in order, unless it was aborted, which must not look like the end of a response."""
        if not self._aborted:
            self._say_goodbye()
        del self._connection  # it knows this object: nothing is left to the garbage collector
        self._tls.close()

    def _say_goodbye(self) -> None:
        if self._established:
            try:
                self._tls.unwrap()
            except (OSError, ValueError):
                pass  # it is out, or can't go out; nobody waits for the answer

    def _shake_hands(self) -> None:
        self._tls.do_handshake()
        self._established = True
        connection = self._connection
        connection.environ = environ = dict(connection.environ)
        set_scheme(environ, "https")
        environ["SSL_PROTOCOL"] = self._tls.version() or ""
        environ["SSL_CIPHER"] = (self._tls.cipher() or ("",))[0]

    def _failed(self, error: ssl.SSLError) -> bytes:
        connection = self._connection
        if not self._established and error.reason == _PLAIN_HTTP:
            connection.put_on(socket.SocketType(fileno=self._tls.detach()), plain=True)
            return connection.refuse(BadRequest("this is plain HTTP, and TLS is spoken here: ask with https://"))
        log.info("TLS with %s failed: %s", connection.peer[0], error.reason or error)
        return b""


def _direction(error: ssl.SSLError) -> int:
    return EPOLLOUT if isinstance(error, ssl.SSLWantWriteError) else EPOLLIN
