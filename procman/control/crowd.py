"""How many connections a door has, by libzmq's monitor (zmq_socket_monitor(3)): libzmq itself knows no limit.

Each connection costs a descriptor, also that of somebody who never says a word, and without descriptors the daemon
can't start a worker.
"""

from __future__ import annotations

import itertools
import struct
import time

import zmq

MOST_PEERS = 256
MOST_EVENTS = 1000  # in one turn of the loop
WARNING_INTERVAL = 60.0  # seconds

_NAMES = itertools.count(1)


class Crowd:
    """Watches a socket that is about to be bound."""

    def __init__(self, watched: zmq.Socket[bytes]) -> None:
        self._watched = watched
        self._fds: set[int] = set()
        self._warned = -WARNING_INTERVAL
        address = f"inproc://procman.crowd.{next(_NAMES)}"
        watched.monitor(address, zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._monitor = watched.context.socket(zmq.PAIR)
        self._monitor.set(zmq.LINGER, 0)
        # No limit: libzmq's own thread would wait for room, and keep waiting while we wait for it.
        self._monitor.set(zmq.RCVHWM, 0)
        self._monitor.connect(address)

    def fileno(self) -> int:
        """Readable when `pending` is to be asked; edge-triggered."""
        return int(self._monitor.get(zmq.FD))

    def pending(self) -> bool:
        """Somebody has come or gone. To be asked before every sleep."""
        return bool(int(self._monitor.get(zmq.EVENTS)) & zmq.POLLIN)

    def too_many(self) -> bool:
        """There are more than MOST_PEERS. Never blocks."""
        for _ in range(MOST_EVENTS):
            try:
                head = self._monitor.recv_multipart(zmq.NOBLOCK)[0]
            except zmq.Again:
                break
            # A 16 bit event and its 32 bit value, which is the descriptor.
            event, fd = struct.unpack("=Hi", head[:6])
            (self._fds.add if event == zmq.EVENT_ACCEPTED else self._fds.discard)(fd)
        return len(self._fds) > MOST_PEERS

    def disperse(self) -> bool:
        """They are all sent away; whether that is worth a line in the log."""
        self._fds.clear()
        now = time.monotonic()
        told_of_late = now < self._warned + WARNING_INTERVAL
        if not told_of_late:
            self._warned = now
        return not told_of_late

    def close(self) -> None:
        """Before the watched socket is closed."""
        self._watched.disable_monitor()
        self._monitor.close()
