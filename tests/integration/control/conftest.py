"""A control server on a real socket, in a thread of its own, that answers by a table of functions."""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING, Any

import pytest

from procman.control.server import Call, ControlServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Answering:
    """The daemon's side: loops as the daemon does, and answers each command by its function, or not at all."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.answers: dict[str, Callable[[Call], Any]] = {}
        self.calls: list[Call] = []
        self._wake, self._stop = os.pipe()
        self._server = ControlServer([endpoint])
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        epoll = select.epoll()
        for fd in self._server.filenos():
            epoll.register(fd, select.EPOLLIN)
        epoll.register(self._wake, select.EPOLLIN)
        while True:
            if self._wake in dict(epoll.poll(0 if self._server.pending() else None)):
                break
            for call in self._server.receive():
                self.calls.append(call)
                if call.command in self.answers:
                    self.answers[call.command](call)
        epoll.close()
        self._server.close(linger=1.0)

    def stop(self) -> None:
        if self._thread.ident is not None:
            os.write(self._stop, b"x")
            self._thread.join()
        os.close(self._wake)
        os.close(self._stop)


@pytest.fixture
def endpoint(short_path: Path) -> str:
    return f"ipc://{short_path}/var/control.sock"


@pytest.fixture
def daemon(endpoint: str) -> Iterator[Answering]:
    daemon = Answering(endpoint)
    daemon.start()
    yield daemon
    daemon.stop()
