"""A message channel between two processes: an AF_UNIX SOCK_SEQPACKET pair that carries JSON and descriptors.

SEQPACKET keeps message boundaries and, unlike a datagram pair, tells each end when the other is gone (unix(7)).
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from procman.core.codec import decode, encode
from procman.errors import ChannelClosed

MOST_BYTES = 256 * 1024  # more than any socket buffer of the default size holds
MOST_FDS = 64


class Channel:
    """One end. ``receives`` is the union of the message types that this end understands."""

    def __init__(self, sock: socket.socket, receives: Any) -> None:
        self._sock = sock
        self._receives = receives

    @classmethod
    def from_fd(cls, fd: int, receives: Any) -> Channel:
        """The end that another process has handed over as a descriptor."""
        return cls(socket.socket(fileno=fd), receives)

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, message: Any, *fds: int) -> None:
        """Send one message, with descriptors. Raises ChannelClosed; never blocks for a slow reader.

        A reader that does not read for so long that its buffer is full is as good as gone: ChannelClosed.
        """
        data = json.dumps(encode(message), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        try:
            self._sock.setblocking(False)
            socket.send_fds(self._sock, [data], list(fds), socket.MSG_NOSIGNAL)
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
            data, fds, _, _ = socket.recv_fds(self._sock, MOST_BYTES, MOST_FDS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        except OSError as error:
            raise ChannelClosed(str(error)) from error
        if not data:
            raise ChannelClosed("end of file")
        try:
            return decode(self._receives, json.loads(data)), fds
        except ValueError:
            for fd in fds:
                os.close(fd)
            raise

    def ended(self) -> bool:
        """The other end is gone and nothing is left to be read."""
        try:
            self._sock.setblocking(False)
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
