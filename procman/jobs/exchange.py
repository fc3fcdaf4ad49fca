"""Asking a worker to run a job: one connection, one request, held open until the answer.

Nothing here blocks, but for names to be looked up, which is done at most every so often. The end of a connection
without an answer is how one learns, at once, that the worker has died.
"""

from __future__ import annotations

import errno
import os
import socket
from base64 import b64encode
from enum import Enum
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from procman.core.restart import Pauses
from procman.core.spec import TcpAddress, UnixAddress
from procman.jobs.hub import READ, WRITE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from ssl import SSLSocket

    from procman.core.spec import Address
    from procman.jobs.dialect import Offered
    from procman.jobs.hub import Hub, Timer

CONNECT_SECONDS = 5.0
_LOOKED_UP_FOR = 30.0
_PAUSE_FIRST, _PAUSE_MOST = 0.1, 5.0
_MOST_HEAD = 64 * 1024

_IP_BIND_ADDRESS_NO_PORT = 24  # <linux/in.h>

# A listener on all addresses is asked on the loopback.
_WILDCARDS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


class Place(NamedTuple):
    """Where to connect; ``source`` is bound first."""

    family: int
    address: str | tuple[str, int]
    source: str | None = None


class Ending(Enum):
    """How an exchange ended: no connection, an answer, or a connection that broke without one."""

    REFUSED = "refused"
    ANSWERED = "answered"
    BROKEN = "broken"


class Target:
    """Who runs jobs: the addresses of a pool, tried in this order, or a URL. Held off while it refuses."""

    def __init__(self, addresses: Iterable[Address] = (), *, url: str | None = None) -> None:
        self.own = url is None  # no proxy in between: a broken connection is a dead worker
        self.closed_until = 0.0
        self._addresses = tuple(addresses)
        self._pauses = Pauses(_PAUSE_FIRST, _PAUSE_MOST)
        self._places: list[Place] = []
        self._looked_up_at = -_LOOKED_UP_FOR
        self._host = "localhost"
        self._authorization = ""
        self.tls: Tls | None = None
        if url is not None:
            parts = urlsplit(url)
            secure = parts.scheme == "https"
            host = parts.hostname or ""
            self._addresses = (TcpAddress(host=host, port=parts.port or (443 if secure else 80)),)
            self._host = parts.netloc.rpartition("@")[2]
            if parts.username is not None:
                user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
                self._authorization = f"Authorization: Basic {b64encode(user.encode()).decode()}\r\n"
            if secure:
                self.tls = Tls(host)

    def __str__(self) -> str:
        return ", ".join(map(str, self._addresses))

    def request(self, database: str, uuid: str, fields: str = "") -> bytes:
        """What is sent; ``uuid`` may be several, with commas. ``fields`` are lines for its head."""
        return (
            f"GET /queue_job/runjob?db={quote(database, safe='')}&job_uuid={uuid} HTTP/1.1\r\n"
            f"Host: {self._host}\r\nUser-Agent: procman\r\n{self._authorization}{fields}Connection: close\r\n\r\n"
        ).encode("ascii")

    def places(self, now: float) -> list[Place]:
        """Where to try, in this order."""
        if now - self._looked_up_at >= _LOOKED_UP_FOR:
            self._places = [place for address in self._addresses for place in self._look_up(address)]
            self._looked_up_at = now
        return self._places

    def refused(self, now: float) -> bool:
        """It did not take a job: hold off, for longer each time. True when it had taken them until now."""
        if now < self.closed_until:
            return False
        self.closed_until = now + self._pauses.next()
        return self._pauses.failures == 1

    def accepted(self) -> bool:
        """It took a job. True when it had refused before."""
        was_closed = bool(self._pauses.failures)
        self._pauses.over()
        self.closed_until = 0.0
        return was_closed

    def _look_up(self, address: Address) -> list[Place]:
        if isinstance(address, UnixAddress):
            return [Place(socket.AF_UNIX, address.path)]
        if not isinstance(address, TcpAddress):
            return []
        host = _WILDCARDS.get(address.host, address.host)
        try:
            found = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM)
        except OSError:
            return []
        return [
            Place(family, (str(at[0]), int(at[1])), self._source(family, str(at[0]))) for family, _, _, _, at in found
        ]

    def _source(self, family: int, host: str) -> str | None:
        # Workers run jobs for this machine only, which they tell by a loopback address of who asks.
        if not self.own or host.startswith("127.") or host == "::1":
            return None
        return "127.0.0.1" if family == socket.AF_INET else "::1"


