"""A message channel between two processes: an AF_UNIX SOCK_SEQPACKET pair that carries JSON and descriptors.

SEQPACKET keeps message boundaries and, unlike a datagram pair, tells each end when the other is gone (unix(7)).
"""

from __future__ import annotations

import json
import os
import socket
import struct
from array import array
from typing import Any

from procman.core.codec import decode, encode
from procman.errors import ChannelClosed, ChannelFull

MOST_BYTES = 256 * 1024  # more than any socket buffer of the default size holds
MOST_FDS = 64

_FD_SIZE = array("i").itemsize
_CREDENTIALS = struct.Struct("3i")  # struct ucred, unix(7): pid, uid, gid
_ANCILLARY = socket.CMSG_SPACE(MOST_FDS * _FD_SIZE) + socket.CMSG_SPACE(_CREDENTIALS.size)


class Channel:
    """One end. ``receives`` is the union of the message types that this end understands.

    ``sender`` is the pid of who sent the last message, by the word of the kernel; None before `know_senders`.
    """

    def __init__(self, sock: socket.socket, receives: Any) -> None:
        self._sock = sock
        self._receives = receives
        self.sender: int | None = None

    @classmethod
    def from_fd(cls, fd: int, receives: Any) -> Channel:
        """The end that another process has handed over as a descriptor."""
        return cls(socket.socket(fileno=fd), receives)

    def fileno(self) -> int:
        return self._sock.fileno()

    def know_senders(self) -> None:
        """Have the kernel say of each message from now on who sends it (SO_PASSCRED, unix(7))."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def send(self, message: Any, *fds: int) -> None:
        """Send one message, with descriptors. Raises ChannelClosed; never blocks for a slow reader.

        A reader that does not read for so long that its buffer is full is as good as gone: ChannelFull.
        """
        data = json.dumps(encode(message), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        try:
            self._sock.setblocking(False)
            socket.send_fds(self._sock, [data], list(fds), socket.MSG_NOSIGNAL)
        except BlockingIOError as error:
            raise ChannelFull(f"cannot send {type(message).__name__}: it does not read") from error
        except OSError as error:
            raise ChannelClosed(f"cannot send {type(message).__name__}: {error.strerror}") from error

    def receive(self, *, wait: bool = False) -> tuple[Any, list[int]] | None:
        """The next message and its descriptors, which are the caller's to close.

        None when there is none yet and ``wait`` is false. Raises ChannelClosed at the end of the file, and
        ValueError for a message that can't be understood (its descriptors are closed then).
        """
        # Not MSG_DONTWAIT: gevent's socket, which this is in a long-polling worker, waits then all the same.
        self._sock.setblocking(wait)
        try:
            data, ancillary, _, _ = self._sock.recvmsg(MOST_BYTES, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        except OSError as error:
            raise ChannelClosed(str(error)) from error
        if not data:
            raise ChannelClosed("end of file")
        fds = self._take(ancillary)
        try:
            return decode(self._receives, json.loads(data)), fds
        except (ValueError, RecursionError) as error:  # the latter from JSON that is nested a thousand times
            for fd in fds:
                os.close(fd)
            raise ValueError(str(error)) from error

    def _take(self, ancillary: list[tuple[int, int, bytes]]) -> list[int]:
        """Note the sender; the descriptors that came."""
        fds = array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) - len(data) % _FD_SIZE])
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                self.sender = _CREDENTIALS.unpack_from(data)[0]
        return list(fds)

    def ended(self, *, wait: bool = False) -> bool:
        """The other end is gone and nothing is left to be read; ``wait`` until that is so or there is a message."""
        try:
            self._sock.setblocking(wait)
            return not self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        self._sock.close()


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends, both close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
