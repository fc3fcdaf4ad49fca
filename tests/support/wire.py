"""A proxy before PostgreSQL that counts the messages clients send: round trips as they really are.

PostgreSQL 18, chapter 54.2: after the start-up message, each message is a type byte and a length; a client that
speaks the simple protocol sends one Query message and waits for the answer.
"""

from __future__ import annotations

import socket
import struct
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class WireProxy:
    """Listens on a socket of PostgreSQL's name in ``directory``; ``queries`` are the texts in order."""

    def __init__(self, directory: Path, upstream: str) -> None:
        self.queries: list[str] = []
        self._upstream = upstream
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / ".s.PGSQL.5432"))
        self._listener.listen()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for sock in self._sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join()
        for sock in (self._listener, *self._sockets):
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._upstream)
            self._sockets += [client, server]
            for work in (self._from_client, self._from_server):
                self._threads.append(threading.Thread(target=work, args=(client, server)))
                self._threads[-1].start()

    def _from_client(self, client: socket.socket, server: socket.socket) -> None:
        try:
            self._count(client, server)
            server.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the proxy is being closed

    def _count(self, client: socket.socket, server: socket.socket) -> None:
        buffer = b""
        start = 0  # the start-up message has no type byte
        while data := client.recv(65536):
            buffer += data
            while len(buffer) >= start + 4:
                (length,) = struct.unpack_from("!I", buffer, start)
                if len(buffer) < start + length:
                    break
                if start and buffer[:1] == b"Q":
                    self.queries.append(buffer[5 : start + length - 1].decode())
                buffer = buffer[start + length :]
                start = 1
            server.sendall(data)

    def _from_server(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := server.recv(65536):
                client.sendall(data)
        except OSError:
            pass
