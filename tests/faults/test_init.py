"""The daemon as PID 1, as in a container: nobody else is there to reap, and its end is the end of all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

import pytest

from tests.support.daemon import Procmand
from tests.support.wild import APPLICATION, CONFIGURATION, children_of, is_alive

UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc"]

# An orphan of an orphan, as a shell script leaves them, which ends a moment later.
ORPHANS = '[pools.x]\nkind = "exec"\nstart_seconds = 0.1\ncommand = ["sh", "-c", "{}"]\n'.format(
    "(setsid sh -c '(sleep 0.2; touch {}/gone) & exit' &); exec sleep 1000"
)


@pytest.fixture
def contained(short_path):
    if not shutil.which("unshare") or subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a pid namespace of its own needs privileges that this account does not have")
    configuration = CONFIGURATION + ORPHANS.replace("{}", str(short_path))
    with Procmand(short_path, configuration, modules={"app.py": APPLICATION}, prefix=UNSHARE) as daemon:
        (init,) = children_of(daemon.process.pid)
        yield daemon, init
        if daemon.process.poll() is None:
            os.kill(init, signal.SIGTERM)  # unshare(1) itself does not pass signals on
            daemon.process.wait(30)


def test_as_pid_1_it_reaps_orphans(contained):
    daemon, init = contained
    assert daemon.ctl("stats")["arbiter"]["pid"] == 1
    daemon.wait(lambda: (daemon.directory / "gone").exists(), "the orphan to end")
    # Its template, two workers, the nursery, one command; no zombie.
    daemon.wait(lambda: len(children_of(init)) == 5, "it to be reaped")
    assert all(is_alive(child) for child in children_of(init))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_as_pid_1_it_obeys_and_ends_with_status_0(contained, signum):
    daemon, init = contained
    os.kill(init, signum)
    assert daemon.process.wait(30) == 0


@pytest.mark.parametrize(
    ("configuration", "status"),
    [
        (
            '[pools.x]\nkind = "exec"\ncommand = ["false"]\nessential = true\nmax_restarts = 1\n'
            "backoff = { first = 0.01, most = 0.01 }\n",
            1,
        ),
        ('[pools.x]\nkind = "exec"\n', 78),
        ('[procman]\nstate_dir = "/proc/nowhere"\n[pools.x]\nkind = "exec"\ncommand = ["sleep", "9"]\n', 1),
    ],
    ids=["essential pool parked", "configuration", "state directory"],
)
def test_as_pid_1_its_exit_status_tells_why_it_ended(short_path, configuration, status):
    if not shutil.which("unshare") or subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a pid namespace of its own needs privileges that this account does not have")
    with Procmand(short_path, configuration, prefix=UNSHARE, ready=False) as daemon:
        assert daemon.process.wait(60) == status, daemon.log


def test_as_pid_1_a_second_term_ends_it_at_once_with_status_0(contained):
    daemon, init = contained
    os.kill(init, signal.SIGTERM)
    try:
        os.kill(init, signal.SIGTERM)
    except ProcessLookupError:
        pass  # it was quicker
    assert daemon.process.wait(30) == 0


def test_as_pid_1_a_killed_worker_is_replaced(contained):
    daemon, init = contained
    before = children_of(init)
    inside = daemon.worker("http.1")["pid"]
    victim = next(pid for pid in before if _pid_inside(pid) == inside)
    os.kill(victim, signal.SIGKILL)
    daemon.wait_replaced("http.1", inside)
    assert daemon.request("GET", "/")[0] == 200
    os.kill(init, signal.SIGTERM)
    assert daemon.process.wait(30) == 0


def _pid_inside(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[-1]) for line in file if line.startswith("NSpid:"))
