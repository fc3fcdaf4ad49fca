"""The http worker: a synchronous application between asynchronous edges.

One thread waits in epoll for listening sockets and connections. Whatever can be slow because of a client -
sending its request, taking its response, saying nothing at all - happens there, beside all other clients. Only
when a request is complete the application is called, one unit at a time, in the main thread, where signals and
limits act on it.

What a connection may wait for, each with its own time: `requests` (a request has begun), `idle` (kept alive),
`readers` (the client takes its response), `lingering` (the response is out, the client has not closed yet).
"""

from __future__ import annotations

import errno
import logging
import socket
from collections import deque
from io import BytesIO
from select import EPOLLEXCLUSIVE, EPOLLIN, EPOLLOUT, epoll
from tempfile import SpooledTemporaryFile
from time import monotonic
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from procman.core.reason import Reason
from procman.core.spec import HttpWork
from procman.wire.http import RequestParser
from procman.wire.request import Request, RequestLimits
from procman.wire.response import CONTINUE, plain
from procman.workers.http_connection import SEND_TIMEOUT, Connection
from procman.workers.http_timers import TimerQueue
from procman.workers.http_unit import Units
from procman.workers.wsgi_environ import base_environ, peer_environ

if TYPE_CHECKING:
    from procman.workers.child import Child

log = logging.getLogger("procman.http")

_RECEIVE = 64 * 1024  # bytes at once
_EVENTS = 64  # at once
_LINGER = 2.0  # seconds for a client to read the last response before its own data gets it a reset
_NO_DESCRIPTORS_PAUSE = 0.5  # seconds without accepting when the process has no descriptor left
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def serve(child: Child, application: Any) -> None:
    """Serve ``application`` on the child's listening sockets; returns when it has retired and is drained."""
    HttpWorker(child, application).run()


