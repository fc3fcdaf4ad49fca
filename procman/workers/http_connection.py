"""One connection of an http worker: a non-blocking socket, the parser of what comes, the queue of what goes.

It decides nothing about when to read or whom to serve; `procman.workers.http` does.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import socket
import struct
import termios
from email.utils import formatdate
from time import time
from typing import TYPE_CHECKING, Any

from procman.workers.wsgi import ClientGone

if TYPE_CHECKING:
    from collections.abc import Callable

    from procman.wire.http import RequestParser
    from procman.wire.request import Request
    from procman.wire.response import ResponseHead
    from procman.workers.http_timers import TimerQueue
    from procman.workers.wsgi import FileWrapper

log = logging.getLogger("procman.http")

MOST_WAITING = 1024 * 1024  # bytes of a streamed response that may wait for the client before the unit waits
SEND_TIMEOUT = 30.0  # seconds without the client taking a byte
_JOINED = 256 * 1024  # below this, joining the parts of a response is cheaper than sending them one by one
_SENDFILE_AT_ONCE = 4 * 1024 * 1024  # a fast reader of a huge file must let the others have their turn
_CLOSE = b"Connection: close\r\n"
_KEEP = b"Connection: keep-alive\r\n"
_INT = struct.Struct("i")
_RESET = struct.pack("ii", 1, 0)  # socket(7), SO_LINGER: on, no time

_date_second = 0
_date_line = b""


def date_line() -> bytes:
    """The Date header line, made once a second."""
    global _date_second, _date_line
    second = int(time())
    if second != _date_second:
        _date_line = b"Date: %b\r\n" % formatdate(second, usegmt=True).encode("ascii")
        _date_second = second
    return _date_line


class _FilePart:
    """What is still to be sent of a file."""

    __slots__ = ("close", "fd", "left", "offset")

    def __init__(self, region: tuple[int, int, int], close: Callable[[], None] | None) -> None:
        self.fd, self.offset, self.left = region
        self.close = close


class Connection:
    """``closing``: this connection ends after what has been queued. ``closed``: it has ended."""

    __slots__ = (
        "_leaving",
        "_out",
        "_poll",
        "_unsent",
        "closed",
        "closing",
        "environ",
        "events",
        "fd",
        "lingers",
        "parser",
        "peer",
        "sock",
        "timer",
    )

    def __init__(
        self,
        sock: socket.socket,
        parser: RequestParser,
        *,
        peer: tuple[str, int],
        environ: dict[str, Any],
        leaving: Callable[[], bool],
        poll: select.epoll,
    ) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.parser = parser
        self.peer = peer  # address and port; ("", 0) on a unix socket
        self.environ = environ  # what all its requests have in common
        self.events = 0  # what epoll watches
        self.timer: TimerQueue[Connection] | None = None
        self.closing = False
        self.closed = False
        self.lingers = False
        self._leaving = leaving
        self._poll = poll
        self._unsent: int | None = None
        self._out: list[bytes | memoryview | _FilePart] = []

    @property
    def waiting(self) -> bool:
        """Something is still to be sent."""
        return bool(self._out)

    # -- responses (wsgi.Client) ---------------------------------------------------------------------------

    def head(self, request: Request, head: ResponseHead, framing: bytes, *, keep: bool) -> bytes:
        """The head on the wire, with what this connection has to say about itself."""
        if not (keep and request.keep_alive) or (self._leaving() and not self.parser.requests):
            self.closing = True
            framing += _CLOSE
        elif request.version == "HTTP/1.0":
            framing += _KEEP
        return head.render(date_line(), framing)

    def send(self, parts: list[bytes]) -> None:
        """Send at once what the kernel takes; `flush` sends the rest."""
        if self.closed:
            return
        if len(parts) > 16 or sum(map(len, parts)) < _JOINED:
            data = b"".join(parts)
            if not self._out:
                self._send_at_once(data)
                return
            parts = [data]
        self._out += parts
        self.flush()

    def _send_at_once(self, data: bytes) -> None:
        """The usual case: the kernel takes all of it."""
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(data):
            self._unsent = None
            self._out.append(memoryview(data)[sent:])

    def send_file(self, head: bytes, file: FileWrapper, region: tuple[int, int, int]) -> None:
        """Send the head and a region of a file by sendfile(2); the file is closed when it is through."""
        part = _FilePart(region, getattr(file, "close", None))
        if self.closed:
            _close_file(part)
            return
        self._out += [head, part]
        self.flush()

    def stream(self, data: bytes) -> None:
        """Send; wait for the client when `MOST_WAITING` bytes wait. Raises ClientGone also when it is stuck."""
        if not self.closed:
            self._out.append(data)
            self.flush()
        while not self.closed and self._waiting_bytes() > MOST_WAITING:
            poll = select.poll()
            poll.register(self.fd, select.POLLOUT)
            if not poll.poll(SEND_TIMEOUT * 1000) and not self.client_reads():
                raise ClientGone(f"has not read anything for {SEND_TIMEOUT:.0f} s")
            self.flush()
        if self.closed:
            raise ClientGone("has closed the connection")

    def _waiting_bytes(self) -> int:
        return sum(len(part) for part in self._out if not isinstance(part, _FilePart))

    def client_reads(self) -> bool:
        """Whether the client has taken anything since this was asked last, or we could send.

        epoll does not tell: it calls a socket writable only when a third of its buffer is free (tcp(7)), and
        that may take a slow client minutes. The queue shrinks all the time: SIOCOUTQ, tcp(7) and unix(7).
        """
        before = self._unsent
        (self._unsent,) = _INT.unpack(fcntl.ioctl(self.fd, termios.TIOCOUTQ, _INT.pack(0)))
        return before is None or self._unsent < before

    # -- bytes ---------------------------------------------------------------------------------------------

    def watch(self, events: int) -> None:
        """Let epoll wait for these events (0: for none)."""
        if events == self.events:
            return
        if not events:
            self._poll.unregister(self.fd)
        elif self.events:
            self._poll.modify(self.fd, events)
        else:
            self._poll.register(self.fd, events)
        self.events = events

    def flush(self) -> bool:
        """Send what the kernel takes; whether it took everything. A broken connection closes itself."""
        out = self._out
        self._unsent = None
        try:
            while out:
                part = out[0]
                if isinstance(part, _FilePart):
                    if not self._send_part_of_file(part):
                        return False
                    _close_file(part)
                elif part:
                    more = socket.MSG_MORE if len(out) > 1 else 0
                    sent = self.sock.send(part, more)
                    if sent < len(part):
                        out[0] = memoryview(part)[sent:]
                        continue
                del out[0]
        except BlockingIOError:
            return False
        except OSError:
            self.close()
        return True

    def _send_part_of_file(self, part: _FilePart) -> bool:
        sent = os.sendfile(self.fd, part.fd, part.offset, min(part.left, _SENDFILE_AT_ONCE)) if part.left else 0
        if sent == 0 and part.left:
            raise OSError("the file has become shorter")  # the length is announced: only breaking off is honest
        part.offset += sent
        part.left -= sent
        return part.left == 0

    # -- the end -------------------------------------------------------------------------------------------

    def abort(self) -> None:
        """Reset the connection: an orderly end would look like the end of the response."""
        if not self.closed:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.close()

    def close(self) -> None:
        """End the connection."""
        if self.closed:
            return
        self.closed = True
        # epoll(7), Q6: closing is not enough when a process forked by the application has the descriptor too.
        self.watch(0)
        if self.timer is not None:
            self.timer.stop(self)
            self.timer = None
        for part in self._out:
            if isinstance(part, _FilePart):
                _close_file(part)
        self._out.clear()
        self.parser.discard()
        self.sock.close()


def _close_file(part: _FilePart) -> None:
    if part.close is not None:
        try:
            part.close()
        except Exception:
            # The application's code, long after its unit: it must not take other connections down.
            log.exception("closing a file that was sent failed")
