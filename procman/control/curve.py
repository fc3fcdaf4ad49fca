"""Who may connect over tcp: CURVE (CurveZMQ, ZeroMQ RFC 26), and the authority that libzmq asks about each key.

CURVE encrypts, and proves to the client that it speaks to the server whose key it knows, and to the server which
secret key the client has. Whether that key may connect libzmq asks over ZAP (RFC 27), on an inproc socket that is
served here in the daemon's own loop: a thread in a process that supervises others would be one thing more to go wrong.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import zmq
from zmq.utils import z85

from procman.config import keyfiles
from procman.errors import AddressError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from procman.config.keyfiles import Keys
    from procman.core.spec import AuthSpec, ClientSpec, Role

log = logging.getLogger("procman.control")

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
DOMAIN = b"procman"
MOST_HANDSHAKES = 64  # answered in one turn of the loop
HANDSHAKE = 3000  # milliseconds: who connects and says nothing is dropped after this
HEARTBEAT = 30_000  # milliseconds: a peer whose machine has gone is noticed


class Authority:
    """Answers libzmq's questions, and knows what each client may do now. Raises AddressError without usable keys."""

    def __init__(self, auth: AuthSpec, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        try:
            self._keys = keyfiles.read(auth.keys or "")
        except ConfigurationError as error:
            raise AddressError(str(error)) from None
        self._clients: tuple[ClientSpec, ...] = ()
        self._by_key: Mapping[bytes, ClientSpec] = {}
        self._roles: Mapping[str, Role] = {}
        self.allow(auth.clients)
        self._socket = context.socket(zmq.REP)
        self._socket.set(zmq.LINGER, 0)
        self._socket.bind(ZAP_ENDPOINT)

    def allow(self, clients: Iterable[ClientSpec]) -> bool:
        """From now on these and nobody else. Whether somebody may do less than before."""
        clients = tuple(clients)
        before, self._clients = self._clients, clients
        self._by_key = {z85.decode(client.key): client for client in clients}
        self._roles = {client.name: client.role for client in clients}
        return not set(before) <= set(clients)

    def role(self, user: str) -> Role | None:
        """What the client of this name may do; None when nobody of this name may do anything (any more)."""
        return self._roles.get(user)

    def arm(self, socket: zmq.Socket[bytes]) -> None:
        """Make it a socket that takes only clients with keys; to be called before it is bound."""
        socket.set(zmq.CURVE_SERVER, 1)
        socket.set(zmq.CURVE_SECRETKEY, self._keys.secret.encode("ascii"))
        socket.set(zmq.ZAP_DOMAIN, DOMAIN)
        # Without it, libzmq lets everybody in who knows the server's public key when nobody answers on the ZAP socket.
        socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.set(zmq.HANDSHAKE_IVL, HANDSHAKE)
        socket.set(zmq.HEARTBEAT_IVL, HEARTBEAT)
        socket.set(zmq.HEARTBEAT_TIMEOUT, 2 * HEARTBEAT)

    def fileno(self) -> int:
        """Readable when `pending` is to be asked; edge-triggered as that of `ControlServer`."""
        return int(self._socket.get(zmq.FD))

    def pending(self) -> bool:
        """Somebody wants to connect. To be asked before every sleep."""
        return bool(int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN)

    def attend(self) -> None:
        """Answer who waits for an answer, at most MOST_HANDSHAKES. Never blocks."""
        for _ in range(MOST_HANDSHAKES):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._socket.send_multipart(self._verdict(frames), zmq.NOBLOCK)

    def _verdict(self, frames: list[bytes]) -> list[bytes]:
        # RFC 27: version, request id, domain, address, identity, mechanism, credentials; and in the reply version,
        # request id, status code, status text, user id, metadata.
        version, request = frames[0], frames[1]
        address, mechanism = frames[3].decode("ascii", "replace"), frames[5]
        client = self._by_key.get(frames[6]) if mechanism == b"CURVE" and len(frames) == 7 else None
        if client is None:
            log.warning("Somebody at %s was refused: the key is not among the clients of [procman.auth]", address)
            return [version, request, b"400", b"unknown key", b"", b""]
        log.debug("%s connects from %s", client.name, address)
        return [version, request, b"200", b"OK", client.name.encode("ascii"), b""]

    def close(self) -> None:
        self._socket.close()


def arm_client(socket: zmq.Socket[bytes], keys: Keys) -> None:
    """Make it a socket that speaks only to the daemon whose public key is in the file of keys."""
    assert keys.server is not None
    socket.set(zmq.CURVE_PUBLICKEY, keys.public.encode("ascii"))
    socket.set(zmq.CURVE_SECRETKEY, keys.secret.encode("ascii"))
    socket.set(zmq.CURVE_SERVERKEY, keys.server.encode("ascii"))
