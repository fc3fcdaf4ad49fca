"""What happens, as it happens, for whoever subscribes: one message per event on a PUB socket.

The first frame is the topic, ``pool.<name>.<event>`` (or ``arbiter.<event>``), the second JSON with ``v seq ts pool
slot gen pid reason`` and perhaps more; fields are only ever added. ``seq`` has no gaps: a subscriber that sees one
was too slow, or came late, and asks for `stats`.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any

import zmq

from procman.control import ipc

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("procman.control")

VERSION = 1
MOST_QUEUED = 1000  # events for a subscriber that does not read them; more are dropped for it


class Publisher:
    """A PUB socket at an ``ipc://`` endpoint, made like the control socket. Raises AddressError."""

    def __init__(
        self,
        endpoint: str,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._sequence = 0
        self._listener = ipc.listen(endpoint)
        self._context = context or zmq.Context(1)
        self._own_context = context is None
        self._socket = self._context.socket(zmq.PUB)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.SNDHWM, MOST_QUEUED)
        self._socket.set(zmq.MAXMSGSIZE, 4096)  # subscribers send nothing but topics
        self._socket.set(zmq.USE_FD, self._listener.fd)
        self._socket.bind(f"ipc://{self._listener.path}")

    def publish(
        self,
        event: str,
        *,
        pool: str | None = None,
        slot: str | None = None,
        gen: int | None = None,
        pid: int | None = None,
        reason: str | None = None,
        **more: Any,
    ) -> None:
        """Tell the subscribers. Never blocks and never raises: an event is news, and the loop has work to do."""
        self._sequence += 1
        fields = {
            "v": VERSION,
            "seq": self._sequence,
            "ts": self._clock(),
            "pool": pool,
            "slot": slot,
            "gen": gen,
            "pid": pid,
            "reason": reason,
        }
        topic = f"arbiter.{event}" if pool is None else f"pool.{pool}.{event}"
        try:
            data = json.dumps({**more, **fields}, separators=(",", ":"), default=str).encode("ascii")
            self._socket.send_multipart([topic.encode("utf-8", "replace"), data], zmq.NOBLOCK)
        except (zmq.ZMQError, ValueError) as error:
            log.debug("Event %s could not be published: %s", topic, error)

    def close(self, linger: float = 0.0) -> None:
        """Remove the socket file. Events on their way get ``linger`` seconds to leave."""
        self._listener.unlink()
        self._socket.close(linger=round(linger * 1000))
        if self._own_context:
            self._context.term()
