"""Operations: begun and left alone, looked at, waited for, and remembered for a while."""

from __future__ import annotations

import json
import subprocess
import threading

import pytest

from procman.control.client import Client, CommandFailed
from tests.support.daemon import PATIENCE, Procmand, program

# Both take their time, each until a file appears: to stop, to become ready.
CONFIGURATION = """
[pools.slow]
kind = "exec"
command = ["sh", "-c", "trap 'while [ ! -e stop ]; do sleep 0.02; done; exit 0' TERM; while :; do sleep 0.02; done"]
start_seconds = 0.05
stop_timeout = "60s"

[pools.http]
kind = "http"
app = "hello:application"
bind = "127.0.0.1:0"
workers = 2
"""

HELLO = """
import os, time
while os.path.exists("hold"):
    time.sleep(0.02)

def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]
"""


@pytest.fixture
def daemon(short_path):
    with Procmand(short_path, CONFIGURATION, modules={"hello.py": HELLO}) as daemon:
        yield daemon
        (short_path / "stop").touch()


def operation(daemon, name):
    (found,) = [one for one in daemon.ctl("operations")["operations"] if one["operation"] == name]
    return found


def test_begun_looked_at_and_waited_for(daemon, short_path):
    (short_path / "hold").touch()
    begun = daemon.procmanctl("--no-wait", "reload", "http")
    name = begun.stdout.strip()
    assert (begun.returncode, name) == (0, "reload-1")
    assert operation(daemon, name)["parts"]["http"] == {
        "outcome": "running",
        "generation": 2,
        "ready": 0,
        "target": 2,
        "left": 2,
    }
    assert "http 0/2 ready" in daemon.procmanctl("operations").stdout
    waiting = subprocess.Popen(
        [program("procmanctl"), "-c", str(daemon.file), "--json", "wait", name], stdout=subprocess.PIPE, text=True
    )
    assert daemon.procmanctl("--timeout", "0.3", "wait", name).returncode == 4
    (short_path / "hold").unlink()
    out, _ = waiting.communicate(timeout=PATIENCE)
    assert waiting.returncode == 0
    document = json.loads(out)
    assert (document["operation"], document["pools"]["http"]["generation"]) == (name, 2)
    ended = operation(daemon, name)
    assert (ended["state"], ended["parts"]["http"]["outcome"]) == ("done", "done")
    assert ended["began"] < ended["ended"]
    # It can be asked for again.
    assert daemon.procmanctl("wait", name).stdout == "http: done\n"


def test_commands_on_different_pools_run_side_by_side(daemon, short_path):
    stopping = daemon.procmanctl("--no-wait", "stop", "slow").stdout.strip()
    assert operation(daemon, stopping)["state"] == "running"
    assert daemon.procmanctl("reload", "http").returncode == 0
    assert daemon.procmanctl("scale", "http", "3").returncode == 0
    assert operation(daemon, stopping)["state"] == "running"
    (short_path / "stop").touch()
    assert daemon.procmanctl("wait", stopping).returncode == 0
    assert daemon.pool("slow")["state"] == "stopped"


def test_a_failure_is_remembered_with_its_traceback(daemon, short_path):
    (short_path / "hello.py").write_text("import no_such_module")
    name = daemon.ctl("reload", name="http")["operation"]
    with pytest.raises(CommandFailed, match="reload http: ") as failed:
        daemon.ctl("wait", operation=name)
    assert "no_such_module" in failed.value.reply["pools"]["http"]["traceback"]
    again = daemon.procmanctl("wait", name)
    assert again.returncode == 1
    assert "no_such_module" in again.stderr
    assert operation(daemon, name)["state"] == "failed"


def test_a_newer_reload_supersedes(daemon, short_path):
    (short_path / "hold").touch()
    first = daemon.ctl("reload", name="http")["operation"]
    second = daemon.ctl("reload", name="http")["operation"]
    with pytest.raises(CommandFailed, match="a newer reload has begun"):
        daemon.ctl("wait", operation=first)
    (short_path / "hold").unlink()
    assert daemon.ctl("wait", operation=second)["pools"]["http"]["outcome"] == "done"
    assert operation(daemon, first)["state"] == "superseded"


def test_the_last_hundred_are_kept(daemon):
    with Client(daemon.endpoint, timeout=PATIENCE) as client:
        names = [client.call("scale", name="http", count=2)["operation"] for _ in range(120)]
        client.call("wait", operation=names[-1])
        known = [one["operation"] for one in client.call("operations")["operations"]]
    assert known == names[-100:]
    run = daemon.procmanctl("wait", names[0])
    assert run.returncode == 1
    assert "no operation 'scale-1'" in run.stderr
    assert len(daemon.procmanctl("operations").stdout.splitlines()) == 101


def test_kill_waits_until_the_worker_is_gone(daemon):
    pid = daemon.worker("http.1")["pid"]
    run = daemon.procmanctl("--json", "kill", "http.1")
    assert run.returncode == 0
    document = json.loads(run.stdout)
    assert document["workers"] == ["http.1"]
    assert pid not in [worker["pid"] for worker in daemon.pool("http")["workers"]]
    assert operation(daemon, document["operation"])["parts"] == {f"http.1 ({pid})": {"outcome": "done"}}
    assert daemon.pool("http")["exits"][-1]["reason"] == "killed_by_user"


def test_an_operation_on_nothing_is_done_at_once(short_path):
    with Procmand(short_path, '[pools.x]\nkind = "exec"\ncommand = ["sleep", "9"]\n') as daemon:
        daemon.ctl("stop", name="x", waiting=True)
        assert daemon.ctl("kill", name="x", waiting=True)["workers"] == []


def test_shutdown_is_an_operation_that_ends_with_the_daemon(daemon, short_path):
    assert daemon.procmanctl("--no-wait", "shutdown").stdout == "shutdown-1\n"
    with Client(daemon.endpoint, timeout=PATIENCE) as client:
        (running,) = client.call("operations")["operations"]
        assert (running["operation"], running["state"]) == ("shutdown-1", "running")
        # Only the daemon sees the call arrive, and there must be one then.
        threading.Timer(0.3, (short_path / "stop").touch).start()
        assert client.call("wait", operation="shutdown-1")["operation"] == "shutdown-1"
    assert daemon.process.wait(PATIENCE) == 0
