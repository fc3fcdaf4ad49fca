"""The subscriber's side of the events: each as it comes, none twice, and a word about those that were missed."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Self

import zmq

from procman.control import presence
from procman.errors import ControlError, NotReachable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from procman.control.client import Client
    from procman.control.handshake import Handshake

LAST_BREATH = 200  # milliseconds for the events that an ended daemon has still sent
SETTLING = 0.3  # seconds after which a subscription has surely reached the daemon


class Subscription:
    """A subscription to every event at ``endpoint``. Raises NotReachable when nobody listens there.

    Over tcp it needs ``keys``, as `Client` does.
    """

    def __init__(self, endpoint: str, keys: str | None = None) -> None:
        self._pidfd = presence.pidfd(presence.probe(endpoint))
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
        self._socket = self._context.socket(zmq.SUB)
        self._socket.set(zmq.LINGER, 0)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._handshake: Handshake | None = None
        self._socket.subscribe("pool.")
        self._socket.subscribe("arbiter.")
        self._back: zmq.Socket[bytes] | None = None
        if endpoint.startswith("tcp://"):
            self._handshake = self._secure(endpoint, keys)
        else:
            # An upgrade of the daemon keeps its process and loses its connections; ZeroMQ makes others by itself.
            self._back = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
            self._poller.register(self._back, zmq.POLLIN)
        self._socket.connect(endpoint)
        if self._pidfd is not None:
            self._poller.register(self._pidfd, zmq.POLLIN)
        self.ended = False
        self.settled = False  # the subscription has surely reached the daemon

    def _secure(self, endpoint: str, keys: str | None) -> Handshake:
        from procman.control import handshake

        try:
            handshake.prove(self._socket, endpoint, keys)
        except BaseException:
            self.__exit__()
            raise
        return handshake.Handshake(self._socket, self._poller, endpoint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._handshake is not None:
            self._handshake.close()
        if self._back is not None:
            self._socket.disable_monitor()
            self._back.close()
        self._socket.close()
        self._context.term()
        if self._pidfd is not None:
            os.close(self._pidfd)

    def receive(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The next event, with its ``topic``.

        None when the daemon has ``ended``, when the connection is a new one, and after ``timeout`` seconds, or
        SETTLING when it has not ``settled``.
        """
        most = timeout if self.settled else SETTLING if timeout is None else min(timeout, SETTLING)
        ready = dict(self._poller.poll(None if most is None else round(most * 1000)))
        if not ready:
            self.settled = True
            return None
        if self._back is not None and self._back in ready:
            self._back.recv_multipart()
            self.settled = False
        if self._socket not in ready:
            if self._still_there(ready):
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

    def _still_there(self, ready: Mapping[Any, int]) -> bool:
        """The connection has been lost, or refused, and the daemon lives all the same."""
        if self._handshake is None:
            return self._back in ready and self._pidfd not in ready
        try:
            if self._handshake.look():
                self.settled = False
        except NotReachable:
            return False
        return True


def follow(client: Client, last: int) -> Iterator[dict[str, Any]]:
    """The ``last`` events that have been, then each as it comes, until the daemon has ended.

    Events that did not come are asked for; those that the daemon does not have any more are stood for by
    ``{"missed": how many, "from": number of the first, "to": of the last}``.
    """
    with Subscription(where(client), client.keys) as subscription:
        before = client.call("events")
        yield from before["events"][len(before["events"]) - last :] if last else ()
        seen = _Seen(before["seq"])
        while not subscription.ended:
            settled = subscription.settled
            event = subscription.receive()
            if subscription.settled and not settled:
                # What happened while the subscription was on its way did not come by itself.
                yield from _fetch(client, seen, None)
            elif event is not None and seen.new(event):
                if event["seq"] > seen.number + 1:
                    yield from _fetch(client, seen, event["seq"])
                if event["seq"] > seen.number:
                    seen.note(event)
                    yield event


def where(client: Client) -> str:
    """Where this client subscribes: over tcp when it has come over tcp. Raises NotReachable when it can't."""
    reply = client.call("events", since=2**31 - 1)
    if not client.endpoint.startswith("tcp://"):
        return str(reply["endpoint"])
    for endpoint in reply["endpoints"]:
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        if endpoint.startswith("tcp://"):
            # Where the daemon listens on all addresses, the one that we know it by will do.
            return f"{client.endpoint.rpartition(':')[0]}:{port}" if host in ("0.0.0.0", "[::]") else str(endpoint)
    raise NotReachable("the daemon publishes no events over tcp; expected a tcp endpoint in [procman] events")


class _Seen:
    """The number up to which events have been seen."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._time = 0.0

    def new(self, event: dict[str, Any]) -> bool:
        """It has not been seen. A lower number is new, too, when a daemon that has been upgraded counts anew."""
        if event["seq"] <= self.number and event["ts"] > self._time > 0:
            self.number = event["seq"] - 1
        return bool(event["seq"] > self.number)

    def note(self, event: dict[str, Any]) -> None:
        self.number, self._time = event["seq"], event["ts"]


def _fetch(client: Client, seen: _Seen, until: int | None) -> Iterator[dict[str, Any]]:
    """The events after those seen, up to number ``until`` or to the last one, from what the daemon keeps."""
    try:
        events = client.call("events", since=seen.number)["events"]
    except NotReachable:
        events = []  # it has ended since: what it had kept is lost with it
    events = [event for event in events if until is None or event["seq"] <= until]
    first = events[0]["seq"] if events else until
    if first is not None and first > seen.number + 1:
        yield {"missed": first - seen.number - 1, "from": seen.number + 1, "to": first - 1}
    for event in events:
        seen.note(event)
        yield event
    if until is not None and not events:
        seen.number = until - 1
