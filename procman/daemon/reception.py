"""Where the daemon is spoken to: its control sockets, its events, and the authority that knows the clients' keys."""

from __future__ import annotations

import grp
import logging
from typing import TYPE_CHECKING

import zmq

from procman.control.curve import Authority
from procman.control.publisher import Publisher
from procman.control.server import ControlServer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from procman.control.door import Kept
    from procman.control.server import Call
    from procman.core.spec import DaemonSpec
    from procman.daemon.loop import Loop

log = logging.getLogger("procman.arbiter")


class Reception:
    """Open from the beginning. Raises AddressError."""

    def __init__(self, spec: DaemonSpec, loop: Loop, inherited: Sequence[Kept] = ()) -> None:
        self._loop = loop
        self._context = context = zmq.Context[zmq.Socket[bytes]](1)
        self._authority: Authority | None = None
        group = None if spec.read_only_group is None else grp.getgrnam(spec.read_only_group).gr_gid
        tcp = any(endpoint.startswith("tcp://") for endpoint in (*spec.control, *spec.events))
        # Before anything listens: a client that comes is asked for its key from the first instant.
        self._authority = Authority(spec.auth, context) if tcp and spec.auth is not None else None
        try:
            self.server = ControlServer(
                spec.control,
                context,
                read_only=spec.control_read_only,
                group=group,
                authority=self._authority,
                inherited=inherited,
            )
            self.publisher = Publisher(
                spec.events, context, group=group, authority=self._authority, inherited=inherited
            )
        except BaseException:
            self.close()
            raise
        for fd in self._filenos():
            loop.add_reader(fd, lambda: None)
        for endpoint in (*self.server.endpoints, *self.publisher.endpoints):
            if endpoint.startswith("tcp://"):
                log.info("Clients with keys may connect to %s", endpoint)

    def _filenos(self) -> list[int]:
        authority = [] if self._authority is None else [self._authority.fileno()]
        return [*authority, *self.server.filenos(), *self.publisher.filenos()]

    def kept(self) -> list[Kept]:
        """The sockets that listen, for a reception that is to inherit them."""
        return [*self.server.kept(), *self.publisher.kept()]

    def detach(self, linger: float) -> None:
        """Let go of all peers, end ZeroMQ and its threads, and leave the sockets listening."""
        for fd in self._filenos():
            self._loop.remove_reader(fd)
        self.server.detach(linger)
        self.publisher.detach(linger)
        self.close(linger)

    def pending(self) -> bool:
        """There is something to attend to. To be asked before every sleep: the descriptors tell of changes only."""
        authority = self._authority is not None and self._authority.pending()
        return authority or self.server.pending() or self.publisher.pending()

    def receive(self) -> list[Call]:
        """Let in who may come in; the calls that have come."""
        if self._authority is not None:
            self._authority.attend()
        return self.server.receive()

    def allow(self, spec: DaemonSpec) -> None:
        """From now on the clients of this configuration, and nobody else."""
        clients = () if spec.auth is None else spec.auth.clients
        if self._authority is not None and self._authority.allow(clients):
            log.info("Fewer clients may connect than before: every one over tcp has to prove again who it is")
            self.server.send_everybody_away()
            self.publisher.send_everybody_away()

    def close(self, linger: float = 0.0) -> None:
        """Answers and events on their way get ``linger`` seconds to leave."""
        for part in ("server", "publisher"):
            if hasattr(self, part):
                getattr(self, part).close(linger)
        if self._authority is not None:
            self._authority.close()
        self._context.term()
