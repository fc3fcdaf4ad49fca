"""A client's side of a connection over tcp: proving who it is, and noticing that the daemon does not believe it.

ZeroMQ connects again and again by itself and tells nobody why it does not come through; its monitor does (ZeroMQ,
zmq_socket_monitor(3)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq
from zmq.utils.monitor import recv_monitor_message

from procman.config import keyfiles
from procman.control import presence
from procman.control.curve import arm_client
from procman.errors import ConfigurationError, Refused

if TYPE_CHECKING:
    from typing import Any

FAILURES = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "the daemon does not accept this key: is it among its [procman.auth] clients?",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "whoever listens there does not speak as a daemon with CURVE keys does",
    # A daemon that can't read what was encrypted for another one says nothing and hangs up (RFC 26).
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "the connection was closed during the handshake: is server_key the daemon's?",
}


def prove(socket: zmq.Socket[bytes], endpoint: str, path: str | None) -> None:
    """Make the socket one with the keys in the file. Raises ConfigurationError when there are none to be used."""
    if path is None:
        raise ConfigurationError(
            f"{endpoint} needs keys: give --keys FILE or $PROCMAN_KEYS (procmanctl keys client makes a file)"
        )
    keys = keyfiles.read(path)
    if keys.server is None:
        raise ConfigurationError(f"{path}: server_key is missing; these are the keys of a daemon, not of a client")
    if ":" in endpoint.removeprefix("tcp://").rpartition(":")[0]:
        socket.set(zmq.IPV6, 1)
    arm_client(socket, keys)


class Handshake:
    """Watches the connection of a socket that is about to connect to ``endpoint``."""

    def __init__(self, socket: zmq.Socket[bytes], poller: zmq.Poller, endpoint: str) -> None:
        self._socket = socket
        self._endpoint = endpoint
        events = zmq.EVENT_DISCONNECTED
        for event in FAILURES:
            events |= event
        self._monitor: Any = socket.get_monitor_socket(events)
        poller.register(self._monitor, zmq.POLLIN)

    def look(self) -> bool:
        """Take what the monitor has to tell: True when a connection has been lost, and another one is on its way.

        Raises Refused when the daemon and we don't come together, NotReachable when it has gone.
        """
        lost = False
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            if event in FAILURES:
                raise Refused(FAILURES[event])
            # It may have sent everybody away to ask for their keys anew; then ZeroMQ has connected again already.
            presence.probe(self._endpoint)
            lost = True
        return lost

    def close(self) -> None:
        # One after the other, or ending the context would wait for ever.
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
