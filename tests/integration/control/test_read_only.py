"""The endpoint for reading only: who may connect there, what is answered, and that no secret is."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from contextlib import closing

import pytest

from procman.control.client import Client
from procman.control.commands import COMMANDS, READING
from procman.control.server import ControlServer
from procman.errors import Refused
from tests.support.daemon import Procmand, program

CONFIGURATION = """
[procman]
control_read_only = "ipc://monitor/read.sock"
events = "ipc://monitor/events.sock"
read_only_group = "nogroup"

[pools.x]
kind = "exec"
command = ["sleep", "1000"]
start_seconds = 0.1
env = { PASSWORD = "tops3cret" }
"""
EXAMPLES = {"name": "x", "options": {"numprocesses": 1}, "signum": 15, "count": 1}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory(prefix="pm", dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        with Procmand(Path(directory), CONFIGURATION) as daemon:
            yield daemon


@pytest.fixture
def reading(daemon):
    with Client(f"ipc://{daemon.directory}/monitor/read.sock", timeout=30.0) as client:
        yield client


def properties(command):
    required = [one.name for one in COMMANDS[command].properties if one.required]
    wanted = {name: EXAMPLES.get(name, "x") for name in required}
    return {**wanted, "count": 1} if command == "scale" else wanted


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - READING))
def test_nothing_that_does_something_is_done(reading, command):
    with pytest.raises(Refused, match="this endpoint is for reading only"):
        reading.call(command, **properties(command))


@pytest.mark.parametrize("command", sorted(READING - {"wait", "get"}))
def test_everything_that_reads_is_answered(reading, command):
    assert "status" in reading.call(command, **properties(command))


def test_no_value_of_the_environment_is_shown_anywhere(daemon, reading):
    shown = json.dumps([reading.call(command, **properties(command)) for command in READING - {"wait", "get"}])
    shown += json.dumps(reading.call("get", name="x", keys=["env"]))
    shown += json.dumps(daemon.ctl("options", name="x"))
    assert "PASSWORD" in shown
    assert "tops3cret" not in shown


def test_the_modes(daemon):
    import grp

    group = grp.getgrnam("nogroup").gr_gid
    for name, mode in (("monitor", 0o750), ("monitor/read.sock", 0o660), ("monitor/events.sock", 0o660)):
        found = os.stat(daemon.directory / name)
        assert (stat.S_IMODE(found.st_mode), found.st_gid) == (mode, group), name
    assert stat.S_IMODE(os.stat(daemon.directory / "var/control.sock").st_mode) == 0o600


def test_it_is_never_the_groups_before_it_is_right(short_path, monkeypatch):
    """Until the file belongs to the group, its mode lets nobody else in."""
    seen = []
    real = os.chown

    def watching(path, uid, gid, **more):
        seen.append((os.path.basename(path), stat.S_IMODE(os.lstat(path).st_mode)))
        real(path, uid, gid, **more)

    monkeypatch.setattr(os, "chown", watching)
    with closing(ControlServer([], read_only=[f"ipc://{short_path}/m/r.sock"], group=os.getgid())):
        assert seen == [("m", 0o700), ("r.sock", 0o600)]


def run_as_nobody(*command):
    become = "import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); os.execv(sys.argv[1], sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", become, *command], capture_output=True, text=True, timeout=60, check=False, cwd="/",
        env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_member_of_the_group_looks_and_does_nothing(daemon):
    def as_nobody(*arguments):
        return run_as_nobody(program("procmanctl"), *arguments)

    if as_nobody("--version").returncode:
        pytest.skip("the interpreter is where others may not go")
    where = ("--endpoint", f"ipc://{daemon.directory}/monitor/read.sock")
    assert as_nobody(*where, "check").stdout == "ok\n"
    refused = as_nobody(*where, "stop", "x")
    assert (refused.returncode, refused.stderr) == (5, "procmanctl: stop: this endpoint is for reading only\n")
    assert as_nobody("--endpoint", daemon.endpoint, "check").returncode == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a pool as somebody else")
def test_the_dashboard_runs_as_somebody_who_can_do_nothing(short_path):
    os.chmod(short_path, 0o755)
    text = CONFIGURATION.replace("[procman]\n", '[procman]\ndashboard = "127.0.0.1:0"\ndashboard_user = "nobody"\n')
    if run_as_nobody(sys.executable, "-c", "import procman.workers.http").returncode:
        pytest.skip("the interpreter is where others may not go")
    with Procmand(short_path, text) as daemon:
        pid = daemon.worker("dashboard.1")["pid"]
        assert os.stat(f"/proc/{pid}").st_uid == 65534
        figures = daemon.get_json("/status.json", pool="dashboard")
        assert figures["pools"]["x"]["ready"] == 1
        assert figures["pools"]["dashboard"]["workers"][0]["name"] == "dashboard.1"
        assert daemon.request("GET", "/readyz", pool="dashboard")[0] == 200
        assert daemon.request("GET", "/metrics", pool="dashboard")[0] == 200
