"""Several listening sockets in one worker: TCP, IPv6, unix."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

from procman.core.lifecycle import Ready
from procman.core.spec import HttpWork, Kind, PoolSpec, TcpAddress, UnixAddress
from procman.unix.sockets import bind
from tests.integration.http.harness import HERE, Client, Worker, head

if TYPE_CHECKING:
    from pathlib import Path


class V6Client(Client):
    def __init__(self, address: Any) -> None:
        self.sock = socket.create_connection(address[:2], timeout=20)
        self._buffer = b""


@pytest.mark.parametrize("threads", [1, 2])
def test_all_of_them_are_served_and_drained(short_path: Path, threads: int) -> None:
    addresses = (
        TcpAddress(host="127.0.0.1", port=0),
        TcpAddress(host="::1", port=0),
        UnixAddress(path=str(short_path / "s")),
    )
    listeners = [bind(address) for address in addresses]
    work = HttpWork(app="applications:application", binds=addresses, threads=threads)
    worker = Worker(short_path, PoolSpec(name="http", kind=Kind.HTTP, work=work, working_dir=str(HERE)), listeners)
    try:
        worker.await_message(Ready)
        clients = [
            Client(listeners[0].getsockname()),
            V6Client(listeners[1].getsockname()),
            Client(listeners[2].getsockname()),
        ]
        seen = [client.request("GET", "/environ").text for client in clients]
        assert ['"REMOTE_ADDR": "127.0.0.1"' in seen[0], '"REMOTE_ADDR": "::1"' in seen[1]] == [True, True]
        assert '"REMOTE_ADDR": ""' in seen[2]
        worker.retire()
        for client in clients:
            client.send(head("GET", "/"))
            assert client.read().headers["connection"] == "close"
            assert client.closed()
            client.sock.close()
        assert worker.wait() == 0
    finally:
        worker.close()
        for listener in listeners:
            listener.close()
