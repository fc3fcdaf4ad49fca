"""A network cable to a server, which can be cut: then nothing arrives any more, and nobody is told."""

from __future__ import annotations

import select
import socket
import threading


class Cable:
    """Listens on a port of its own and passes on what comes, both ways, until it is `cut`."""

    def __init__(self, server: str) -> None:
        """``server`` is the path of a unix socket."""
        self._server = server
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

    def _pass_on(self, end: socket.socket) -> None:
        other = self._ends[end]
        try:
            if data := end.recv(65536):
                other.sendall(data)
                return
        except OSError:
            pass
        for each in (end, other):
            del self._ends[each]
            each.close()
