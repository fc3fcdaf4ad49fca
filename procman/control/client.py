"""The client's side of the control socket: one call at a time, with a timeout that the daemon knows of.

Before it asks the daemon it asks the kernel who listens: a daemon that is not there is reported at once and not after
the timeout, and one that dies before it has answered is noticed by its pidfd.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any, Self

import zmq

from procman.control import presence, protocol
from procman.control.protocol import Errno
from procman.errors import ControlError, NotReachable, Refused, TimedOut

if TYPE_CHECKING:
    from procman.control.handshake import Handshake

LAST_BREATH = 100  # milliseconds
RETRY = 100  # milliseconds
RECONNECT = 10  # milliseconds


class CommandFailed(ControlError):
    """The daemon answered with an error; ``reply`` is all of its answer, ``errno`` its number."""

    def __init__(self, reason: str, reply: dict[str, Any]) -> None:
        super().__init__(reason)
        self.reply = reply
        self.errno = reply.get("errno", 0)


class Client:
    """A connection to the daemon at ``endpoint``; ``timeout`` in seconds is for each call.

    Over tcp it needs ``keys``: the path of a file of this client's keys, with the daemon's public key.
    Raises NotReachable when nobody listens there, ConfigurationError when the keys can't be used.
    """

    def __init__(self, endpoint: str, *, timeout: float = 5.0, keys: str | None = None) -> None:
        self.endpoint = endpoint
        self.keys = keys
        self.timeout = timeout
        self.last_deadline: float | None = None  # of the last call, by the daemon's clock
        self._ahead: float | None = 0.0  # by how much the daemon's clock is; None: not known yet
        self._pidfd = presence.pidfd(presence.probe(endpoint))
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.RECONNECT_IVL, RECONNECT)
        self._socket.set(zmq.IDENTITY, os.urandom(16).hex().encode("ascii"))
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._handshake: Handshake | None = None
        self._lost: zmq.Socket[bytes] | None = None
        if endpoint.startswith("tcp://"):
            self._ahead = None
            self._handshake = self._secure()
        else:
            # A daemon that executes itself anew keeps its pid and its listening socket, and loses its connections.
            self._lost = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            self._poller.register(self._lost, zmq.POLLIN)
        self._socket.connect(endpoint)
        if self._pidfd is not None:
            self._poller.register(self._pidfd, zmq.POLLIN)

    def _secure(self) -> Handshake:
        # Imported here, as what only tcp needs: most commands are given on the daemon's own machine.
        from procman.control import handshake

        try:
            handshake.prove(self._socket, self.endpoint, self.keys)
        except BaseException:
            self.close()
            raise
        return handshake.Handshake(self._socket, self._poller, self.endpoint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        if self._handshake is not None:
            self._handshake.close()
        if self._lost is not None:
            self._socket.disable_monitor()
            self._lost.close()
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
        deadline = time.monotonic() + self.timeout
        if self._ahead is None:
            self._ahead = self._compare_clocks(command, deadline)
        given = {name: value for name, value in properties.items() if value is not None}
        self.last_deadline = last = time.time() + self._ahead + max(0.0, deadline - time.monotonic())
        return _checked(self._exchange(command, given, last, deadline))

    def _compare_clocks(self, command: str, deadline: float) -> float:
        """By how much the daemon's clock is ahead of ours: a deadline is told by the clock of another machine."""
        before = time.time()
        reply = self._exchange("numwatchers", {}, None, deadline, on_behalf_of=command)
        return float(_checked(reply)["time"]) - (before + time.time()) / 2

    def _exchange(
        self, command: str, given: dict[str, Any], last: float | None, deadline: float, on_behalf_of: str = ""
    ) -> dict[str, Any]:
        identity = os.urandom(16).hex()
        asked = on_behalf_of or command
        self._disconnected()  # perhaps it was, since the last call
        self._send(protocol.request(identity, command, given, last), asked, deadline)
        while True:
            reply = self._receive(asked, deadline)
            if reply is None:
                self._send(protocol.request(identity, command, given, last, again=True), asked, deadline)
            elif reply.get("id") == identity and reply.get("errno") != Errno.UPGRADING:
                return reply
            # Else it answers a call that was given up, or says that the connection is about to be lost.

    def _disconnected(self) -> bool:
        """The connection was lost, since this was asked before."""
        if self._handshake is not None:
            return self._handshake.look()
        lost = False
        while self._lost is not None and self._lost.poll(0):
            self._lost.recv_multipart()
            lost = True
        return lost

    def _send(self, request: bytes, command: str, deadline: float) -> None:
        while True:
            try:
                self._socket.send(request, zmq.NOBLOCK)
            except zmq.Again:  # there is nobody to send it to: the daemon has ended the connection
                if self._handshake is not None:
                    self._handshake.look()
                if time.monotonic() > deadline:
                    raise TimedOut(f"{command}: no connection within {self.timeout:g} s") from None
                self._socket.poll(RETRY, zmq.POLLOUT)
            else:
                return

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

    def _receive(self, command: str, deadline: float) -> dict[str, Any] | None:
        """The next answer; None when the connection was lost before it has come."""
        ready = dict(self._poller.poll(_milliseconds(deadline)))
        while ready and self._socket not in ready and self._pidfd not in ready:
            if self._disconnected():
                return None
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
