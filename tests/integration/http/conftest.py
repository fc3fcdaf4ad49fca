"""Fixtures of the http worker's tests."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.integration.http.harness import PATIENCE, Service, service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=[1, 3], ids=["one-thread", "threads"])
def web(request: pytest.FixtureRequest, short_path: Path) -> Iterator[Service]:
    """One worker, with the applications beside this file."""
    with service(short_path, threads=request.param) as made:
        made.start()
        yield made


class Gate:
    """Where units of ``/hold`` wait: entering `held` means that a unit runs, leaving it lets the unit go on."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(PATIENCE)
        self._sock.bind(path)
        self._sock.listen()

    def held(self) -> socket.socket:
        """Wait until a unit has come; closing what is returned lets it go on."""
        return self._sock.accept()[0]

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def gate(short_path: Path) -> Iterator[Gate]:
    made = Gate(str(short_path / "gate"))
    yield made
    made.close()