class HttpWorker:
    def __init__(self, child: Child, application: Any) -> None:
        if not isinstance(child.spec.work, HttpWork):
            raise TypeError(f"pool {child.spec.name} is not an http pool")
        self._child = child
        self._work = child.spec.work
        self._units = Units(child, application)
        self._limits = RequestLimits(body=self._work.max_body)
        self._poll = epoll()
        self._connections: dict[int, Connection] = {}
        self._pipelined: deque[Connection] = deque()
        self._listeners = {sock.fileno(): (sock, _environ_of_listener(sock)) for sock in child.listeners}
        self._listening = False
        self._left = False
        self._listen_again: float | None = None
        self._wake_fds: set[int] = set()
        self._buffer = bytearray(_RECEIVE)
        self._view = memoryview(self._buffer)
        self._requests: TimerQueue[Connection] = TimerQueue(self._work.header_timeout)
        self._idle: TimerQueue[Connection] = TimerQueue(self._work.keepalive)
        self._readers: TimerQueue[Connection] = TimerQueue(SEND_TIMEOUT)
        self._lingering: TimerQueue[Connection] = TimerQueue(_LINGER)
        self._timers = (self._idle, self._requests, self._readers, self._lingering)

    def run(self) -> None:
        """Serve until retired and drained."""
        self._watch_wake_fds()
        self._listen()
        self._child.ready()
        poll, connections = self._poll, self._connections
        try:
            while True:
                if self._child.retiring is not None and self._leave():
                    return
                for fd, _ in poll.poll(self._timeout(), _EVENTS):
                    connection = connections.get(fd)
                    if connection is not None:
                        self._on_event(connection)
                    elif fd in self._listeners:
                        self._accept(fd)
                    else:
                        self._child.attend()
                        self._watch_wake_fds()
                if self._pipelined:
                    self._serve_pipelined()
                self._expire(monotonic())
        finally:
            for connection in list(connections.values()):
                connection.close()
            poll.close()

    # -- waiting -------------------------------------------------------------------------------------------

    def _timeout(self) -> float | None:
        """Until the first deadline of anything; None when there is none, so that an idle worker never wakes."""
        if self._pipelined:
            return 0
        first = self._listen_again
        for timer in self._timers:
            due = timer.next()
            if due is not None and (first is None or due < first):
                first = due
        age = self._child.age_deadline
        if age is not None and self._child.retiring is None and (first is None or age < first):
            first = age
        return None if first is None else max(0.0, first - monotonic())

    def _expire(self, now: float) -> None:
        for timer in (self._idle, self._requests):
            for connection in timer.expired(now):
                self._end_unless_asked(connection)
        for connection in self._readers.expired(now):
            if connection.client_reads():
                self._wait(connection, self._readers)
            else:
                self._abort(connection)
        for connection in self._lingering.expired(now):
            self._abort(connection)
        if self._listen_again is not None and now >= self._listen_again:
            self._listen_again = None
            self._listen()
        age = self._child.age_deadline
        if age is not None and now >= age and self._child.retiring is None:
            self._child.check_limits()

    def _watch_wake_fds(self) -> None:
        wanted = set(self._child.wake_fds)
        for fd in self._wake_fds - wanted:
            try:
                self._poll.unregister(fd)
            except OSError:
                pass  # closed already
        for fd in wanted - self._wake_fds:
            self._poll.register(fd, EPOLLIN)
        self._wake_fds = wanted

    # -- accepting -----------------------------------------------------------------------------------------

    def _listen(self) -> None:
        if not self._left:
            for fd in self._listeners:
                # One waiting worker is woken for a connection, not all of them.
                self._poll.register(fd, EPOLLIN | EPOLLEXCLUSIVE)
            self._listening = True

    def _stop_listening(self) -> None:
        if self._listening:
            for fd in self._listeners:
                self._poll.unregister(fd)
            self._listening = False

    def _accept(self, fd: int) -> None:
        """Take one connection: the next one may be for a worker that has nothing to do."""
        listener, base = self._listeners[fd]
        try:
            sock, address = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS:
                log.warning("Cannot accept connections: %s", error.strerror)
                self._stop_listening()
                self._listen_again = monotonic() + _NO_DESCRIPTORS_PAUSE
            return  # else the client has gone before it was accepted, accept(2)
        sock.setblocking(False)
        peer = address[:2] if isinstance(address, tuple) else ("", 0)
        connection = Connection(
            sock,
            RequestParser(self._limits, self._new_body),
            peer=peer,
            environ=peer_environ(base, peer),
            leaving=self._closes_connections,
            poll=self._poll,
        )
        self._connections[connection.fd] = connection
        self._wait(connection, self._requests)
        self._receive(connection)  # mostly the request is there already, and epoll need not be asked
        if not connection.closed and self._listening and self._child.spec.workers > 1:
            # The kernel wakes the worker that waited first, always the same one. One that has got a connection
            # to keep goes to the end of the queue; or it would get them all, and their requests one by one.
            self._poll.unregister(fd)
            self._poll.register(fd, EPOLLIN | EPOLLEXCLUSIVE)

    def _new_body(self, expected: int | None) -> BinaryIO:
        most = self._work.body_buffer
        if expected is not None and expected <= most:
            return BytesIO()
        return cast(BinaryIO, SpooledTemporaryFile(max_size=most))

    # -- connections ---------------------------------------------------------------------------------------

    def _on_event(self, connection: Connection) -> None:
        if connection.lingers:
            self._discard_input(connection)
        elif connection.waiting:
            if connection.flush():
                self._go_on(connection)
            else:
                self._readers.start(connection, monotonic())
        elif not connection.parser.requests:  # else there is enough to do before more is read
            self._receive(connection)

    def _receive(self, connection: Connection) -> None:
        try:
            count = connection.sock.recv_into(self._buffer)
        except BlockingIOError:
            connection.watch(EPOLLIN)
            return
        except OSError:
            count = 0
        if not count:
            self._close(connection)
            return
        connection.parser.feed(bytes(self._view[:count]))
        self._go_on(connection)

    def _go_on(self, connection: Connection) -> None:
        """Do the next thing for a connection: answer, send, end, or wait for more; in this order."""
        parser = connection.parser
        if parser.requests and not (connection.waiting or connection.closing):
            self._units.serve(parser.requests.popleft(), connection)
            if connection.timer is self._requests:
                self._wait(connection, None)  # the time of the next request has not begun
        if connection.closed:
            self._forget(connection)
        elif connection.waiting:
            connection.watch(EPOLLOUT)
            self._wait(connection, self._readers)
        elif connection.closing:
            self._end(connection)
        elif parser.requests:
            self._wait(connection, None)
            self._pipelined.append(connection)
        elif parser.error is not None:
            self._refuse(connection, parser.error.status, str(parser.error))
        else:
            self._await_request(connection)

    def _await_request(self, connection: Connection) -> None:
        parser = connection.parser
        connection.watch(EPOLLIN)
        if parser.awaits_continue:
            parser.awaits_continue = False
            connection.send([CONTINUE])
        if not parser.arriving:
            self._wait(connection, self._idle)
        elif connection.timer is not self._requests or parser.head_done:
            # The head has to come within its time; of a body only something has to come all the time.
            self._wait(connection, self._requests)

    def _serve_pipelined(self) -> None:
        """One request more of each connection that sent several at once: others have their turn in between."""
        waiting, self._pipelined = self._pipelined, deque()
        for connection in waiting:
            if not connection.closed:
                self._go_on(connection)

    def _wait(self, connection: Connection, timer: TimerQueue[Connection] | None) -> None:
        if connection.timer is not None and connection.timer is not timer:
            connection.timer.stop(connection)
        connection.timer = timer
        if timer is not None:
            timer.start(connection, monotonic())

    # -- ends ----------------------------------------------------------------------------------------------

    def _refuse(self, connection: Connection, status: int, reason: str) -> None:
        """The last answer on a connection whose input can't be trusted any more."""
        head, body = plain(status, reason)
        request = Request("GET", "", "HTTP/1.1")
        request.keep_alive = False
        connection.parser.requests.clear()
        connection.send([connection.head(request, head, b"", keep=False), body])
        self._go_on(connection)

    def _end(self, connection: Connection) -> None:
        """Everything is sent and nothing more will be."""
        if connection.parser.finished:
            self._close(connection)  # the client knows: it said itself that it sends no more
            return
        # Data that comes after close(2) is answered with a reset, and that may overtake the response in the
        # client. So only our direction ends now (RFC 9112 section 9.6).
        try:
            connection.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(connection)
            return
        connection.lingers = True
        connection.watch(EPOLLIN)
        self._wait(connection, self._lingering)

    def _discard_input(self, connection: Connection) -> None:
        try:
            if connection.sock.recv_into(self._buffer):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        connection.close()
        self._forget(connection)

    def _abort(self, connection: Connection) -> None:
        connection.abort()
        self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        if self._connections.get(connection.fd) is connection:
            del self._connections[connection.fd]

    # -- leaving -------------------------------------------------------------------------------------------

    def _closes_connections(self) -> bool:
        return self._child.retiring is not None or self._work.keepalive <= 0

    def _leave(self) -> bool:
        """Stop accepting; whether nothing is left to be served.

        A connection that woke this worker woke no other one (EPOLLEXCLUSIVE): one is taken from each socket
        after it has left epoll, or it would wait until the next connection comes. All others that are in the
        queue have woken somebody else, or are seen by whoever is busy now as soon as it is not.
        """
        if not self._left:
            self._left = True
            self._listen_again = None
            self._stop_listening()
            for fd in self._listeners:
                self._accept(fd)
            if self._child.retiring in (Reason.LOST, Reason.SHUTDOWN):
                self._close_idle()
        return not self._connections

    def _close_idle(self) -> None:
        """No other worker will be there either: do not wait for clients that have asked nothing."""
        for timer in (self._idle, self._requests):
            for connection in timer.items():
                if not connection.parser.arriving:
                    timer.stop(connection)
                    self._end_unless_asked(connection)

    def _end_unless_asked(self, connection: Connection) -> None:
        """End a connection whose time is over, but not over a request that came while the worker was in a unit."""
        if connection.closed:
            return
        timer = connection.timer
        self._receive(connection)
        if connection.timer is None or connection.timer is not timer or connection in timer:
            return  # something has come, or it is closed
        if connection.parser.arriving:
            self._refuse(connection, 408, "the request took too long")
        else:
            self._close(connection)


def _environ_of_listener(sock: socket.socket) -> dict[str, Any]:
    sock.setblocking(False)
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return base_environ("localhost", "80")
    host = socket.gethostname() if name[0] in ("0.0.0.0", "::") else name[0]
    return base_environ(host, str(name[1]))
