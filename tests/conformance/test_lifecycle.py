"""One contract for every kind of worker, on one daemon that runs them all."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

from procman.core.spec import Kind
from tests.support.daemon import Procmand

APPLICATION = """
import procman

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"served"]

@procman.cron(every="1h")
def hourly():
    pass
"""

CONFIGURATION = """
[database]
url = "embedded"

[pools.http]
kind = "http"
app = "app:application"
bind = "127.0.0.1:0"
workers = 2
keepalive = 1

[pools.cron]
kind = "cron"
app = "app"
workers = 2

[pools.jobrunner]
kind = "jobrunner"
channels = "root:2"
target = "http"

[pools.longpoll]
kind = "gevent-longpolling"
app = "app:application"
bind = "127.0.0.1:0"

[pools.command]
kind = "exec"
command = ["sh", "-c", "trap 'kill $!; exit 0' TERM; sleep 1000 & wait"]
workers = 2
start_seconds = 0.2
"""

POOLS = {
    Kind.HTTP: "http",
    Kind.CRON: "cron",
    Kind.JOBRUNNER: "jobrunner",
    Kind.LONGPOLLING: "longpoll",
    Kind.EXEC: "command",
    Kind.POSTGRES: "postgres",
}
NOT_PYTHON = (Kind.EXEC, Kind.POSTGRES)

every_kind = pytest.mark.parametrize("kind", list(Kind))


@pytest.fixture(scope="module")
def daemon():
    with (
        tempfile.TemporaryDirectory(prefix="pm", dir="/tmp") as directory,
        Procmand(Path(directory), CONFIGURATION, modules={"app.py": APPLICATION}) as running,
    ):
        yield running


def settled(daemon, pool):
    """Wait until the pool has just the workers that it should have, all of them ready; they."""

    def found():
        now = daemon.pool(pool)
        workers = now["workers"]
        return workers if now["ready"] == len(workers) == now["target"] else None

    return daemon.wait(found, f"{pool} to settle")


def parent_of(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))


def test_no_kind_is_left_out():
    assert set(POOLS) == set(Kind)


@every_kind
def test_it_becomes_ready_and_is_the_daemons_own_child(daemon, kind):
    workers = settled(daemon, POOLS[kind])
    assert daemon.pool(POOLS[kind])["state"] == "running"
    for worker in workers:
        assert parent_of(worker["pid"]) == daemon.process.pid
        assert f"Worker {worker['name']} ({worker['pid']}) alive" in daemon.log


@every_kind
def test_it_leads_a_session_of_its_own(daemon, kind):
    """So that Ctrl-C in the daemon's terminal is for the daemon, which then stops the workers in their order."""
    for worker in settled(daemon, POOLS[kind]):
        assert os.getsid(worker["pid"]) == worker["pid"]


@every_kind
def test_it_shows_in_stats_with_the_fields_that_are_promised(daemon, kind):
    settled(daemon, POOLS[kind])
    pool = daemon.ctl("stats")["pools"][POOLS[kind]]
    always = {"kind", "state", "generation", "target", "ready", "busy", "workers"}
    assert set(pool) - {"backlog", "jobs", "cron"} == always
    assert ("jobs" in pool) == (kind is Kind.JOBRUNNER)
    assert ("cron" in pool) == (kind is Kind.CRON)
    assert pool["kind"] == kind.value
    assert [worker["name"] for worker in pool["workers"]] == [
        f"{POOLS[kind]}.{slot + 1}" for slot in range(pool["target"])
    ]
    for worker in pool["workers"]:
        assert set(worker) == {
            *("name", "pid", "generation", "state", "busy", "unit", "unit_seconds", "progress"),
            *("requests", "rss", "cpu_percent", "uptime"),
            "errors",  # and what http workers add, once they have answered something
        }
        assert (worker["state"], worker["busy"], worker["unit"]) == ("ready", False, None)
        assert worker["rss"] > 0
        assert worker["uptime"] > 0


@every_kind
def test_it_answers_to_dumpstacks(daemon, kind):
    workers = settled(daemon, POOLS[kind])
    stacks = daemon.ctl("dumpstacks", name=[POOLS[kind]])["stacks"]
    assert [(one["worker"], one["pid"]) for one in stacks] == [(w["name"], w["pid"]) for w in workers]
    for one in stacks:
        assert one["by"] == ("none" if kind in NOT_PYTHON else "python")
        assert ("procman/workers/" in one["text"]) == (kind not in NOT_PYTHON)


@every_kind
def test_it_retires_when_asked_with_status_0_and_is_replaced(daemon, kind):
    before = settled(daemon, POOLS[kind])
    assert daemon.ctl("restart", name=POOLS[kind], waiting=True)["status"] == "ok"
    after = settled(daemon, POOLS[kind])
    assert not {w["pid"] for w in after} & {w["pid"] for w in before}
    gone = {record["pid"]: record for record in daemon.pool(POOLS[kind])["exits"]}
    for worker in before:
        record = gone[worker["pid"]]
        assert (record["status"], record["reason"]) == (0, "reload"), daemon.log


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in NOT_PYTHON])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_it_goes_at_a_signal_and_is_replaced(daemon, kind, signum):
    victim = settled(daemon, POOLS[kind])[0]
    os.kill(victim["pid"], signum)
    daemon.wait_replaced(victim["name"], victim["pid"])
    settled(daemon, POOLS[kind])
    gone = {record["pid"]: record for record in daemon.pool(POOLS[kind])["exits"]}
    assert (gone[victim["pid"]]["status"], gone[victim["pid"]]["reason"]) == (0, "killed_by_user")


@every_kind
def test_it_is_replaced_when_killed(daemon, kind):
    victim = settled(daemon, POOLS[kind])[-1]
    os.kill(victim["pid"], signal.SIGKILL)
    daemon.wait_replaced(victim["name"], victim["pid"])
    settled(daemon, POOLS[kind])
    gone = {record["pid"]: record for record in daemon.pool(POOLS[kind])["exits"]}
    assert (gone[victim["pid"]]["status"], gone[victim["pid"]]["reason"]) == (-9, "killed_by_user")


def test_no_kind_survives_its_daemon(short_path):
    with Procmand(short_path, CONFIGURATION, modules={"app.py": APPLICATION}) as daemon:
        assert {settled(daemon, pool)[0]["state"] for pool in POOLS.values()} == {"ready"}
        daemon.kill()
        daemon.wait_gone(timeout=20)
        daemon.start()
        daemon.wait_said("READY=1")
