"""What happens, as it happens, for whoever subscribes: one message per event on a PUB socket.

The first frame is the topic, ``pool.<name>.<event>`` (or ``arbiter.<event>``), the second JSON with ``v seq ts pool
slot gen pid reason`` and perhaps more; fields are only ever added. ``seq`` has no gaps: a subscriber that sees one
was too slow, or came late, and asks for `stats`. The last events are kept for whoever asks what has just happened.

For circus-top, figures of the processes are published, too, while somebody subscribes to the topic ``stat.``; who
subscribes is told by the XPUB socket, which is otherwise a PUB socket (zmq_socket(3)).
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import zmq

from procman.control.door import open_doors
from procman.control.doors import Doors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from procman.control.curve import Authority
    from procman.control.door import Door, Kept

log = logging.getLogger("procman.control")

VERSION = 1
MOST_QUEUED = 1000  # events for a subscriber that does not read them; more are dropped for it
KEPT = 100  # events
MOST_SUBSCRIPTIONS = 64  # in one turn of the loop
FIGURES = "stat."  # the topic of Circus's figures (circus.stats.client)
MOST_KEPT_BYTES = 8192  # of one event; of a longer one (stacks, tracebacks) only the fields that every event has


class Publisher(Doors):
    """PUB sockets at these endpoints, made like the control sockets. Raises AddressError."""

    def __init__(
        self,
        endpoints: Sequence[str],
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        *,
        group: int | None = None,
        authority: Authority | None = None,
        clock: Callable[[], float] = time.time,
        inherited: Sequence[Kept] = (),
    ) -> None:
        super().__init__(context)
        self._clock = clock
        self.sequence = 0
        self._wanting: set[int] = set()  # the doors at which somebody subscribes to the figures
        self._recent: deque[bytes] = deque(maxlen=KEPT)
        try:
            self._doors = open_doors(
                endpoints, self._make_socket, group=group, authority=authority, inherited=inherited
            )
        except BaseException:
            self.close()
            raise

    def _make_socket(self) -> zmq.Socket[bytes]:
        made = self._context.socket(zmq.XPUB)
        made.set(zmq.LINGER, 0)
        made.set(zmq.SNDHWM, MOST_QUEUED)
        made.set(zmq.MAXMSGSIZE, 4096)  # subscribers send nothing but topics
        return made

    @property
    def figures_wanted(self) -> bool:
        """Somebody subscribes to the figures of the processes."""
        return bool(self._wanting)

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
        self.sequence += 1
        topic = f"arbiter.{event}" if pool is None else f"pool.{pool}.{event}"
        fields = {
            "v": VERSION,
            "seq": self.sequence,
            "ts": self._clock(),
            "pool": pool,
            "slot": slot,
            "gen": gen,
            "pid": pid,
            "reason": reason,
        }
        try:
            data = _dump({**more, **fields})
        except ValueError:  # it contains itself
            data = _dump({**fields, "cut": True})
        self._keep(topic, data, fields)
        self._send(topic, data)

    def _send(self, topic: str, data: bytes) -> None:
        for door in self._doors:
            try:
                door.socket.send_multipart([topic.encode("utf-8", "replace"), data], zmq.NOBLOCK)
            except zmq.ZMQError as error:
                log.debug("%s could not be published: %s", topic, error)

    def attend(self) -> None:
        """Find out whether ``figures_wanted``. Never blocks."""
        for number, door in enumerate(self._doors):
            door.attend()
            for message in _received(door):
                # Byte 1 for the first who subscribes to a topic, 0 when the last one has gone; all else is nonsense.
                if message[1:] == FIGURES.encode():
                    (self._wanting.add if message[0] == 1 else self._wanting.discard)(number)

    def publish_figures(self, pool: str, pid: int | None, figures: dict[str, Any]) -> None:
        """Figures of a process, or, without a pid, of its pool, for those who subscribe to them; no event."""
        topic = f"{FIGURES}{pool}" if pid is None else f"{FIGURES}{pool}.{pid}"
        self._send(topic, _dump(figures))

    def go_on(self, sequence: int, recent: Sequence[str]) -> None:
        """Count on, and remember, from where the image of the daemon before this one was (see `remembered`)."""
        self.sequence = sequence
        self._recent.extend(event.encode("ascii") for event in recent)

    @property
    def remembered(self) -> tuple[str, ...]:
        """The last events, for `go_on`."""
        return tuple(event.decode("ascii") for event in self._recent)

    @property
    def endpoint(self) -> str:
        """The first of those where to subscribe."""
        return self.endpoints[0]

    def recent(self, since: int = 0) -> list[dict[str, Any]]:
        """The last events, at most KEPT, oldest first, each with its ``topic``; only those after number ``since``."""
        # What is no JSON (Infinity) becomes a text: it must not make an answer impossible.
        events = [json.loads(data, parse_constant=str) for data in self._recent]
        return [event for event in events if event["seq"] > since]

    def _keep(self, topic: str, data: bytes, fields: dict[str, Any]) -> None:
        # As bytes: a tenth of the memory of the same event as a dictionary.
        kept = data if len(data) <= MOST_KEPT_BYTES else _dump({**fields, "cut": True})
        self._recent.append(b'{"topic":' + _dump(topic) + b"," + kept[1:])


def _received(door: Door) -> Iterator[bytes]:
    for _ in range(MOST_SUBSCRIPTIONS):
        try:
            yield door.socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), default=str).encode("ascii")
