"""A network cable to a server, which can be cut: then nothing arrives any more, and nobody is told."""

from __future__ import annotations

import select
import socket
import threading


class Cable:
    """Listens on a port of its own and passes on what comes, both ways, until it is `cut`."""

    def __init__(self, server: str, *, without: bytes = b"") -> None:
        """``server`` is the path of a unix socket; messages of PostgreSQL of these types get lost, in plain text."""
        self._server = server
        self._without = without
        self._partial: dict[socket.socket, bytes] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ends: dict[socket.socket, socket.socket] = {}
        self._wake, self._waker = socket.socketpair()
        self._cut = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """From now on what is sent disappears, and new connections are accepted by nobody."""
        self._cut = True
        self._waker.send(b"x")

    def mend(self) -> None:
        """What is sent from now on arrives, on the connections of before as well."""
        self._cut = False
        self._waker.send(b"x")

    def close(self) -> None:
        self._closing = True
        self._waker.send(b"x")
        self._thread.join()
        for end in (*self._ends, self._listener, self._wake, self._waker):
            end.close()

    def _run(self) -> None:
        while not self._closing:
            watched = [self._wake] if self._cut else [self._wake, self._listener, *self._ends]
            for ready in select.select(watched, [], [])[0]:
                if ready is self._wake:
                    self._wake.recv(100)
                elif ready is self._listener:
                    self._connect()
                elif ready in self._ends:
                    self._pass_on(ready)

    def _connect(self) -> None:
        one, _ = self._listener.accept()
        other = socket.socket(socket.AF_UNIX)
        try:
            other.connect(self._server)
        except OSError:
            one.close()
            other.close()
            return
        self._ends |= {one: other, other: one}
        if self._without:
            self._partial[other] = b""

    def _pass_on(self, end: socket.socket) -> None:
        other = self._ends[end]
        try:
            if data := end.recv(65536):
                other.sendall(self._sieve(end, data) if end in self._partial else data)
                return
        except OSError:
            pass
        for each in (end, other):
            del self._ends[each]
            each.close()

    def _sieve(self, end: socket.socket, data: bytes) -> bytes:
        """Whole messages (PostgreSQL, 55.2: a type, and a length that counts itself) but those that get lost."""
        data = self._partial[end] + data
        kept = b""
        while len(data) >= 5 and len(data) > (length := int.from_bytes(data[1:5], "big")):
            if data[:1] not in self._without:
                kept += data[: length + 1]
            data = data[length + 1 :]
        self._partial[end] = data
        return kept
