"""The http worker: a synchronous application between asynchronous edges.

One thread waits in epoll for listening sockets and connections. Whatever can be slow because of a client -
sending its request, taking its response, saying nothing at all - happens there, beside all other clients. Only
when a request is complete the application is called, one unit at a time, in the main thread, where signals and
limits act on it; or, with ``threads``, in one of several.

What a connection waits for is its `Phase`. Each has a time of its own; who is over it is found by looking at all
connections when the first one is due, and not more often than `_LEAST_LOOK`: so a request that comes in time costs
no more than two stores, whatever else waits.
"""

from __future__ import annotations

import errno
import logging
import socket
from math import inf
from select import EPOLLEXCLUSIVE, EPOLLIN, EPOLLOUT, epoll
from time import monotonic
from typing import TYPE_CHECKING, Any

from procman.core.reason import Reason
from procman.core.spec import HttpWork
from procman.unix.process import make_room
from procman.wire.request import Head, Line, Request
from procman.wire.response import CONTINUE, plain
from procman.workers.http_access import accesses
from procman.workers.http_connection import ARRIVALS, SEND_TIMEOUT, Connection, Phase
from procman.workers.http_entry import Door
from procman.workers.http_give_way import GiveWay
from procman.workers.http_listener import Listener
from procman.workers.http_proxies import Proxies
from procman.workers.http_threads import Threads
from procman.workers.http_unit import Units

if TYPE_CHECKING:
    from procman.observe.access import AccessLog
    from procman.workers.child import Child

log = logging.getLogger("procman.http")

