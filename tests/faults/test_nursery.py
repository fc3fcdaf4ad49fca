"""What can happen to the process that commands are forked from, and what the commands make of it: nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from procman.unix.channel import pair
from procman.workers import nursery as nursery_process
from tests.support.daemon import Procmand, wait_until
from tests.support.wild import children_of, is_alive

SLEEPERS = """
[pools.sleeper]
kind = "exec"
command = ["sh", "-c", "echo $PROCMAN_WORKER >> ran; exec sleep 1000"]
workers = 2
start_seconds = 0
"""


@pytest.fixture
def daemon(short_path):
    with Procmand(short_path, SLEEPERS) as running:
        yield running


def nurseries(daemon):
    found = []
    for child in children_of(daemon.process.pid):
        with contextlib.suppress(OSError):
            if "procman.workers.nursery" in Path(f"/proc/{child}/cmdline").read_text() and is_alive(child):
                found.append(child)
    return found


def stop_it(pid):
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "T", "it to stop")


def exits(daemon):
    return daemon.log.count(") exited: ") + daemon.log.count("(-) exited: ")


def test_there_is_none_without_commands(short_path):
    with Procmand(short_path, SLEEPERS + "autostart = false") as daemon:
        assert nurseries(daemon) == []
        daemon.ctl("start", name="sleeper", waiting=True)
        assert len(nurseries(daemon)) == 1


def test_a_killed_one_is_replaced_with_the_next_command(daemon):
    (first,) = nurseries(daemon)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not is_alive(first), "it to be gone")
    victim = daemon.worker("sleeper.1")["pid"]
    os.kill(victim, signal.SIGKILL)
    daemon.wait_replaced("sleeper.1", victim)
    (second,) = nurseries(daemon)
    assert second != first
    assert exits(daemon) == 1


def test_orders_that_die_with_it_are_carried_out_by_the_next_one(daemon):
    (first,) = nurseries(daemon)
    stop_it(first)
    daemon.ctl("scale", name="sleeper", count=12)
    daemon.wait(lambda: len(daemon.pool("sleeper")["workers"]) == 12, "the orders to be given")
    os.kill(first, signal.SIGKILL)
    daemon.wait(lambda: daemon.pool("sleeper")["ready"] == 12, "all to run")
    assert exits(daemon) == 0, "nobody noticed"
    ran = (daemon.directory / "ran").read_text().split()
    assert sorted(ran) == sorted(f"sleeper.{slot}" for slot in range(1, 13)), "each was executed once"


def test_a_stopped_one_is_replaced(daemon):
    (first,) = nurseries(daemon)
    stop_it(first)
    victim = daemon.worker("sleeper.2")["pid"]
    os.kill(victim, signal.SIGKILL)
    daemon.wait_replaced("sleeper.2", victim)
    assert not is_alive(first)
    assert exits(daemon) == 1


def test_what_is_not_wanted_any_more_is_not_executed(daemon):
    (first,) = nurseries(daemon)
    stop_it(first)
    daemon.ctl("scale", name="sleeper", count=3)
    daemon.wait(lambda: len(daemon.pool("sleeper")["workers"]) == 3, "the order to be given")
    daemon.ctl("stop", name="sleeper", waiting=True)
    os.kill(first, signal.SIGCONT)
    daemon.ctl("start", name="sleeper", waiting=True)  # whatever was ordered before is through with this
    ran = (daemon.directory / "ran").read_text().split()
    assert sorted(ran) == [f"sleeper.{slot}" for slot in (1, 1, 2, 2, 3)]


def test_more_are_started_than_fit_into_its_channel(short_path):
    large = 'env = { LARGE = "' + "x" * 30_000 + '" }\n'
    with Procmand(short_path, SLEEPERS.replace("workers = 2", "workers = 60") + large) as daemon:
        workers = daemon.pool("sleeper")["workers"]
        assert len({worker["pid"] for worker in workers}) == 60
        assert exits(daemon) == 0


def test_when_it_can_not_fork_it_says_so(monkeypatch):
    ours, theirs = pair()
    ours.settimeout(30)
    of_the_nursery = socket.socketpair()

    def no_fork():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", no_fork)
    nursery_process._carry_out([(b"", [theirs.detach()])], of_the_nursery[0])
    assert json.loads(ours.recv(4096)) == {
        "is": "Failed",
        "traceback": "cannot fork: [Errno 11] Resource temporarily unavailable",
    }
    assert ours.recv(1) == b"", "and closes the channel"
    for end in (ours, *of_the_nursery):
        end.close()


# -- the command's process --------------------------------------------------------------------------------

SHOW = """
import os
OPEN = [fd for fd in os.listdir("/proc/self/fd") if int(fd) > 2 and os.path.exists("/proc/self/fd/" + fd)]
import ctypes, json, resource, sys

status = dict(line.rstrip().split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
death_signal = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(death_signal))
found = {
    "blocked": int(status["SigBlk"], 16),
    "ignored": int(status["SigIgn"], 16) & (1 << 31) - 1,
    "parent": os.getppid(),
    "session": os.getsid(0) == os.getpid(),
    "death_signal": death_signal.value,
    "open": OPEN,
    "umask": os.umask(0),
    "nice": os.nice(0),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "uid": os.getresuid(),
    "directory": os.getcwd(),
    "worker": os.environ["PROCMAN_WORKER"],
    "mine": os.environ["MINE"],
}
with open(sys.argv[1] + ".new", "w") as file:
    json.dump(found, file)
os.rename(sys.argv[1] + ".new", sys.argv[1])
os.execvp("sleep", ["sleep", "1000"])
"""


def test_the_command_finds_what_its_pool_says_and_nothing_of_the_nursery(short_path):
    (short_path / "show.py").write_text(SHOW)
    (short_path / "there").mkdir()
    os.chmod(short_path / "there", 0o777)
    interpreter = "/usr/bin/python3"  # that of the tests may lie where no other account gets to
    user = 'user = "nobody"\n' if os.getuid() == 0 and os.path.exists(interpreter) else ""
    if not user:
        interpreter = sys.executable
    configuration = f"""
[pools.show]
kind = "exec"
command = ["{interpreter}", "-I", "-S", "{short_path}/show.py", "{short_path}/there/found"]
start_seconds = 0
working_dir = "there"
umask = "027"
nice = 3
stop_signal = "INT"
env = {{ MINE = "x y" }}
rlimits = {{ core = 0 }}
{user}
"""
    os.chmod(short_path, 0o755)
    with Procmand(short_path, configuration) as daemon:
        result = short_path / "there/found"
        daemon.wait(result.exists, "the command to look around")
        found = json.loads(result.read_text())
        uid = 65534 if user else os.getuid()
        assert found["uid"] == [uid] * 3
        assert found["parent"] == daemon.process.pid
        assert found["death_signal"] == signal.SIGINT
        assert found["session"]
        assert found["blocked"] == 0
        assert found["ignored"] == 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1, "as its own interpreter wants it"
        assert found["open"] == []
        assert (found["umask"], found["nice"], found["core"]) == (0o027, 3, [0, 0])
        assert found["directory"] == str(short_path / "there")
        assert (found["worker"], found["mine"]) == ("show.1", "x y")
