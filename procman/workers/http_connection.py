"""One connection of an http worker: a non-blocking socket, the parser of what comes, the queue of what goes.

It decides nothing about when to read or whom to serve; `procman.workers.http` does.

What is known of a client stands where others can put something else in its place, at the time a connection is made:
`sock` may be any `Stream` (`put_on`), `peer` whoever a proxy speaks for; `environ` is what the requests have in common.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import socket
import struct
import termios
from enum import IntEnum
from math import inf
from tempfile import TemporaryFile
from time import monotonic, time
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from procman.wire.response import date
from procman.workers.wsgi import ClientGone

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from procman.errors import BadRequest
    from procman.wire.http import RequestParser
    from procman.wire.request import Request
    from procman.wire.response import ResponseHead
    from procman.workers.wsgi import Exchange, FileWrapper

log = logging.getLogger("procman.http")

MOST_WAITING = 1024 * 1024  # bytes of a streamed response that wait for the client in memory
# The end of what comes has to be told for itself: it may follow in the same instant what has been told already.
ARRIVALS = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
SEND_TIMEOUT = 30.0  # seconds without the client taking a byte
_JOINED = 256 * 1024  # below this, joining the parts of a response is cheaper than sending them one by one
_SENDFILE_AT_ONCE = 4 * 1024 * 1024  # a fast reader of a huge file must let the others have their turn
_READ_AT_ONCE = 64 * 1024  # of a file whose bytes have to pass through us
_CLOSE = b"Connection: close\r\n"
_KEEP = b"Connection: keep-alive\r\n"
_INT = struct.Struct("i")
_RESET = struct.pack("ii", 1, 0)  # socket(7), SO_LINGER: on, no time

_date_due = 0.0
_date_line = b""


def date_line(now: float) -> bytes:
    """The Date header line, made once a second; ``now`` is a recent time of CLOCK_MONOTONIC."""
    global _date_due, _date_line
    if now >= _date_due:
        second = time()
        _date_line = date(int(second))
        _date_due = now + 1 - second % 1
    return _date_line


class Owner(Protocol):
    """Whoever has the connections: one that retires keeps none of them."""

    @property
    def retiring(self) -> object: ...


class Stream(Protocol):
    """What a connection needs of its socket. BlockingIOError: not now; ``wants`` says what to wait for then.

    A `socket.socket` will do, which always waits for what it was asked to do.
    """

    def recv(self, size: int, flags: int = 0, /) -> bytes: ...
    def send(self, data: bytes | memoryview, flags: int = 0, /) -> int: ...
    def setsockopt(self, level: int, name: int, value: bytes, /) -> None: ...
    def shutdown(self, how: int, /) -> None: ...
    def close(self) -> None: ...


class Phase(IntEnum):
    """What a connection waits for, each with its own time."""

    REQUEST = 0  # a request, which may have begun
    IDLE = 1  # kept alive: the next one
    SERVED = 2  # its turn, or the end of its unit: the time is ours
    READER = 3  # the client takes its response
    LINGER = 4  # the response is out, and the client has not closed yet


class _FilePart:
    """What is still to be sent of a file."""

    __slots__ = ("close", "fd", "file", "left", "offset")

    def __init__(self, fd: int, offset: int, left: int, close: Callable[[], None] | None) -> None:
        self.fd, self.offset, self.left = fd, offset, left
        self.close = close
        self.file: BinaryIO | None = None


class Connection:
    """``closing``: this connection ends after what has been queued. ``closed``: it has ended."""

    __slots__ = (
        "_keeps",
        "_owner",
        "_poll",
        "_spooled_at_most",
        "_unsent",
        "begun",
        "closed",
        "closing",
        "due",
        "environ",
        "events",
        "fd",
        "out",
        "parser",
        "peer",
        "phase",
        "plain",
        "read",
        "recv",
        "remote",
        "send_now",
        "sent",
        "sock",
    )

    def __init__(
        self,
        sock: Stream,
        fd: int,
        parser: RequestParser[Exchange],
        *,
        peer: tuple[str, int],
        environ: dict[str, Any],
        remote: dict[str, Any],
        owner: Owner,
        keeps: bool,
        poll: select.epoll,
        spooled_at_most: int = 0,
    ) -> None:
        self.sock = sock
        self.fd = fd
        self.plain = True  # the bytes on the wire are ours: the kernel may send files by itself
        self.recv = sock.recv
        self.send_now = sock.send
        self.parser = parser
        self.read: Callable[[bytes], Exchange | None] = parser.read  # a request that can be answered at once
        self.peer = peer  # address and port; ("", 0) on a unix socket
        self.environ = environ  # what its requests have in common with those of other connections; not to be changed
        self.remote = remote  # and with one another alone
        self.events = 0  # what epoll watches
        self.phase = Phase.REQUEST
        self.due = inf  # until when this phase may last
        self.begun = 0.0  # when the body began to come
        self.sent = 0  # bytes so far
        self.closing = False
        self.closed = False
        self.out: list[bytes | memoryview | _FilePart] = []  # still to be sent
        self._owner = owner
        self._keeps = keeps
        self._poll = poll
        self._unsent: int | None = None
        self._spooled_at_most = spooled_at_most

    def put_on(self, stream: Stream, *, plain: bool) -> None:
        """Let ``stream`` stand for the socket; ``plain``: what goes through it is what is on the wire."""
        self.sock = stream
        self.plain = plain
        self.recv, self.send_now = stream.recv, stream.send

    def refuse(self, refusal: BadRequest) -> bytes:
        """For a stream to return what it can't let through: it is answered as a malformed request is."""
        log.warning("A connection from %s was refused: %s", self.peer[0] or "unix", refusal)
        self.parser.error = refusal
        return b"?"  # something has come; the parser reads no more

    # -- responses (wsgi.Client) ---------------------------------------------------------------------------

    def head(self, request: Request, head: ResponseHead, framing: bytes, *, keep: bool) -> bytes:
        """The head on the wire, with what this connection has to say about itself."""
        return head.render(date_line(monotonic()), self._framing(request, framing, keep=keep))

    def _framing(self, request: Request, framing: bytes, *, keep: bool) -> bytes:
        if not (keep and request.keep_alive and self._keeps) or self._is_last():
            self.closing = True
            return framing + _CLOSE
        return framing + _KEEP if request.line.version == "HTTP/1.0" else framing

    def _is_last(self) -> bool:
        return self._owner.retiring is not None and not self.parser.requests

    def respond(
        self, request: Request, head: ResponseHead, framing: bytes, blocks: Sequence[bytes], keep: bool, now: float
    ) -> None:
        """Send a whole response: at once what the kernel takes, and the rest when it can."""
        usual = keep and request.keep_alive and self._keeps and request.line.version == "HTTP/1.1"
        if not usual or self._owner.retiring is not None:
            framing = self._framing(request, framing, keep=keep)
        date = _date_line if now < _date_due else date_line(now)
        if self.out or self.closed or len(blocks) != 1 or head.has_date or len(blocks[0]) > _JOINED:
            self.send([head.render(date, framing), *blocks])
            return
        # The usual case: the kernel takes all of it.
        data = b"".join((head.block, date, framing, b"\r\n", blocks[0]))
        try:
            sent = self.send_now(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        self.sent += sent
        if sent < len(data):
            self._keep(data, sent)

    def _keep(self, data: bytes, sent: int) -> None:
        self._unsent = None
        self.out.append(memoryview(data)[sent:])

    def send(self, parts: list[bytes]) -> None:
        """Send at once what the kernel takes; `flush` sends the rest."""
        if self.closed:
            return
        if len(parts) > 16 or sum(map(len, parts)) < _JOINED:
            data = b"".join(parts)
            if not self.out:
                self._send_at_once(data)
                return
            parts = [data]
        self.out += parts
        self.flush()

    def _send_at_once(self, data: bytes) -> None:
        """The usual case: the kernel takes all of it."""
        try:
            sent = self.send_now(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        self.sent += sent
        if sent < len(data):
            self._keep(data, sent)

    def send_file(self, head: bytes, file: FileWrapper, region: tuple[int, int, int]) -> None:
        """Send the head and a region of a file by sendfile(2); the file is closed when it is through."""
        part = _FilePart(*region, getattr(file, "close", None))
        if self.closed:
            _close_file(part)
            return
        self.out += [head, part]
        self.flush()

    def stream(self, data: bytes) -> None:
        """Send; what the client does not take waits, and the unit goes on.

        `MOST_WAITING` bytes wait in memory, all others in a file, so that a slow client does not hold the unit. When
        the file has grown to its limit the unit waits, and ClientGone is raised when the client takes nothing.
        """
        if not self.closed:
            self._enqueue(data)
            self.flush()
        while not self.closed and self._waits_for_too_much():
            poll = select.poll()
            poll.register(self.fd, select.POLLOUT)
            if not poll.poll(SEND_TIMEOUT * 1000) and not self.client_reads():
                raise ClientGone(f"has not read anything for {SEND_TIMEOUT:.0f} s")
            self.flush()
        if self.closed:
            raise ClientGone("has closed the connection")

    def _enqueue(self, data: bytes) -> None:
        out = self.out
        last = out[-1] if out else None
        if isinstance(last, _FilePart) and last.file is not None:
            last.file.write(data)
            last.left += len(data)
        elif last is not None and self._spooled_at_most and self._waiting_bytes() + len(data) > MOST_WAITING:
            file = TemporaryFile(buffering=0)  # noqa: SIM115 - closed when it has been sent
            part = _FilePart(file.fileno(), 0, len(data), file.close)
            part.file = file
            file.write(data)
            out.append(part)
        else:
            out.append(data)

    def _waits_for_too_much(self) -> bool:
        last = self.out[-1] if self.out else None
        if isinstance(last, _FilePart):
            return last.offset + last.left > self._spooled_at_most
        return self._waiting_bytes() > MOST_WAITING

    def _waiting_bytes(self) -> int:
        return sum(len(part) for part in self.out if not isinstance(part, _FilePart))

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

    def watch_input(self) -> None:
        """Let epoll tell when something has come, or has come already and was not read.

        Of plain sockets it tells each arrival once. What has been read to its end need not be looked at again then by
        each epoll_wait(2), as it has to be where epoll tells that there is something; and it tells of connections in
        the order in which they have asked.
        """
        if not self.plain:
            self.watch(self.wanted(select.EPOLLIN))
        elif self.events == ARRIVALS:
            self._poll.modify(self.fd, ARRIVALS)  # has it looked at once more
        else:
            self.watch(ARRIVALS)

    def wanted(self, otherwise: int) -> int:
        """What epoll has to wait for after the socket could not do what it was asked."""
        return otherwise if self.plain else getattr(self.sock, "wants", otherwise)

    def flush(self) -> bool:
        """Send what the kernel takes; whether it took everything. A broken connection closes itself."""
        out = self.out
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
                    sent = self.send_now(part, more)
                    self.sent += sent
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
        sent = 0
        if part.left and self.plain:
            sent = os.sendfile(self.fd, part.fd, part.offset, min(part.left, _SENDFILE_AT_ONCE))
        elif part.left and (data := os.pread(part.fd, min(part.left, _READ_AT_ONCE), part.offset)):
            sent = self.send_now(data)
        if sent == 0 and part.left:
            raise OSError("the file has become shorter")  # the length is announced: only breaking off is honest
        self.sent += sent
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
        self.due = inf
        for part in self.out:
            if isinstance(part, _FilePart):
                _close_file(part)
        self.out.clear()
        self.parser.discard()
        del self.read, self.recv, self.send_now  # they know their objects: nothing is left to the garbage collector
        self.sock.close()


def _close_file(part: _FilePart) -> None:
    if part.close is not None:
        try:
            part.close()
        except Exception:
            # The application's code, long after its unit: it must not take other connections down.
            log.exception("closing a file that was sent failed")
