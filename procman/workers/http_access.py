"""What the access log is told of each request by an http worker.

When a request has come is asked of the kernel: it notes the time of arrival of what recvmsg(2) returns (socket(7),
SO_TIMESTAMPNS), so that the time in the queues of the socket and of the listener counts as waiting, too. Where it does
not (unix sockets, inside TLS) the worker's own reception has to do.
"""

from __future__ import annotations

import socket
import struct
from time import monotonic, thread_time, time
from typing import TYPE_CHECKING

from procman.observe.access import AccessLog, Visit

if TYPE_CHECKING:
    from procman.core.spec import HttpWork
    from procman.observe.scoreboard import Record
    from procman.workers.child import Child
    from procman.workers.http_connection import Connection
    from procman.workers.http_threads import Bench
    from procman.workers.wsgi import Exchange

OFF = "off"

_SO_TIMESTAMPNS = 35  # asm-generic/socket.h; the type of the control message is the same
_TIMESPEC = struct.Struct("@ll")
_CONTROL = socket.CMSG_SPACE(_TIMESPEC.size)
_GONE = 499  # nginx's status for a client that did not wait


class Accesses:
    """The access log of this worker."""

    def __init__(self, where: str, worker: str, generation: int) -> None:
        self.log = AccessLog(where, worker, generation)

    def listen(self, sock: socket.SocketType) -> None:
        """Learn from a listening socket when requests arrive: connections inherit the wish (sk_clone)."""
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)

    def refused(self, remote: str, status: int) -> None:
        """What came was no request."""
        self.log.add(Visit(ended=time(), remote=remote, method=None, target=None, protocol=None, status=status))

    def scribe(self, record: Record | Bench) -> Scribe:
        """Who writes down the units of one thread; ``record`` knows their times."""
        return Scribe(self.log, record)


class Scribe:
    """Writes down the units of one thread."""

    def __init__(self, log: AccessLog, record: Record | Bench) -> None:
        self._log = log
        self._record = record
        self._cpu = 0.0
        self._since = 0.0

    def begin(self) -> None:
        """A unit is about to begin."""
        self._since = monotonic()
        self._cpu = thread_time()

    def end(self, exchange: Exchange, connection: Connection) -> None:
        """Its response is out, or on its way."""
        cpu = thread_time() - self._cpu
        record = self._record
        now = time()
        has_run = record.started >= self._since  # else it was refused before its unit, and the record is of another
        begun = now - (monotonic() - (record.started if has_run else self._since))
        arrived = getattr(connection.sock, "arrived", None)
        code = exchange.response.code if exchange.response is not None else 500
        remote, scheme, host = exchange.origin or (
            connection.peer[0],
            connection.environ["wsgi.url_scheme"],
            exchange.line.authority or exchange.head.fields.get("HTTP_HOST"),
        )
        self._log.add(
            Visit(
                ended=now,
                remote=remote,
                method=exchange.line.method,
                target=exchange.line.target,
                protocol=exchange.line.version,
                status=exchange.broken or (_GONE if connection.closed else code),
                sent=exchange.body_sent,
                received=exchange.body_size,
                host=host,
                scheme=scheme,
                referer=exchange.head.fields.get("HTTP_REFERER"),
                user_agent=exchange.head.fields.get("HTTP_USER_AGENT"),
                wait=0.0 if arrived is None else max(0.0, begun - arrived),
                real=record.ended - record.started if has_run else 0.0,
                cpu=cpu,
                queries=record.queries if has_run else None,
                query_time=record.query_seconds if has_run else None,
            )
        )


class StampedStream:
    """A plain socket; ``arrived`` is when what was received last had come, in seconds since the epoch."""

    __slots__ = ("_recvmsg", "arrived", "close", "send", "setsockopt", "shutdown")

    def __init__(self, sock: socket.SocketType) -> None:
        self._recvmsg = sock.recvmsg
        self.arrived: float | None = None
        self.send, self.setsockopt, self.shutdown, self.close = sock.send, sock.setsockopt, sock.shutdown, sock.close

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """As of the socket."""
        data, control, _, _ = self._recvmsg(size, _CONTROL, flags)
        for _, kind, value in control:
            if kind == _SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIMESPEC.unpack(value[: _TIMESPEC.size])
                self.arrived = seconds + nanoseconds * 1e-9
        return data


def accesses(child: Child, work: HttpWork) -> Accesses | None:
    """The worker's access log; None when there is to be none. Raises OSError when it can't be opened."""
    if work.access_log == OFF:
        return None
    return Accesses(work.access_log, child.name, child.seat.generation)
