"""Before a job, which may take long: nobody who has come to this worker, and to no other, is to wait for its end."""

from __future__ import annotations

import select
from time import monotonic
from typing import TYPE_CHECKING

from procman.workers.http_connection import Connection, Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from procman.core.spec import HttpWork

_COMING = 0.02  # seconds from a connection to its request, where nothing is slow
_QUIET = 2.0  # seconds without a request after which nobody is surprised by the end of a connection


class GiveWay:
    """Answers who is in the midst of asking, and hangs up on who is quiet; ``connections`` are all, by descriptor."""

    def __init__(
        self,
        work: HttpWork,
        connections: Mapping[int, Connection],
        receive: Callable[[Connection], object],
        close: Callable[[Connection], object],
    ) -> None:
        self._work = work
        self._connections = connections
        self._receive = receive
        self._close = close
        self._hearing_out = False

    def __call__(self, serving: Connection) -> None:
        """Before the job that was asked for on this connection. One that is met on the way is begun at once."""
        if not self._hearing_out:
            self._hearing_out = True
            try:
                self._hear_out(serving)
            finally:
                self._hearing_out = False
            self._hang_up(serving)

    def _hear_out(self, serving: Connection) -> None:
        """Answer those who ask, or have just come to do so.

        Nobody else is accepted for that: it may be the next job, which is for a worker that is free.
        """
        now = monotonic()
        until = now + _COMING
        while now <= until:
            others = [each for each in self._connections.values() if each is not serving and each.phase <= Phase.IDLE]
            just_come = now + self._work.header_timeout - _COMING
            waits = any(each.phase == Phase.REQUEST and each.due > just_come for each in others)
            asking = _asking(others, until - now if waits else 0.0)
            if not asking:
                return
            for fd in asking:
                if (connection := self._connections.get(fd)) is not None:
                    self._receive(connection)
            now = monotonic()

    def _hang_up(self, serving: Connection) -> None:
        """Close what may be closed: a client that has kept its connection would wait with its next request.

        On a connection that it has to make anew a worker that is free answers it. As at the end of `keepalive`, a
        request may be on its way, which the client sends once more (RFC 9112, 9.6); one that has come is served later.
        Not every client does: who is in the midst of asking is therefore not hung up on unannounced.
        """
        quiet = monotonic() + self._work.keepalive - _QUIET
        kept = [each for each in self._connections.values() if each.phase == Phase.IDLE and each.due <= quiet]
        asking = set(_asking(kept, 0.0))
        for connection in kept:
            if connection is not serving and connection.fd not in asking and not connection.parser.arriving:
                self._close(connection)


def _asking(connections: Iterable[Connection], patience: float) -> list[int]:
    """The descriptors of those that have something to be read, of which there may be none for so many seconds."""
    waiting = select.poll()
    for connection in connections:
        waiting.register(connection.fd, select.POLLIN)
    return [fd for fd, _ in waiting.poll(1000 * patience)]