_RECEIVE = 64 * 1024  # bytes at once
_EVENTS = 64  # at once
_ACCEPT = 16  # connections at once, where no other worker could take them
_LINGER = 2.0  # seconds for a client to read the last response before its own data gets it a reset
_MOST_TURNED_AWAY = 128  # connections that are told so
_LOG_AGAIN = 1.0  # seconds after which lines of the access log that could not be written are tried again
_OTHER_DESCRIPTORS = 256  # of the worker and its application, beside the connections
_LEAST_LOOK = 0.1  # seconds between looks at who is over time
_IDLE = Phase.IDLE  # looked up for each request
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
        if "nofile" not in dict(child.spec.rlimits):
            make_room(self._work.max_connections + _OTHER_DESCRIPTORS)
        proxies = Proxies(self._work)
        self._accesses = accesses(child, self._work)
        door = Door(self._work, proxies.trust, self._accesses)
        self._units = Units(child, application, proxies, self._accesses)
        self._serve, self._keepalive = self._units.serve, self._work.keepalive  # looked up for each request
        self._threads: Threads | None = None
        if self._work.threads > 1:
            self._threads = Threads(
                child, lambda bench: Units(bench, application, proxies, self._accesses), self._work.threads
            )
        self._poll = epoll()
        self._connections: dict[int, Connection] = {}
        if child.spec.workers > 1:
            self._units.before_job = GiveWay(self._work, self._connections, self._receive, self._close)
        self._pipelined: list[Connection] = []
        self._listeners = {
            sock.fileno(): Listener(sock, self._work, self._poll, child, door) for sock in child.listeners
        }
        self._accept_at_once = _ACCEPT if child.spec.workers == 1 else 1
        self._listening = False
        self._left = False
        self._look_at = inf  # when the first connection, or anything else, may be due
        self._listen_again = inf
        self._wake_fds: set[int] = set()
        if self._threads is not None:
            self._poll.register(self._threads.fd, EPOLLIN)

    def run(self) -> None:
        """Serve until retired and drained."""
        self._watch_wake_fds()
        self._listen()
        self._child.ready()
        poll, connections = self._poll.poll, self._connections
        try:
            while True:
                if self._child.retiring is not None and self._leave():
                    return
                for fd, event in poll(self._timeout(), _EVENTS):
                    connection = connections.get(fd)
                    if connection is None:
                        self._on_other(fd)
                    elif connection.phase <= _IDLE:
                        self._receive(connection)
                        if event != EPOLLIN and connection.events == ARRIVALS:
                            connection.watch_input()  # the end has come as well
                    else:
                        self._on_event(connection)
                if self._pipelined:
                    self._serve_pipelined()
                if self._look_at < inf and monotonic() >= self._look_at:
                    self._look(monotonic())
                if self._accesses is not None:
                    self._log_accesses(self._accesses.log)
        finally:
            self._close_all()

    def _close_all(self) -> None:
        for connection in list(self._connections.values()):
            connection.close()
        self._poll.close()
        if self._accesses is not None:
            self._accesses.log.flush(monotonic())

    def _log_accesses(self, log: AccessLog) -> None:
        if log.pending:
            now = monotonic()
            log.flush(now)
            if log.pending:  # nobody tells us when a full disk is full no more
                self._look_at = min(self._look_at, now + _LOG_AGAIN)

    def _on_other(self, fd: int) -> None:
        if fd in self._listeners:
            self._accept(fd)
        elif self._threads is not None and fd == self._threads.fd:
            for connection in self._threads.take_back():
                self._go_on(connection)
        else:
            self._child.attend()
            self._watch_wake_fds()

    # -- waiting -------------------------------------------------------------------------------------------

    def _timeout(self) -> float | None:
        """Until the first deadline of anything; None when there is none, so that an idle worker never wakes."""
        if self._pipelined:
            return 0
        first = self._look_at
        if self._threads is not None and (over := self._threads.look_at()) is not None and over < first:
            self._look_at = first = over
        age = self._child.age_deadline
        if age is not None and self._child.retiring is None and age < first:
            self._look_at = first = age
        return None if first == inf else max(0.0, first - monotonic())

    def _look(self, now: float) -> None:
        """See who is over time."""
        for connection in list(self._connections.values()):
            if connection.due <= now:
                self._expire(connection)
        if self._threads is not None:
            self._threads.look(now)
        if now >= self._listen_again:
            self._listen_again = inf
            self._listen()
        age = self._child.age_deadline
        if age is not None and now >= age and self._child.retiring is None:
            self._child.check_limits()
        dues = [connection.due for connection in self._connections.values()]
        self._look_at = max(min(dues, default=inf), now + _LEAST_LOOK)
        self._look_at = min(self._look_at, self._listen_again)

    def _expire(self, connection: Connection) -> None:
        if connection.phase <= Phase.IDLE:
            self._end_unless_asked(connection)
        elif connection.phase == Phase.READER and connection.client_reads():
            self._wait(connection, Phase.READER, SEND_TIMEOUT)
        else:
            self._abort(connection)

    def _wait(self, connection: Connection, phase: Phase, seconds: float) -> None:
        connection.phase = phase
        connection.due = due = monotonic() + seconds
        if due < self._look_at:
            self._look_at = due

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
        """Take one connection, or several when there is no other worker that may have nothing to do."""
        listener = self._listeners[fd]
        kept = False
        for _ in range(self._accept_at_once):
            try:
                connection = listener.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _NO_DESCRIPTORS:
                    log.warning("Cannot accept connections: %s", error.strerror)
                    self._stop_listening()
                    self._listen_again = monotonic() + _NO_DESCRIPTORS_PAUSE
                    self._look_at = min(self._look_at, self._listen_again)
                break  # else the client has gone before it was accepted, accept(2)
            self._begin(connection)
            kept = kept or not connection.closed
        if kept and self._listening and self._child.spec.workers > 1:
            # The kernel wakes the worker that waited first, always the same one. One that has got a connection
            # to keep goes to the end of the queue; or it would get them all, and their requests one by one.
            self._poll.unregister(fd)
            self._poll.register(fd, EPOLLIN | EPOLLEXCLUSIVE)

    def _begin(self, connection: Connection) -> None:
        others = len(self._connections)
        self._connections[connection.fd] = connection
        self._child.record.connected(others + 1)
        if others >= self._work.max_connections:
            self._turn_away(connection, silently=others >= self._work.max_connections + _MOST_TURNED_AWAY)
            return
        self._wait(connection, Phase.REQUEST, self._work.header_timeout)
        self._receive(connection)  # mostly the request is there already, and epoll need not be asked

    def _turn_away(self, connection: Connection, *, silently: bool) -> None:
        if silently:
            self._abort(connection)
        else:
            self._refuse(connection, 503, "too many connections", headers=(("Retry-After", "1"),))

    # -- connections ---------------------------------------------------------------------------------------

    def _receive(self, connection: Connection) -> None:
        try:
            data = connection.recv(_RECEIVE)
        except BlockingIOError:
            if connection.events != ARRIVALS:
                connection.watch_input()
            return
        except OSError:
            data = b""
        if not data:
            self._close(connection)
            return
        request = connection.read(data)
        if request is None:
            self._go_on(connection)
            return
        # The usual case: one request, and the client waits for its answer.
        ended = self._serve(request, connection)
        if connection.out or connection.closing or connection.closed:
            self._go_on(connection)
            return
        if not connection.events:
            connection.watch_input()
        connection.phase = _IDLE
        connection.due = due = ended + self._keepalive
        if due < self._look_at:
            self._look_at = due

    def _on_event(self, connection: Connection) -> None:
        if connection.phase == Phase.LINGER:
            self._discard_input(connection)
        elif connection.phase == Phase.READER:
            if connection.flush():
                self._go_on(connection)
            else:
                connection.watch(connection.wanted(EPOLLOUT))
                self._wait(connection, Phase.READER, SEND_TIMEOUT)
        # else there is enough to do before more is read

    def _go_on(self, connection: Connection) -> None:
        """Do the next thing for a connection: answer, send, end, or wait for more; in this order."""
        parser = connection.parser
        if parser.requests and not (connection.out or connection.closing):
            connection.phase, connection.due = Phase.SERVED, inf
            if self._threads is not None:
                connection.watch(0)  # it belongs to its thread now
                self._threads.submit(parser.requests.pop(0), connection)
                return
            self._units.serve(parser.requests.pop(0), connection)
        if connection.closed:
            self._forget(connection)
        elif connection.out:
            connection.watch(connection.wanted(EPOLLOUT))
            self._wait(connection, Phase.READER, SEND_TIMEOUT)
        elif connection.closing:
            self._end(connection)
        elif parser.requests:
            connection.phase, connection.due = Phase.SERVED, inf
            self._pipelined.append(connection)
        elif parser.error is not None:
            self._refuse(connection, parser.error.status, str(parser.error))
        else:
            self._await_request(connection)

    def _await_request(self, connection: Connection) -> None:
        parser = connection.parser
        connection.watch_input()
        if parser.awaits_continue:
            parser.awaits_continue = False
            connection.send([CONTINUE])
        if not parser.arriving:
            self._wait(connection, Phase.IDLE, self._work.keepalive)
        elif parser.head_done:
            self._await_body(connection)
        elif connection.phase != Phase.REQUEST:
            self._wait(connection, Phase.REQUEST, self._work.header_timeout)

    def _await_body(self, connection: Connection) -> None:
        """The body has to begin within the time of a head, and from then on to come as fast as `body_rate`."""
        now = monotonic()
        received = connection.parser.body_received
        if not connection.begun:
            connection.begun = now
        connection.phase = Phase.REQUEST
        connection.due = connection.begun + self._work.header_timeout + received / self._work.body_rate
        self._look_at = min(self._look_at, max(connection.due, now))

    def _serve_pipelined(self) -> None:
        """One request more of each connection that sent several at once: others have their turn in between."""
        waiting, self._pipelined = self._pipelined, []
        for connection in waiting:
            if not connection.closed:
                self._go_on(connection)

    # -- ends ----------------------------------------------------------------------------------------------

    def _refuse(
        self, connection: Connection, status: int, reason: str, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """The last answer on a connection whose input can't be trusted any more."""
        if self._accesses is not None:
            self._accesses.refused(connection.peer[0], status)
        head, body = plain(status, reason, headers)
        request = Request()
        request.line, request.head = Line("GET", "", "HTTP/1.1"), Head([], {})
        connection.parser.requests.clear()
        connection.respond(request, head, b"", (body,), keep=False, now=monotonic())
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
        connection.watch(EPOLLIN)
        self._wait(connection, Phase.LINGER, _LINGER)

    def _discard_input(self, connection: Connection) -> None:
        try:
            if connection.recv(_RECEIVE):
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
            self._child.record.connected(len(self._connections))

    # -- leaving -------------------------------------------------------------------------------------------

    def _leave(self) -> bool:
        """Stop accepting; whether nothing is left to be served.

        A connection that woke this worker woke no other one (EPOLLEXCLUSIVE): one is taken from each socket
        after it has left epoll, or it would wait until the next connection comes. All others that are in the
        queue have woken somebody else, or are seen by whoever is busy now as soon as it is not.
        """
        if not self._left:
            self._left = True
            self._listen_again = inf
            self._stop_listening()
            for fd in self._listeners:
                self._accept(fd)
            if self._child.retiring in (Reason.LOST, Reason.SHUTDOWN):
                self._close_idle()
        return not self._connections

    def _close_idle(self) -> None:
        """No other worker will be there either: do not wait for clients that have asked nothing."""
        for connection in list(self._connections.values()):
            if connection.phase <= Phase.IDLE and not connection.parser.arriving:
                self._end_unless_asked(connection)

    def _end_unless_asked(self, connection: Connection) -> None:
        """End a connection whose time is over, but not over a request that came while the worker was in a unit."""
        due = connection.due
        self._receive(connection)
        if connection.closed or connection.phase > Phase.IDLE or connection.due > due:
            return  # something has come, or it is closed
        if connection.parser.arriving:
            self._refuse(connection, 408, "the request took too long")
        else:
            self._close(connection)
