"""One listening socket of an http worker, and what the connections that come by it have in common."""

from __future__ import annotations

import socket
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from procman.wire.familiar import Familiar
from procman.wire.http import RequestParser
from procman.wire.request import RequestLimits
from procman.workers.http_connection import Connection, Owner
from procman.workers.wsgi import Exchange
from procman.workers.wsgi_environ import base_environ, peer_environ

if TYPE_CHECKING:
    from select import epoll

    from procman.core.spec import HttpWork
    from procman.workers.http_entry import Door


class Listener:
    """Accepts connections and makes them what `work` says they are."""

    def __init__(self, sock: socket.socket, work: HttpWork, poll: epoll, owner: Owner, door: Door) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._work = work
        self._poll = poll
        self._owner = owner
        self._door = door
        door.listen(sock)
        self._limits = RequestLimits(body=work.max_body)
        self._familiar = Familiar()
        self._environ = _environ_of(sock, threads=work.threads > 1)
        self._accept = sock._accept  # type: ignore[attr-defined]
        self._kind = int(sock.family), int(sock.type), sock.proto

    def accept(self) -> Connection:
        """The next connection in the queue. Raises BlockingIOError when there is none, and what accept(2) may say."""
        # What socket.socket.accept() does, without turning the family into an enum twice and without a Python object
        # around the one of C: that is a third of the time that a connection takes.
        fd, address = self._accept()
        sock = socket.SocketType(*self._kind, fileno=fd)
        sock.setblocking(False)
        peer = address[:2] if type(address) is tuple else ("", 0)
        connection = Connection(
            sock,
            fd,
            RequestParser(self._limits, self._new_body, self._familiar, Exchange),
            peer=peer,
            environ=self._environ,
            remote=peer_environ(peer),
            owner=self._owner,
            keeps=self._work.keepalive > 0,
            poll=self._poll,
            spooled_at_most=self._work.response_buffer,
        )
        if self._work.threads > 1:
            connection.read = connection.parser.feed  # all requests are handed over in the same way
        self._door.receive(connection, sock)
        return connection

    def _new_body(self, expected: int | None) -> BinaryIO:
        most = self._work.body_buffer
        if expected is not None and expected <= most:
            return BytesIO()
        return cast(BinaryIO, SpooledTemporaryFile(max_size=most))


def _environ_of(sock: socket.socket, *, threads: bool) -> dict[str, Any]:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return base_environ("localhost", "80", threads=threads)
    host = socket.gethostname() if name[0] in ("0.0.0.0", "::") else name[0]
    return base_environ(host, str(name[1]), threads=threads)
