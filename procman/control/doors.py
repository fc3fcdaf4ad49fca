"""Several doors that are one to whoever serves through them: some over ipc, some over tcp, some for reading only.

What comes in through them, and what goes out, is for the two that have doors: `ControlServer` and `Publisher`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq

if TYPE_CHECKING:
    from procman.control.door import Door, Kept


class Doors:
    """In a context of its own, with one thread, if none is given."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]] | None) -> None:
        self._context = context or zmq.Context(1)
        self._own_context = context is None
        self._doors: list[Door] = []

    @property
    def endpoints(self) -> list[str]:
        """Where they are, with the port that was found where any would do."""
        return [endpoint for door in self._doors for endpoint in door.endpoints]

    def filenos(self) -> list[int]:
        """Readable when `pending` is to be asked; edge-triggered (zmq_getsockopt(3), ZMQ_FD)."""
        return [fd for door in self._doors for fd in door.filenos()]

    def pending(self) -> bool:
        """Something has come. To be asked before every sleep."""
        return any(door.pending() for door in self._doors)

    def send_everybody_away(self) -> None:
        """End every connection over tcp, so that each client has to prove anew that it may connect."""
        for door in self._doors:
            door.send_everybody_away()

    def kept(self) -> list[Kept]:
        """The sockets that listen, for doors that are to inherit them."""
        return [kept for door in self._doors for kept in door.kept()]

    def detach(self, linger: float) -> None:
        """Let go of the peers, and leave the sockets listening: they are somebody else's from now on."""
        for door in self._doors:
            door.detach(linger)
        self._doors.clear()

    def close(self, linger: float = 0.0) -> None:
        """Stop listening and remove the socket files. What is on its way gets ``linger`` seconds to leave."""
        for door in self._doors:
            door.close(linger)
        self._doors.clear()
        if self._own_context:
            self._context.term()
