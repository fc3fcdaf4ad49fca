"""Fixtures of all tests."""

from __future__ import annotations

import secrets
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.support.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

# An example takes as long as the machine lets it: how fast something is, benchmarks say.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def pytest_configure() -> None:
    """Be interruptible, and start what is: a shell ignores SIGINT for what it runs in the background (POSIX, 2.11)."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A private directory whose path is short enough for unix sockets; removed afterwards."""
    directory = tempfile.mkdtemp(prefix="pm", dir="/tmp")
    yield Path(directory)
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """One embedded server for all tests of this process."""
    directory = tempfile.mkdtemp(prefix="pg", dir="/tmp")
    server = Server(directory)
    yield server
    server.stop(signal.SIGQUIT)
    shutil.rmtree(directory)


@pytest.fixture
def database_url(postgres_server: Server) -> Iterator[str]:
    """A fresh, empty database of its own; dropped at the end, whoever is still connected."""
    name = f"t_{secrets.token_hex(6)}"
    postgres_server.execute(f'CREATE DATABASE "{name}"')
    yield postgres_server.url(name)
    postgres_server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
