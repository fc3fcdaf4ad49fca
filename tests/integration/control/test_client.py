"""The client's view: each way in which a daemon can fail to answer has its own error, and is noticed at once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from procman.control.client import Client, CommandFailed
from procman.control.protocol import Errno
from procman.control.server import ControlServer
from procman.errors import NotReachable, Refused, TimedOut

DAEMON = """
import os, select, sys
from procman.control.server import ControlServer
server = ControlServer([sys.argv[1]])
print("up", flush=True)
while True:
    select.select(server.filenos(), [], [], 0 if server.pending() else None)
    for call in server.receive():
        if call.command == "shutdown":
            call.reply({"operation": "shutdown-1"})
            server.close(linger=1.0)
            sys.exit(0)
        if call.command == "kill":
            os.kill(os.getpid(), 9)
"""


@pytest.fixture
def process(endpoint):
    """A daemon in a process of its own, which answers only `shutdown` and dies on `kill`."""
    process = subprocess.Popen([sys.executable, "-c", DAEMON, endpoint], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_an_answer(daemon, endpoint):
    daemon.answers["stats"] = lambda call: call.reply({"pools": {"name": list(call.request.names)}})
    with Client(endpoint) as client:
        for name in ("http", "cron"):
            assert client.call("stats", name=name)["pools"] == {"name": [name]}


def test_properties_that_are_none_are_left_out_and_the_deadline_is_told(daemon, endpoint):
    daemon.answers["reload"] = lambda call: call.reply()
    with Client(endpoint, timeout=30) as client:
        client.call("reload", name=None, waiting=True)
    (call,) = daemon.calls
    assert call.properties == {"waiting": True}
    assert call.request.deadline == pytest.approx(time.time() + 30, abs=20)


def test_no_socket(endpoint):
    with pytest.raises(NotReachable, match="there is no such socket"):
        Client(endpoint)


def test_the_socket_of_a_dead_daemon(short_path):
    path = short_path / "c.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(NotReachable, match="it has ended and left its socket behind"):
        Client(f"ipc://{path}")


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:5555", "nonsense", "ipc:///proc/self/mem"])
def test_endpoints_that_lead_nowhere(endpoint):
    with pytest.raises(NotReachable):
        Client(endpoint)


def test_no_answer_in_time(endpoint):
    server = ControlServer([endpoint])  # listens, and nobody receives
    try:
        with Client(endpoint, timeout=0.2) as client, pytest.raises(TimedOut, match=r"stats: no answer within 0\.2 s"):
            client.call("stats")
        # Too late now, and so it is dropped.
        assert server.receive() == []
    finally:
        server.close()


def test_an_answer_to_a_call_that_was_given_up_is_not_taken_for_another(daemon, endpoint):
    held = []
    daemon.answers["check"] = held.append
    daemon.answers["stats"] = lambda call: (held.pop().reply({"old": True}), call.reply({"new": True}))
    with Client(endpoint, timeout=0.2) as client:
        with pytest.raises(TimedOut):
            client.call("check")
        client.timeout = 10
        assert "new" in client.call("stats")


def test_refused(daemon, endpoint):
    daemon.answers["scale"] = lambda call: call.refuse("there is no room for 10000 workers")
    with Client(endpoint) as client, pytest.raises(Refused, match="there is no room"):
        client.call("scale", name="http", count=10000)


def test_a_failure_has_all_of_the_answer(daemon, endpoint):
    pools = {"http": {"outcome": "failed", "traceback": "Traceback …"}}
    daemon.answers["reload"] = lambda call: call.fail("http can't be built", fields={"pools": pools})
    with Client(endpoint) as client, pytest.raises(CommandFailed, match="http can't be built") as caught:
        client.call("reload")
    assert caught.value.reply["pools"] == pools
    assert caught.value.errno == Errno.COMMAND_ERROR


def test_what_this_version_does_not_know(daemon, endpoint):
    with Client(endpoint) as client, pytest.raises(CommandFailed, match="unknown command 'frobnicate'") as caught:
        client.call("frobnicate")
    assert caught.value.errno == Errno.UNKNOWN_COMMAND


def test_a_daemon_that_dies_before_it_answers_is_noticed_at_once(process, endpoint):
    began = time.monotonic()
    with Client(endpoint, timeout=60) as client, pytest.raises(NotReachable, match="went away before it had answered"):
        client.call("kill", name="http.1")
    assert time.monotonic() - began < 30


def test_a_daemon_that_hangs_is_given_up(process, endpoint):
    os.kill(process.pid, signal.SIGSTOP)
    with Client(endpoint, timeout=0.2) as client, pytest.raises(TimedOut):
        client.call("stats")
    os.kill(process.pid, signal.SIGCONT)


def test_its_end_can_be_awaited(process, endpoint):
    with Client(endpoint, timeout=60) as client:
        assert client.call("shutdown")["operation"] == "shutdown-1"
        client.await_end()
    assert process.wait(timeout=60) == 0
    assert not os.path.exists(endpoint.removeprefix("ipc://"))


def test_its_end_is_not_awaited_for_ever(process, endpoint):
    with Client(endpoint, timeout=0.1) as client, pytest.raises(TimedOut, match="has not ended within"):
        client.await_end()
