"""Probes whose targets misbehave, hooks that hang, fail, flood and fork: each is the trouble of its own pool."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from tests.support.daemon import Procmand

# Listens on a port of its own choice, tells it to the test, and behaves as it is told.
TARGET = """
import os, socket, sys, time

how, here = sys.argv[1], os.path.dirname(os.path.abspath(__file__))
sock = socket.create_server(("127.0.0.1", int(sys.argv[2])))
peers = []
while True:
    peer, _ = sock.accept()
    peers.append(peer)
    with open(f"{here}/asked", "a") as file:
        file.write("x")
    if os.path.exists(f"{here}/mended"):
        peer.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
        peer.close()
    elif how == "drip":
        try:
            for byte in b"HTTP/1.1 200" * 100:
                peer.sendall(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            pass
    elif how == "endless":
        try:
            while True:
                peer.sendall(b"x" * 65536)
        except OSError:
            pass
    elif how == "close":
        peer.close()
    elif how == "reset":
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\x01\\0\\0\\0\\0\\0\\0\\0")
        peer.close()
"""
SLEEPER = '[pools.sleeper]\nkind = "exec"\ncommand = ["sleep", "1000"]\nstart_seconds = 0\n'
SAID = {
    "silent": "no answer within 0.2 s",
    "drip": "no answer within 0.2 s",
    "endless": "it does not answer in HTTP",
    "close": "it closes the connection without an answer",
    "reset": "Connection reset by peer",
}


def free_port():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def healed(daemon, name="sleeper.1"):
    """How long it takes until a worker that is killed is replaced."""
    pid = daemon.worker(name)["pid"]
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    daemon.wait_replaced(name, pid)
    return time.monotonic() - began


@pytest.mark.parametrize("how", SAID)
def test_a_target_that_misbehaves_is_not_ready_and_keeps_nobody_waiting(short_path, how):
    port = free_port()
    text = SLEEPER + (
        f'[pools.odd]\nkind = "exec"\ncommand = ["{sys.executable}", "{short_path}/target.py", "{how}", "{port}"]\n'
        f'ready = {{ http = "http://127.0.0.1:{port}/", interval = 0.05, timeout = 0.2 }}\n'
        "start_timeout = 60\n"
    )
    asked = short_path / "asked"
    with Procmand(short_path, text, modules={"target.py": TARGET}, ready=False) as daemon:
        daemon.wait(lambda: asked.exists() and len(asked.read_text()) > 2, "several questions")
        fds = len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
        healed(daemon)
        assert daemon.pool("odd")["ready"] == 0
        daemon.wait(lambda: len(asked.read_text()) > (4 if how == "drip" else 10), "more questions")
        assert len(os.listdir(f"/proc/{daemon.process.pid}/fd")) <= fds + 4, "connections are not left open"
        (short_path / "mended").touch()
        daemon.wait(lambda: daemon.pool("odd")["ready"] == 1, "it to be ready")


@pytest.mark.parametrize("how", ["silent", "endless", "reset"])
def test_what_the_probe_met_is_told(short_path, how):
    port = free_port()
    text = SLEEPER + (
        f'[pools.odd]\nkind = "exec"\ncommand = ["{sys.executable}", "{short_path}/target.py", "{how}", "{port}"]\n'
        f'ready = {{ http = "http://127.0.0.1:{port}/", interval = 0.05, timeout = 0.2 }}\n'
        "start_timeout = 3\nmax_restarts = 1\nbackoff = { first = 0.01, most = 0.01 }\n"
    )
    with Procmand(short_path, text, modules={"target.py": TARGET}, ready=False) as daemon:
        daemon.wait(lambda: "Pool odd is parked" in daemon.log, "the pool to be parked")
        assert f"boot_timeout (not ready: {SAID[how]})" in daemon.log


@pytest.mark.parametrize("script", ["sleep 1000", "yes", "sleep 1000 & sleep 1001 & wait", "setsid sleep 1000"])
def test_a_probe_command_that_does_not_end_is_killed_with_all_its_children(short_path, script):
    text = SLEEPER + (
        '[pools.odd]\nkind = "exec"\ncommand = ["sleep", "1000"]\n'
        f'ready = {{ command = ["sh", "-c", "test -e mended || {{ {script} & wait; }}"], timeout = 0.5 }}\n'
    )
    with Procmand(short_path, text, ready=False) as daemon:
        daemon.wait(lambda: "sleeper.1" in daemon.log and "alive" in daemon.log, "the daemon")
        healed(daemon)
        (short_path / "mended").touch()
        daemon.wait(lambda: daemon.pool("odd")["ready"] == 1, "it to be ready")


def test_a_probe_command_that_runs_at_the_end_ends_with_the_daemon(short_path):
    text = (
        '[pools.odd]\nkind = "exec"\ncommand = ["sleep", "1000"]\n'
        'ready = { command = ["sh", "-c", "touch asked; sleep 1000 & setsid sleep 1001 & wait"], timeout = 900 }\n'
    )
    with Procmand(short_path, text, ready=False) as daemon:
        daemon.wait(lambda: (short_path / "asked").exists(), "the question")
        assert daemon.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("hook", ["before_start", "after_start", "before_stop", "after_stop"])
@pytest.mark.parametrize("script", ["sleep 1000", "yes", "exit 3", "setsid sleep 1000 & exit 0", "kill -9 $$"])
def test_a_bad_hook_is_the_trouble_of_its_pool_and_ends(short_path, hook, script):
    text = SLEEPER + (
        '[pools.odd]\nkind = "exec"\ncommand = ["sleep", "1000"]\nstart_seconds = 0\nstop_timeout = 2\n'
        f'[pools.odd.hooks]\n{hook} = ["sh", "-c", "{script}"]\ntimeout = 0.5\n'
    )
    with Procmand(short_path, text, ready=False) as daemon:
        daemon.wait(lambda: "sleeper.1" in daemon.log and "alive" in daemon.log, "the daemon")
        healed(daemon)
        fails = "exit 0" not in script
        if hook == "before_start" and fails:
            daemon.wait(lambda: "Hook before_start of odd.1 has failed" in daemon.log, "the failure")
            assert daemon.pool("odd")["ready"] == 0
        else:
            daemon.wait(lambda: daemon.pool("odd")["ready"] == 1, "it to be ready")
        assert daemon.procmanctl("stop", "odd").returncode == 0
        assert not fails or f"Hook {hook} of odd.1 has failed" in daemon.log
        healed(daemon)


def test_a_hook_dies_with_the_daemon(short_path):
    text = SLEEPER + '[pools.sleeper.hooks]\nafter_start = ["sleep", "1000"]\ntimeout = 900\n'
    with Procmand(short_path, text) as daemon:
        daemon.kill()
        daemon.wait_gone()
        for left in short_path.rglob("*.sock"):
            if left.name != "notify.sock":
                left.unlink()
        for left in short_path.rglob("*.lock"):
            left.unlink()
