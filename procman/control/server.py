"""The daemon's side of the control sockets: it turns bytes into calls and answers into bytes.

All it decides is who may ask for what: a client that only reads gets no command that does something.

ZeroMQ's descriptor is edge-triggered: it becomes readable when something *may* have changed, once, and a send or a
receive can consume the edge (zmq_getsockopt(3), ZMQ_FD and ZMQ_EVENTS). So the loop asks `pending` before it sleeps,
and the descriptor only wakes it.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import zmq

from procman.control import protocol
from procman.control.commands import READING
from procman.control.door import LOCAL, open_doors
from procman.control.doors import Doors
from procman.control.protocol import BadMessage, Errno, Request
from procman.core.spec import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from procman.control.curve import Authority
    from procman.control.door import Door, Kept

log = logging.getLogger("procman.control")

MOST_CALLS = 64  # in one turn of the loop: a flood of commands must not keep it from its workers
MOST_FRAMES = 8  # a request that comes through a few proxies has an identity for each
MOST_QUEUED = 1000  # replies to a peer that does not read them; more are dropped


@dataclass(frozen=True, slots=True)
class Way:
    """Where an answer goes: through which door, and behind which frames."""

    door: Door
    envelope: list[bytes]


class Call:
    """A valid request and the way back to who sent it. The first answer counts, later ones are ignored.

    ``by`` is the name of the client's key; ``local`` for whoever may open the socket.
    """

    def __init__(self, server: ControlServer, way: Way, request: Request, by: str = LOCAL) -> None:
        self.request = request
        self.answered = False
        self.by = by
        self._server = server
        self._way = way

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
        return self._server.send(self._way, self.request.id, message)


class ControlServer(Doors):
    """ROUTERs on ``endpoints``, and on ``read_only`` ones, where ``group`` may connect too. Raises AddressError.

    ``authority`` knows the keys of the clients over ``tcp://``, and may be left out when there is no such endpoint.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        *,
        read_only: Sequence[str] = (),
        group: int | None = None,
        authority: Authority | None = None,
        clock: Callable[[], float] = time.time,
        inherited: Sequence[Kept] = (),
    ) -> None:
        super().__init__(context)
        self._clock = clock
        try:
            self._doors += open_doors(endpoints, self._make_socket, authority=authority, inherited=inherited)
            self._doors += open_doors(
                read_only, self._make_socket, role=Role.READ_ONLY, group=group, inherited=inherited
            )
        except BaseException:
            self.close()
            raise

    def _make_socket(self) -> zmq.Socket[bytes]:
        made = self._context.socket(zmq.ROUTER)
        made.set(zmq.LINGER, 0)
        # A frame that is far too large ends its connection; one that is too large is answered (protocol.MOST_BYTES).
        made.set(zmq.MAXMSGSIZE, 16 * protocol.MOST_BYTES)
        made.set(zmq.SNDHWM, MOST_QUEUED)
        # A client that comes back with the identity of its lost connection gets its answers (CircusClient sets one).
        made.set(zmq.ROUTER_HANDOVER, 1)
        # Sending to a peer that is gone is an error that we see instead of a message that vanishes.
        made.set(zmq.ROUTER_MANDATORY, 1)
        return made

    def receive(self, most: int = MOST_CALLS) -> list[Call]:
        """The calls that have come, at most ``most`` from each door; then `pending` says whether there are more.

        Never blocks. What is no valid request, or may not be asked, or comes after its deadline, is answered here
        and does not show up.
        """
        return [call for door in self._doors for call in self._receive(door, most)]

    def _receive(self, door: Door, most: int) -> Iterator[Call]:
        door.attend()
        for _ in range(most):
            try:
                frames = door.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            by, role = door.who(frames[-1])
            call = self._call(door, [frame.bytes for frame in frames], by, role)
            if call is not None:
                yield call

    def late(self, request: Request) -> bool:
        """The deadline of the request has passed."""
        return request.late(self._clock())

    def _call(self, door: Door, frames: list[bytes], by: str, role: Role | None) -> Call | None:
        envelope, payload = _unwrap(frames)
        way = Way(door, envelope)
        try:
            if payload is None:
                raise BadMessage(f"expected one frame, got {len(frames) - 1}")
            request = protocol.parse(payload)
            _permit(request, by, role)
            if self.late(request):
                log.info("Command %s came after its deadline and is dropped", request.command)
                raise BadMessage("the command came after its deadline and was not carried out", Errno.LATE, request.id)
        except BadMessage as bad:
            reason, errno, identity = str(bad), bad.errno, bad.id
            self.send(way, identity, lambda now: protocol.error(identity, now, reason, errno))
            return None
        return Call(self, way, request, by)

    def send(self, way: Way, identity: str | int | None, message: Callable[[float], bytes]) -> bool:
        """Send what ``message`` makes of the time. False when the peer is gone or does not read its answers."""
        try:
            data = message(self._clock())
        except (TypeError, ValueError):
            # The boundary "control handler": an answer that is no JSON is our fault and must cost neither the
            # loop its life nor the client its patience.
            log.exception("The answer to a command can't be sent")
            data = protocol.error(identity, self._clock(), "server error", Errno.BAD_MSG_DATA)
        try:
            way.door.socket.send_multipart([*way.envelope, data], zmq.NOBLOCK)
        except zmq.ZMQError as error:  # EHOSTUNREACH: it is gone. EAGAIN: it does not read.
            log.debug("An answer could not be delivered: %s", error)
            return False
        return True


def _permit(request: Request, by: str, role: Role | None) -> None:
    """Raises BadMessage when the client may not ask for this."""
    if role is None:
        raise BadMessage("your key is not accepted any more", Errno.REFUSED, request.id)
    if role is Role.READ_ONLY and request.command not in READING:
        whose = "this endpoint is" if by == LOCAL else f"the key of {by} is"
        raise BadMessage(f"{request.command}: {whose} for reading only", Errno.REFUSED, request.id)


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
