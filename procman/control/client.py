"""The client's side of the control socket: one call at a time, with a timeout that the daemon knows of.

Before it asks the daemon it asks the kernel who listens: a daemon that is not there is reported at once and not after
the timeout, and one that dies before it has answered is noticed by its pidfd.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from typing import Any, Self

import zmq

from procman.control import presence, protocol
from procman.control.protocol import Errno
from procman.errors import ControlError, NotReachable, Refused, TimedOut

LAST_BREATH = 100  # milliseconds


class CommandFailed(ControlError):
    """The daemon answered with an error; ``reply`` is all of its answer, ``errno`` its number."""

    def __init__(self, reason: str, reply: dict[str, Any]) -> None:
        super().__init__(reason)
        self.reply = reply
        self.errno = reply.get("errno", 0)


class Client:
    """A connection to the daemon at ``endpoint``; ``timeout`` in seconds is for each call.

    Raises NotReachable when nobody listens there.
    """

    def __init__(self, endpoint: str, *, timeout: float = 5.0) -> None:
        self.endpoint = endpoint
        self.timeout = timeout
        self._pidfd = presence.pidfd(presence.probe(endpoint))
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.IDENTITY, uuid.uuid4().hex.encode("ascii"))
        self._socket.connect(endpoint)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        if self._pidfd is not None:
            self._poller.register(self._pidfd, zmq.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()
        self._context.term()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def call(self, command: str, /, **properties: Any) -> dict[str, Any]:
        """The daemon's answer. Properties that are None are left out.

        Raises NotReachable when the daemon goes away, TimedOut after `timeout` seconds (the daemon will not begin
        with the command after that), Refused when it will not do it, CommandFailed when it could not.
        """
        identity = uuid.uuid4().hex
        deadline = time.monotonic() + self.timeout
        given = {name: value for name, value in properties.items() if value is not None}
        self._socket.send(protocol.request(identity, command, given, time.time() + self.timeout))
        while True:
            reply = self._receive(command, deadline)
            if reply.get("id") == identity:  # else it answers a call that was given up
                return _checked(reply)

    def await_end(self) -> None:
        """Return when the daemon's process has ended. Raises TimedOut after `timeout` seconds."""
        deadline = time.monotonic() + self.timeout
        if self._pidfd is None:
            self._await_silence(deadline)
            return
        poller = zmq.Poller()
        poller.register(self._pidfd, zmq.POLLIN)
        if not poller.poll(_milliseconds(deadline)):
            raise TimedOut(f"the daemon has not ended within {self.timeout:g} s")

    def _await_silence(self, deadline: float) -> None:
        # In another pid namespace the daemon has no pid for us, so its socket must do.
        while time.monotonic() < deadline:
            try:
                presence.probe(self.endpoint)
            except NotReachable:
                return
            time.sleep(0.05)
        raise TimedOut(f"the daemon has not ended within {self.timeout:g} s")

    def _receive(self, command: str, deadline: float) -> dict[str, Any]:
        ready = dict(self._poller.poll(_milliseconds(deadline)))
        if not ready:
            raise TimedOut(f"{command}: no answer within {self.timeout:g} s")
        # Its process may be gone and the answer that it sent with its last breath still in our I/O thread.
        if self._socket not in ready and not self._socket.poll(LAST_BREATH):
            raise NotReachable(f"{command}: the daemon went away before it had answered")
        try:
            reply = json.loads(self._socket.recv())
        except ValueError as error:
            raise ControlError(f"{command}: the answer is not valid JSON: {error}") from None
        return reply if isinstance(reply, dict) else {}


def _checked(reply: dict[str, Any]) -> dict[str, Any]:
    if reply.get("status") != "error":
        return reply
    reason = str(reply.get("reason", "unknown"))
    match reply.get("errno"):
        case Errno.REFUSED:
            raise Refused(reason)
        case Errno.LATE:
            raise TimedOut(reason)
    raise CommandFailed(reason, reply)


def _milliseconds(deadline: float) -> int:
    return max(0, round((deadline - time.monotonic()) * 1000))
