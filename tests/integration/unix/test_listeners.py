"""The arbiter's listening sockets over changes of the configuration."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from procman.core.spec import HttpWork, Kind, PoolSpec, UnixAddress
from procman.daemon.listeners import Listeners
from procman.daemon.store import Store
from procman.unix.notify import Notifier

if TYPE_CHECKING:
    from pathlib import Path


def test_permissions_change_with_the_configuration_and_the_socket_stays(short_path: Path) -> None:
    address = UnixAddress(path=str(short_path / "s"))

    def spec(mode: int | None) -> PoolSpec:
        work = HttpWork(app="m:a", binds=(address,), socket_mode=mode)
        return PoolSpec(name="http", kind=Kind.HTTP, work=work, working_dir="/")

    listeners = Listeners(Store(Notifier({}), {}))
    listeners.open([spec(0o600)])
    try:
        (sock,) = listeners.sockets(spec(0o600))
        for mode in (0o600, 0o666, None):
            listeners.open([spec(mode)])
            assert stat.S_IMODE(os.stat(address.path).st_mode) == (mode or 0o666)
            assert listeners.sockets(spec(mode)) == [sock]
    finally:
        listeners.close_unwanted(())
    assert not os.path.exists(address.path)
