"""Asks a command over a socket whether it is ready: connects and, for HTTP, sends a request and reads the answer.

Nothing here waits: the socket does not block, and the loop says when it can be written or read. Whoever accepts and
never answers, answers byte by byte, or without end, gets the probe's timeout and the first bytes, and no more.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

from procman.core.spec import UnixAddress
from procman.core.target import MOST_HEAD, verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from procman.core.spec import TcpAddress
    from procman.core.target import Target
    from procman.daemon.loop import Loop


class Question:
    """One question. ``answer`` is called once, with what speaks against readiness, or an empty text."""

    def __init__(self, loop: Loop, target: Target, timeout: float, answer: Callable[[str], None]) -> None:
        self._loop = loop
        self._target = target
        self._answer = answer
        self._head = b""
        self._timer = loop.call_later(timeout, lambda: self._end(f"no answer within {timeout:g} s"))
        self._socket: socket.socket | None = None
        try:
            self._connect()
        except OSError as error:
            self._end(str(error.strerror or error))

    def _connect(self) -> None:
        family, where = _place(self._target.address)
        sock = self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        status = sock.connect_ex(where)
        if status not in (0, errno.EINPROGRESS):
            raise OSError(status, os.strerror(status))
        self._loop.add_writer(sock.fileno(), self._on_connected)

    def _on_connected(self) -> None:
        if (sock := self._socket) is None:
            return
        status = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if status:
            self._end(os.strerror(status))
        elif sock.family != socket.AF_UNIX and sock.getsockname() == sock.getpeername():
            # Simultaneous open, RFC 9293: the kernel chose the very port that it connects to, where nobody listens.
            self._end(os.strerror(errno.ECONNREFUSED))
        elif not self._target.request:
            self._end("")
        else:
            self._ask(sock)

    def _ask(self, sock: socket.socket) -> None:
        try:
            sock.send(self._target.request, socket.MSG_NOSIGNAL)  # fits into any buffer that is empty
        except OSError as error:
            self._end(str(error.strerror))
            return
        self._loop.remove_reader(sock.fileno())
        self._loop.add_reader(sock.fileno(), self._on_answer)

    def _on_answer(self) -> None:
        if (sock := self._socket) is None:
            return
        try:
            data = sock.recv(MOST_HEAD - len(self._head))
        except BlockingIOError:
            return
        except OSError as error:
            self._end(str(error.strerror))
            return
        self._head += data
        said = verdict(self._head)
        if said is not None:
            self._end(said)
        elif not data:
            self._end("it closes the connection without an answer")

    def _end(self, complaint: str) -> None:
        self._timer.cancel()
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        self._answer(complaint)


def _place(address: TcpAddress | UnixAddress) -> tuple[socket.AddressFamily, str | tuple[str, int]]:
    if isinstance(address, UnixAddress):
        return socket.AF_UNIX, address.path
    return (socket.AF_INET6 if ":" in address.host else socket.AF_INET), (address.host, address.port)
