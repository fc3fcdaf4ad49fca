"""The daemon's side of the control socket: it turns bytes into calls and answers into bytes, and decides nothing.

ZeroMQ's descriptor is edge-triggered: it becomes readable when something *may* have changed, once, and a send or a
receive can consume the edge (zmq_getsockopt(3), ZMQ_FD and ZMQ_EVENTS). So the loop asks `pending` before it sleeps,
and the descriptor only wakes it.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import zmq

from procman.control import ipc, protocol
from procman.control.protocol import BadMessage, Errno, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

log = logging.getLogger("procman.control")

MOST_CALLS = 64  # in one turn of the loop: a flood of commands must not keep it from its workers
MOST_FRAMES = 8  # a request that comes through a few proxies has an identity for each
MOST_QUEUED = 1000  # replies to a peer that does not read them; more are dropped


class Call:
    """A valid request and the way back to who sent it. The first answer counts, later ones are ignored."""

    def __init__(self, server: ControlServer, envelope: list[bytes], request: Request) -> None:
        self.request = request
        self.answered = False
        self._server = server
        self._envelope = envelope

    @property
    def command(self) -> str:
        """A name in `protocol.COMMANDS`; never one that only stands for another."""
        return self.request.command

    @property
    def properties(self) -> Mapping[str, Any]:
        return self.request.properties

    @property
    def late(self) -> bool:
        """Its client has given up; to be looked at again before a call that had to wait is carried out."""
        return self._server.late(self.request)

    def reply(self, fields: Mapping[str, Any] | None = None) -> bool:
        """It was carried out. False when the client is gone or has been answered already."""
        return self._answer(lambda now: protocol.ok(self.request.id, now, fields or {}))

    def fail(self, reason: str, *, errno: int = Errno.COMMAND_ERROR, fields: Mapping[str, Any] | None = None) -> bool:
        """It was not carried out, or has failed. False when the client is gone or has been answered already."""
        return self._answer(lambda now: protocol.error(self.request.id, now, reason, errno, fields))

    def refuse(self, reason: str) -> bool:
        """It will not be carried out (exit code 5 of procmanctl)."""
        return self.fail(reason, errno=Errno.REFUSED)

    def _answer(self, message: Callable[[float], bytes]) -> bool:
        if self.answered:
            return False
        self.answered = True
        if self.request.cast:
            return True
        return self._server.send(self._envelope, self.request.id, message)


class ControlServer:
    """A ROUTER on one or more ``ipc://`` endpoints. Raises AddressError (see `ipc.listen`)."""

    def __init__(
        self,
        endpoints: Sequence[str],
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._context = context or zmq.Context(1)
        self._own_context = context is None
        self._listeners: list[ipc.Listener] = []
        self._socket = self._context.socket(zmq.ROUTER)
        self._configure()
        try:
            for endpoint in endpoints:
                self._bind(endpoint)
        except BaseException:
            self.close()
            raise

    def _configure(self) -> None:
        self._socket.set(zmq.LINGER, 0)
        # A frame that is far too large ends its connection; one that is too large is answered (protocol.MOST_BYTES).
        self._socket.set(zmq.MAXMSGSIZE, 16 * protocol.MOST_BYTES)
        self._socket.set(zmq.SNDHWM, MOST_QUEUED)
        # A client that comes back with the identity of its lost connection gets its answers (CircusClient sets one).
        self._socket.set(zmq.ROUTER_HANDOVER, 1)
        # Sending to a peer that is gone is an error that we see instead of a message that vanishes.
        self._socket.set(zmq.ROUTER_MANDATORY, 1)

    def _bind(self, endpoint: str) -> None:
        listener = ipc.listen(endpoint)
        self._listeners.append(listener)
        # ZMQ_USE_FD is for the next bind: libzmq accepts on our socket and closes it, but leaves the file alone.
        self._socket.set(zmq.USE_FD, listener.fd)
        self._socket.bind(f"ipc://{listener.path}")

    def fileno(self) -> int:
        """Readable when `pending` is to be asked. Edge-triggered: see the top of the module."""
        return int(self._socket.get(zmq.FD))

    def pending(self) -> bool:
        """There is something to receive. To be asked before every sleep."""
        return bool(int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN)

    def receive(self, most: int = MOST_CALLS) -> list[Call]:
        """The calls that have come, at most ``most``; then `pending` says whether there are more. Never blocks.

        What is no valid request, or comes after its deadline, is answered here and does not show up.
        """
        calls = []
        for _ in range(most):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            call = self._call(frames)
            if call is not None:
                calls.append(call)
        return calls

    def late(self, request: Request) -> bool:
        """The deadline of the request has passed."""
        return request.late(self._clock())

    def _call(self, frames: list[bytes]) -> Call | None:
        envelope, payload = _unwrap(frames)
        try:
            if payload is None:
                raise BadMessage(f"expected one frame, got {len(frames) - 1}")
            request = protocol.parse(payload)
            if self.late(request):
                log.info("Command %s came after its deadline and is dropped", request.command)
                raise BadMessage("the command came after its deadline and was not carried out", Errno.LATE, request.id)
        except BadMessage as bad:
            reason, errno, identity = str(bad), bad.errno, bad.id
            self.send(envelope, identity, lambda now: protocol.error(identity, now, reason, errno))
            return None
        return Call(self, envelope, request)

    def send(self, envelope: list[bytes], identity: str | int | None, message: Callable[[float], bytes]) -> bool:
        """Send what ``message`` makes of the time. False when the peer is gone or does not read its answers."""
        try:
            data = message(self._clock())
        except (TypeError, ValueError):
            # The boundary "control handler": an answer that is no JSON is our fault and must cost neither the
            # loop its life nor the client its patience.
            log.exception("The answer to a command can't be sent")
            data = protocol.error(identity, self._clock(), "server error", Errno.BAD_MSG_DATA)
        try:
            self._socket.send_multipart([*envelope, data], zmq.NOBLOCK)
        except zmq.ZMQError as error:  # EHOSTUNREACH: it is gone. EAGAIN: it does not read.
            log.debug("An answer could not be delivered: %s", error)
            return False
        return True

    def close(self, linger: float = 0.0) -> None:
        """Stop listening and remove the socket files. Answers on their way get ``linger`` seconds to leave."""
        for listener in self._listeners:
            listener.unlink()
        self._listeners.clear()
        self._socket.close(linger=round(linger * 1000))
        if self._own_context:
            self._context.term()


def _unwrap(frames: list[bytes]) -> tuple[list[bytes], bytes | None]:
    """The frames to repeat before the answer, and the request, which is None when the framing is wrong.

    DEALER (as in CircusClient) sends the request alone, REQ an empty frame before it; a ROUTER puts the identity of
    the peer first (ZeroMQ RFC 28).
    """
    if len(frames) == 2:
        return frames[:1], frames[1]
    if 3 <= len(frames) <= MOST_FRAMES and frames[-2] == b"":
        return frames[:-1], frames[-1]
    return frames[:1], None
