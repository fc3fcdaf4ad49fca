"""The queue of a listening socket, as the real kernel counts it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from procman.core.spec import TcpAddress, UnixAddress
from procman.unix.backlog import waiting
from procman.unix.sockets import bind

if TYPE_CHECKING:
    from pathlib import Path

    from procman.core.spec import Address


@pytest.mark.parametrize("kind", ["tcp", "tcp6", "unix"])
def test_connections_count_until_they_are_accepted(kind: str, short_path: Path) -> None:
    address: Address = {
        "tcp": TcpAddress(host="127.0.0.1", port=0),
        "tcp6": TcpAddress(host="::1", port=0),
        "unix": UnixAddress(path=str(short_path / "s")),
    }[kind]
    with bind(address) as listener:
        assert waiting(listener) == 0
        clients = [socket.socket(listener.family) for _ in range(3)]
        for client in clients:
            client.connect(listener.getsockname())
        assert waiting(listener) == 3
        listener.accept()[0].close()
        assert waiting(listener) == 2
        for client in clients:
            client.close()


def test_a_socket_that_does_not_listen_has_no_queue() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert waiting(one) == 0
