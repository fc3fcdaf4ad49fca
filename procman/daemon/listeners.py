"""The listening sockets: opened by the arbiter, inherited by the workers, kept while any pool wants them.

A socket that is wanted before and after a change of the configuration is never closed, so that no connection
waiting in its queue is reset.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from procman.core.spec import TcpAddress, listening_addresses
from procman.errors import AddressError
from procman.unix.sockets import bind, unbind

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from procman.core.spec import Address, PoolSpec

log = logging.getLogger("procman.arbiter")


class Listeners:
    def __init__(self) -> None:
        self._sockets: dict[Address, socket.socket] = {}

    def open(self, specs: Iterable[PoolSpec], *, patience: float = 0.0) -> None:
        """Bind every address that these pools want and that is not bound yet; all of them or none.

        Raises AddressError. For up to ``patience`` seconds an address in use is tried again: the workers of a
        daemon that was killed give theirs up as soon as they notice, which may take a moment.
        """
        deadline = time.monotonic() + patience
        opened: dict[Address, socket.socket] = {}
        try:
            for spec in specs:
                for address in listening_addresses(spec):
                    if address not in self._sockets and address not in opened:
                        opened[address] = _bind_patiently(address, deadline)
        except AddressError:
            for address, sock in opened.items():
                unbind(address, sock)
            raise
        self._sockets.update(opened)

    def close_unwanted(self, specs: Iterable[PoolSpec]) -> None:
        """Close what none of these pools wants."""
        wanted = {address for spec in specs for address in listening_addresses(spec)}
        for address in [address for address in self._sockets if address not in wanted]:
            unbind(address, self._sockets.pop(address))

    def fds(self, spec: PoolSpec) -> list[int]:
        """The descriptors for the pool's workers, in the order of its addresses."""
        return [self._sockets[address].fileno() for address in listening_addresses(spec)]

    def resolve(self, address: Address) -> Address:
        """The address with the port that the kernel chose, where 0 was asked for."""
        sock = self._sockets.get(address)
        if sock is None or not isinstance(address, TcpAddress):
            return address
        return replace(address, port=sock.getsockname()[1])

    def describe(self, spec: PoolSpec) -> list[str]:
        """Where the pool listens, for people."""
        return [str(self.resolve(address)) for address in listening_addresses(spec)]


def _bind_patiently(address: Address, deadline: float) -> socket.socket:
    told = False
    while True:
        try:
            return bind(address)
        except AddressError as error:
            if time.monotonic() >= deadline:
                raise
            if not told:
                log.warning("%s; trying again until workers of an earlier daemon are gone", error)
                told = True
            time.sleep(0.05)  # only while starting: nothing is supervised yet
