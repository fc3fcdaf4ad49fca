"""A door: one ZeroMQ socket of the daemon, the endpoints it is bound to, and what may be done through it.

Over ipc the file says who may connect, over tcp the keys do (`procman.control.curve`). They are never on one socket:
its options, and so its security, count for all that it is bound to.
"""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import zmq

from procman.control import ipc
from procman.control.crowd import MOST_PEERS, Crowd
from procman.core.spec import Role
from procman.errors import AddressError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from procman.control.curve import Authority

log = logging.getLogger("procman.control")

LOCAL = "local"  # whoever the file of an ipc socket lets in
BACKLOG = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A listening socket that survives its door: an upgrade leaves it to the next image of the daemon."""

    endpoint: str
    fd: int
    device: int = 0
    inode: int = 0


class Door:
    """A socket bound to all of ``endpoints``, which are all ``ipc://`` or all ``tcp://``. Raises AddressError.

    Those of ``inherited`` listen already.
    """

    def __init__(
        self,
        zmq_socket: zmq.Socket[bytes],
        endpoints: Sequence[str],
        *,
        role: Role = Role.FULL,
        group: int | None = None,
        authority: Authority | None = None,
        inherited: Sequence[Kept] = (),
    ) -> None:
        self.socket = zmq_socket
        self._asked = list(endpoints)
        self._inherited = {kept.endpoint: kept for kept in inherited}
        self.endpoints: list[str] = []
        self._role = role
        self._authority = authority
        self._listeners: list[ipc.Listener] = []
        self._listening: list[socket.socket] = []
        # Whoever may open a file of ours is trusted not to open it a thousand times.
        self._crowd = None if authority is None else Crowd(zmq_socket)
        try:
            for endpoint in endpoints:
                if authority is None:
                    self._bind_ipc(endpoint, group)
                else:
                    self._bind_tcp(endpoint, authority)
        except BaseException:
            self.close()
            raise

    def _bind_ipc(self, endpoint: str, group: int | None) -> None:
        if (kept := self._inherited.get(endpoint)) is not None:
            path = ipc.path_of(endpoint)
            listener = ipc.Listener(path=path, fd=kept.fd, device=kept.device, inode=kept.inode)
        else:
            listener = ipc.listen(endpoint, group)
        self._listeners.append(listener)
        # ZMQ_USE_FD is for the next bind: libzmq accepts on our socket and closes it, but leaves the file alone.
        # It gets a copy, because what is kept here can be left to the next image of the daemon.
        self.socket.set(zmq.USE_FD, os.dup(listener.fd))
        self.socket.bind(f"ipc://{listener.path}")
        self.endpoints.append(f"ipc://{listener.path}")

    def _bind_tcp(self, endpoint: str, authority: Authority) -> None:
        authority.arm(self.socket)
        kept = self._inherited.get(endpoint)
        self._listening.append(_listen_tcp(endpoint) if kept is None else socket.socket(fileno=kept.fd))
        host, port = self._listening[-1].getsockname()[:2]
        self.endpoints.append(f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}")
        self._take(-1)

    def _take(self, number: int) -> None:
        # A duplicate: libzmq closes what it is given, and what is kept here can be given to it anew.
        self.socket.set(zmq.USE_FD, os.dup(self._listening[number].fileno()))
        self.socket.set(zmq.IPV6, int("[" in self.endpoints[number]))
        self.socket.bind(self.endpoints[number])

    def send_everybody_away(self) -> None:
        """Over tcp, end every connection, so that each client has to prove anew that it may connect."""
        for number, endpoint in enumerate(self.endpoints if self._listening else ()):
            self.socket.unbind(endpoint)  # libzmq ends with a listener what it has accepted
            self._take(number)

    def who(self, message: zmq.Frame) -> tuple[str, Role | None]:
        """Who has sent the message, and what they may do; None when they may not do anything (any more)."""
        if self._authority is None:
            return LOCAL, self._role
        user = message.get("User-Id")  # in which libzmq hands on what the authority has said about the sender
        name = user if isinstance(user, str) else ""
        return name, self._authority.role(name)

    def pending(self) -> bool:
        """There is something to receive or to attend to. To be asked before every sleep."""
        crowd = self._crowd is not None and self._crowd.pending()
        return crowd or bool(int(self.socket.get(zmq.EVENTS)) & zmq.POLLIN)

    def filenos(self) -> list[int]:
        """Readable when `pending` is to be asked; edge-triggered (zmq_getsockopt(3), ZMQ_FD)."""
        return [int(self.socket.get(zmq.FD)), *([] if self._crowd is None else [self._crowd.fileno()])]

    def attend(self) -> None:
        """In every turn of the loop: send everybody away when there are too many. Clients with keys come back."""
        if self._crowd is not None and self._crowd.too_many():
            self.send_everybody_away()
            if self._crowd.disperse():
                log.warning("More than %d connections to %s: all were ended", MOST_PEERS, ", ".join(self.endpoints))

    def kept(self) -> list[Kept]:
        """The sockets that listen, for a door that is to inherit them."""
        files = [(one.fd, one.device, one.inode) for one in self._listeners]
        found = files or [(one.fileno(), 0, 0) for one in self._listening]
        return [
            Kept(endpoint=endpoint, fd=fd, device=device, inode=inode)
            for endpoint, (fd, device, inode) in zip(self._asked, found, strict=True)
        ]

    def detach(self, linger: float) -> None:
        """Let go of the peers, and leave the sockets listening: they are somebody else's from now on."""
        self._listeners.clear()
        for listening in self._listening:
            listening.detach()
        self._listening.clear()
        self.close(linger)

    def close(self, linger: float = 0.0) -> None:
        """Stop listening and remove the socket files. What is on its way gets ``linger`` seconds to leave."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for listening in self._listening:
            listening.close()
        self._listening.clear()
        if self._crowd is not None:
            self._crowd.close()
            self._crowd = None
        self.socket.close(linger=round(linger * 1000))


def _listen_tcp(endpoint: str) -> socket.socket:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    listening = socket.socket(socket.AF_INET6 if host.startswith("[") else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host.strip("[]"), int(port)))
        listening.listen(BACKLOG)
        # A connection may be gone again before it is accepted; libzmq's thread must not wait for another one.
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise AddressError(f"{endpoint}: {error.strerror}") from None
    return listening


def open_doors(
    endpoints: Sequence[str],
    make: Callable[[], zmq.Socket[bytes]],
    *,
    role: Role = Role.FULL,
    group: int | None = None,
    authority: Authority | None = None,
    inherited: Sequence[Kept] = (),
) -> list[Door]:
    """One door for those over ipc, one for those over tcp. Raises AddressError, also for tcp without an authority."""
    doors: list[Door] = []
    by_scheme = {tcp: [one for one in endpoints if one.startswith("tcp://") == tcp] for tcp in (False, True)}
    try:
        if by_scheme[False]:
            doors.append(Door(make(), by_scheme[False], role=role, group=group, inherited=inherited))
        if by_scheme[True]:
            if authority is None:
                raise AddressError(f"{by_scheme[True][0]}: a tcp endpoint needs CURVE keys, and there are none")
            doors.append(Door(make(), by_scheme[True], role=role, authority=authority, inherited=inherited))
    except BaseException:
        for door in doors:
            door.close()
        raise
    return doors
