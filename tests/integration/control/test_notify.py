"""What the service manager hears, on a real datagram socket."""

from __future__ import annotations

import os
import socket
import time
from contextlib import closing

import pytest

from procman.unix.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request, short_path):
    """The manager's socket and its address as $NOTIFY_SOCKET has it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        path = str(short_path / "notify")
        sock.bind(path if request.param == "path" else f"\0{path}")
        sock.settimeout(10)
        yield sock, path if request.param == "path" else f"@{path}"


def test_a_life(manager):
    sock, address = manager
    with closing(Notifier({"NOTIFY_SOCKET": address})) as notifier:
        assert notifier.active
        notifier.status("starting http")
        notifier.ready("http 2/2")
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notifier.reloading("reload http")
        notifier.ready()
        notifier.stopping("draining")
    assert sock.recv(4096) == b"STATUS=starting http"
    assert sock.recv(4096) == b"READY=1\nSTATUS=http 2/2"
    reloading, monotonic, status = sock.recv(4096).decode().split("\n")
    assert (reloading, status) == ("RELOADING=1", "STATUS=reload http")
    assert before <= int(monotonic.removeprefix("MONOTONIC_USEC=")) < before + 10_000_000
    assert sock.recv(4096) == b"READY=1"
    assert sock.recv(4096) == b"STOPPING=1\nSTATUS=draining"


def test_a_status_is_one_line_and_nothing_else(manager):
    sock, address = manager
    with closing(Notifier({"NOTIFY_SOCKET": address})) as notifier:
        notifier.status("parked:\nREADY=1\r\nMAINPID=1")
    assert sock.recv(4096) == b"STATUS=parked: READY=1 MAINPID=1"


def test_the_watchdog_hears_from_a_loop_that_turns_fast_only_now_and_then(manager):
    sock, address = manager
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    with closing(Notifier(environ)) as notifier:
        assert (notifier.watchdog_seconds, notifier.watchdog_interval) == (30.0, 15.0)
        for _ in range(100):
            notifier.watchdog()
        notifier.status("end")
    assert environ == {}
    assert sock.recv(4096) == b"WATCHDOG=1"
    assert sock.recv(4096) == b"STATUS=end"


@pytest.mark.parametrize(
    "environ",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}],
)
def test_no_watchdog(manager, environ):
    sock, address = manager
    with closing(Notifier({"NOTIFY_SOCKET": address, **environ})) as notifier:
        assert notifier.watchdog_interval is None
        notifier.watchdog()
        notifier.status("end")
    assert sock.recv(4096) == b"STATUS=end"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "@"}, {"NOTIFY_SOCKET": "relative"}])
def test_without_a_manager_nothing_happens(environ):
    with closing(Notifier(environ)) as notifier:
        assert not notifier.active
        notifier.ready("up")
        notifier.stopping()


def test_a_manager_that_is_gone_or_does_not_read_is_survived(short_path):
    path = str(short_path / "notify")
    with closing(Notifier({"NOTIFY_SOCKET": path})) as notifier:
        notifier.ready()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(path)
            for n in range(2000):  # far beyond net.unix.max_dgram_qlen
                notifier.status(f"status {n}")
            assert sock.recv(4096) == b"STATUS=status 0"
        notifier.stopping()


def test_children_do_not_inherit_it(monkeypatch, short_path):
    monkeypatch.setenv("NOTIFY_SOCKET", str(short_path / "notify"))
    with closing(Notifier()) as notifier:
        assert notifier.active
        assert "NOTIFY_SOCKET" not in os.environ
