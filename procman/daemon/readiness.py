"""Readiness of commands that speak sd_notify(3): the daemon plays the service manager for them.

The socket has an abstract name, so that it needs no file and no path that is short enough. Anybody on the machine could
send to it; but the kernel says which process a message is from (SCM_CREDENTIALS, unix(7)), and only those of a
command's own session count.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from procman.daemon.loop import Loop

_UCRED = struct.Struct("3i")
_MOST_BYTES = 4096
_MOST_AT_ONCE = 64  # anybody may send: whoever floods us must not keep the loop from its work


class ReadinessSocket:
    """Calls ``on_ready`` with the leader of the session that has said READY=1."""

    def __init__(self, loop: Loop, on_ready: Callable[[int], None], inherited: int | None = None) -> None:
        self._loop = loop
        self._on_ready = on_ready
        if inherited is not None:  # commands know its name from their environment
            self._socket = socket.socket(fileno=inherited)
        else:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._socket.bind("")  # autobind: the kernel chooses an abstract name that is free (unix(7))
        loop.add_reader(self._socket.fileno(), self._receive)

    @property
    def address(self) -> str:
        """For $NOTIFY_SOCKET."""
        name = self._socket.getsockname()
        return "@" + (name.decode() if isinstance(name, bytes) else name).removeprefix("\0")

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _receive(self) -> None:
        for _ in range(_MOST_AT_ONCE):
            try:
                data, ancillary, _, _ = self._socket.recvmsg(_MOST_BYTES, socket.CMSG_SPACE(_UCRED.size))
            except BlockingIOError:
                return
            for level, kind, payload in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and b"READY=1" in data.splitlines():
                    self._ready(_UCRED.unpack_from(payload)[0])

    def _ready(self, pid: int) -> None:
        try:
            leader = os.getsid(pid)
        except ProcessLookupError:
            return  # gone already; what it was ready for does not matter any more
        self._on_ready(leader)
