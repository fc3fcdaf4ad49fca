"""The subscriber's side of the events: each as it comes, until the daemon has ended."""

from __future__ import annotations

import json
import os
from typing import Any, Self

import zmq

from procman.control import presence
from procman.errors import ControlError

LAST_BREATH = 200  # milliseconds for the events that an ended daemon has still sent


class Subscription:
    """A subscription to every event at ``endpoint``. Raises NotReachable when nobody listens there."""

    def __init__(self, endpoint: str) -> None:
        self._pidfd = presence.pidfd(presence.probe(endpoint))
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
        self._socket = self._context.socket(zmq.SUB)
        self._socket.set(zmq.LINGER, 0)
        self._socket.subscribe("pool.")
        self._socket.subscribe("arbiter.")
        self._socket.connect(endpoint)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        if self._pidfd is not None:
            self._poller.register(self._pidfd, zmq.POLLIN)
        self.ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()
        self._context.term()
        if self._pidfd is not None:
            os.close(self._pidfd)

    def receive(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The next event, with its ``topic``; None after ``timeout`` seconds, or when the daemon has ``ended``."""
        ready = dict(self._poller.poll(None if timeout is None else round(timeout * 1000)))
        if self._socket not in ready:
            if not ready:
                return None
            if not self._socket.poll(LAST_BREATH):
                self.ended = True
                return None
        frames = self._socket.recv_multipart()
        try:
            topic, data = frames
            return {"topic": topic.decode("utf-8", "replace"), **json.loads(data)}
        except (ValueError, TypeError) as error:
            raise ControlError(f"an event is not what it should be: {error}") from None
