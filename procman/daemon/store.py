"""The service manager's store for descriptors: listening sockets that outlive the daemon (sd_notify(3), FDSTORE=1).

What was stored is passed to the next daemon under its name, after a kill -9 as after a restart; nobody who connects
meanwhile is refused. Whether there is a store is found out by trying: how many descriptors systemd keeps is told only
since version 254, and one that it does not keep it closes without a word. That must be known, because the workers of
a daemon that was killed give up their addresses when nobody keeps them for the next one.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING
from urllib.parse import quote

from procman.unix.sockets import passed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from procman.core.spec import Address
    from procman.unix.notify import Notifier

log = logging.getLogger("procman.arbiter")

PREFIX = "procman."  # of the names of those that are ours


def name_of(pool: str, address: Address) -> str:
    """The FDNAME of a listening socket: printable, without a colon, at most 255 characters (sd_notify(3))."""
    return f"{PREFIX}{pool}={quote(str(address), safe='/[]')}"[:255]


class Store:
    """``active``: what is given to the store is there after the end of this process."""

    def __init__(self, notifier: Notifier, environ: Mapping[str, str], *, active: bool | None = None) -> None:
        self._notifier = notifier
        self._found: dict[str, int] = {}
        if active is None:
            self._found = {name: fd for fd, name in passed(environ) if name.startswith(PREFIX)}
            active = bool(self._found) or notifier.stores_descriptors()
        self.active = active

    def take(self, pool: str, address: Address) -> socket.socket | None:
        """The socket that an earlier daemon has left for this address; None when there is none that still listens."""
        fd = self._found.pop(name_of(pool, address), None)
        if fd is None:
            return None
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and _reachable(sock):
            log.info("The service manager has kept the socket for %s", address)
            return sock
        sock.close()
        self.forget(pool, address)
        return None

    def keep(self, pool: str, address: Address, sock: socket.socket) -> None:
        """Give the store a copy."""
        if self.active:
            self._notifier.store(name_of(pool, address), sock.fileno())

    def forget(self, pool: str, address: Address) -> None:
        """Have the store close its copy."""
        if self.active:
            self._notifier.unstore(name_of(pool, address))

    def forget_rest(self) -> None:
        """Drop what nobody has taken: it is configured no more."""
        for name, fd in self._found.items():
            log.info("The service manager has kept a socket that is not wanted any more: %s", name)
            os.close(fd)
            self._notifier.unstore(name)
        self._found.clear()


def _reachable(sock: socket.socket) -> bool:
    """A unix socket whose file is gone listens for nobody."""
    return sock.family != socket.AF_UNIX or os.path.exists(sock.getsockname())