class Tls:
    """How https is spoken: certificates are checked against the system's authorities, or those of SSL_CERT_FILE."""

    def __init__(self, host: str) -> None:
        import ssl  # its memory is for who needs it

        self._wants = ((ssl.SSLWantReadError, READ), (ssl.SSLWantWriteError, WRITE))
        self._context = ssl.create_default_context()
        self._host = host

    def wanted(self, error: OSError) -> int:
        """What to wait for before the same is tried again; 0: it is an error indeed."""
        return next((events for kind, events in self._wants if isinstance(error, kind)), 0)

    def wrap(self, connected: socket.socket) -> SSLSocket:
        """The same connection; the handshake is still to be made."""
        return self._context.wrap_socket(connected, server_hostname=self._host, do_handshake_on_connect=False)


class Exchange:
    """One request for jobs of ``database``, as they were offered; ``on_end`` is told when that has come to an end."""

    def __init__(
        self,
        hub: Hub,
        target: Target,
        database: str,
        request: bytes,
        offers: Sequence[Offered],
        on_end: Callable[[Exchange], object],
    ) -> None:
        self.database = database
        self.offers = offers
        self.ending: Ending | None = None
        self.detail = "it has no address"
        self._hub = hub
        self._on_end = on_end
        self._request = self._unsent = request
        self._tls = target.tls
        self._head = b""
        self._socket: socket.socket | None = None
        self._until: Timer | None = None
        self._places = list(target.places(monotonic()))

    @property
    def word(self) -> str:
        """How it ended, in a word."""
        return "" if self.ending is None else self.ending.value

    def begin(self) -> None:
        """Connect to one of the places; it may have ended when this returns."""
        self._connect()

    def close(self) -> None:
        """Hang up. A worker that has the request runs the job all the same."""
        if self._until is not None:
            self._until.cancel()
        if self._socket is not None:
            self._hub.unwatch(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _connect(self) -> None:
        """Begin to connect to the next place; without one, that was it."""
        self.close()
        self._unsent = self._request
        while self._places:
            place = self._places.pop(0)
            connecting = socket.socket(place.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                _prepare(connecting, place)
                connecting.connect(place.address)
            except BlockingIOError as error:
                # A unix socket says so when its backlog is full (connect(2)); it will not become writable for that.
                if error.errno != errno.EAGAIN:
                    self._wait_until_connected(connecting)
                    return
                self.detail = "too many connections wait for it"
                connecting.close()
            except OSError as error:
                self.detail = error.strerror or str(error)
                connecting.close()
            else:
                self._wait_until_connected(connecting)
                self._advance(self._send)
                return
        self._end(Ending.REFUSED)

    def _wait_until_connected(self, connecting: socket.socket) -> None:
        self._socket = connecting
        self._hub.watch(connecting.fileno(), WRITE, lambda: self._advance(self._send))
        self._until = self._hub.at(monotonic() + CONNECT_SECONDS, lambda: self._advance(_time_out))

    def _advance(self, step: Callable[[socket.socket], object]) -> None:
        if self._socket is None:
            return
        try:
            step(self._socket)
        except BlockingIOError:
            pass
        except OSError as error:
            if self._tls is not None and (events := self._tls.wanted(error)):
                self._hub.watch(self._socket.fileno(), events, lambda: self._advance(step))
                return
            self.detail = error.strerror or str(error)
            if self._unsent:
                self._connect()
            else:
                self._end(Ending.BROKEN)

    def _send(self, connected: socket.socket) -> None:
        error = connected.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        if self._tls is not None:
            self._socket = self._tls.wrap(connected)
            self._advance(self._shake_hands)
        else:
            self._write(connected)

    def _shake_hands(self, secured: Any) -> None:
        secured.do_handshake()
        self._hub.watch(secured.fileno(), WRITE, lambda: self._advance(self._write))

    def _write(self, connected: socket.socket) -> None:
        self._unsent = self._unsent[connected.send(self._unsent) :]
        if not self._unsent:
            if self._until is not None:
                self._until.cancel()
            self._hub.watch(connected.fileno(), READ, lambda: self._advance(self._receive))

    def _receive(self, connected: socket.socket) -> None:
        # More than a record of TLS: what is left of one would be in memory, where no poll sees it.
        data = connected.recv(32 * 1024)
        self._head += data
        complete = b"\r\n\r\n" in self._head or len(self._head) > _MOST_HEAD
        if complete or not data:
            # Its first line is all there is to know; what the job came to is in its row.
            self.detail = (
                self._head.partition(b"\r\n")[0][:80].decode("latin-1") or "connection closed without an answer"
            )
            self._end(Ending.ANSWERED if self._head.startswith(b"HTTP/1.") else Ending.BROKEN)

    def _end(self, ending: Ending) -> None:
        self.ending = ending
        self.close()
        self._on_end(self)


def _time_out(connecting: socket.socket) -> None:
    raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


def _prepare(connecting: socket.socket, place: Place) -> None:
    if place.family == socket.AF_UNIX:
        return
    # Jobs take hours, and a machine that is switched off says nothing (tcp(7)).
    connecting.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3)
    connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    if place.source is not None:
        # ip(7): the port is chosen by connect(2), so that one port serves for several peers.
        connecting.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        connecting.bind((place.source, 0))
