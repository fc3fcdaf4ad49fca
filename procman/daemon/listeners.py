"""The listening sockets: opened by the arbiter, inherited by the workers, kept while any pool wants them.

A socket that is wanted before and after a change of the configuration is never closed, so that no connection
waiting in its queue is reset.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from procman.core.spec import HttpWork, LongpollingWork, PassedSocket, TcpAddress, UnixAddress, listening_addresses
from procman.errors import AddressError
from procman.unix.sockets import bind, unbind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from procman.core.spec import Address, PoolSpec
    from procman.daemon.store import Store

log = logging.getLogger("procman.arbiter")

Key = tuple[str, "Address"]


class Listeners:
    def __init__(self, store: Store) -> None:
        self._sockets: dict[Key, socket.socket] = {}
        self._store = store
        self._stopping = False

    @property
    def kept(self) -> bool:
        """The service manager holds the sockets too, and hands them to the next daemon."""
        return self._store.active

    def open(
        self, specs: Iterable[PoolSpec], *, patience: float = 0.0, unless: Callable[[], bool] = lambda: False
    ) -> None:
        """Bind every address that these pools want and that is not bound yet; all of them or none.

        Raises AddressError. For up to ``patience`` seconds an address in use is tried again: the workers of a
        daemon that was killed give theirs up as soon as they notice, which may take a moment. Not when ``unless``
        says, which is asked ever so often, that there is no point in it any more.
        """
        specs = list(specs)
        deadline = time.monotonic() + patience
        opened: dict[Key, socket.socket] = {}
        try:
            for spec in specs:
                for key in _keys([spec]):
                    if key not in self._sockets and key not in opened:
                        opened[key] = self._store.take(*key) or _bind_patiently(key[1], _mode(spec), deadline, unless)
        except AddressError:
            for key, sock in opened.items():
                unbind(key[1], sock)
            raise
        self._sockets.update(opened)
        for key, sock in opened.items():
            if not isinstance(key[1], PassedSocket):
                self._store.keep(*key, sock)
        for spec in specs:
            _permit(spec)

    def adopt(self, pool: str, address: Address, fd: int) -> None:
        """Take up a socket that listens already, left by the image of this daemon before this one."""
        self._sockets[(pool, address)] = socket.socket(fileno=fd)

    def descriptors(self) -> list[tuple[Key, int]]:
        """Every socket, for `adopt`."""
        return [(key, sock.fileno()) for key, sock in self._sockets.items()]

    def close_unwanted(self, specs: Iterable[PoolSpec]) -> None:
        """Close what none of these pools wants."""
        wanted = set(_keys(specs))
        for key in [key for key in self._sockets if key not in wanted]:
            sock = self._sockets.pop(key)
            if self._stopping and self.kept:
                sock.close()  # it listens on, for the next daemon
                continue
            if not isinstance(key[1], PassedSocket):
                self._store.forget(*key)
                # Workers that drain hold it too: without this the kernel would take connections that nobody serves.
                sock.shutdown(socket.SHUT_RDWR)
            unbind(key[1], sock)

    def stop(self) -> None:
        """From now on sockets that the service manager keeps are left to it."""
        self._stopping = True

    def forget_rest(self) -> None:
        """Drop what the service manager has kept for addresses that are configured no more."""
        self._store.forget_rest()

    def fds(self, spec: PoolSpec) -> list[int]:
        """The descriptors for the pool's workers, in the order of its addresses."""
        return [self._sockets[key].fileno() for key in _keys([spec])]

    def sockets(self, spec: PoolSpec) -> list[socket.socket]:
        """The sockets on which the pool listens."""
        return [self._sockets[key] for key in _keys([spec])]

    def resolve(self, pool: str, address: Address) -> Address:
        """The pool's address with the port that the kernel chose, where 0 was asked for."""
        sock = self._sockets.get(_key(pool, address))
        if sock is None or not isinstance(address, TcpAddress):
            return address
        return replace(address, port=sock.getsockname()[1])

    def describe(self, spec: PoolSpec) -> list[str]:
        """Where the pool listens, for people."""
        return [str(self.resolve(spec.name, address)) for address in listening_addresses(spec)]


def _key(pool: str, address: Address) -> Key:
    # Port 0 is another port for each pool that asks for it; every other address can be had only once.
    return (pool if isinstance(address, TcpAddress) and address.port == 0 else "", address)


def _keys(specs: Iterable[PoolSpec]) -> list[Key]:
    return [_key(spec.name, address) for spec in specs for address in listening_addresses(spec)]


def _mode(spec: PoolSpec) -> int | None:
    return spec.work.socket_mode if isinstance(spec.work, HttpWork | LongpollingWork) else None


def _permit(spec: PoolSpec) -> None:
    """Give the socket files the permissions that the pool wants now; those of a socket outlive its configuration."""
    if (mode := _mode(spec)) is None:
        return
    for address in listening_addresses(spec):
        if isinstance(address, UnixAddress):
            try:
                os.chmod(address.path, mode)
            except OSError as error:
                log.error("%s: the permissions can't be changed: %s", address, error.strerror)


def _bind_patiently(address: Address, mode: int | None, deadline: float, unless: Callable[[], bool]) -> socket.socket:
    told = False
    while True:
        try:
            return bind(address, mode=mode)
        except AddressError as error:
            if time.monotonic() >= deadline or unless():
                raise
            if not told:
                log.warning("%s; trying again until workers of an earlier daemon are gone", error)
                told = True
            time.sleep(0.05)  # only while starting: nothing is supervised yet
