"""Workers that are stuck outside of any unit: noticed because they do not answer, whatever they are stuck in."""

from __future__ import annotations

import os
import signal

import pytest

from procman.core.spec import Kind
from tests.support.daemon import Procmand
from tests.support.wild import ask_in_background

APPLICATION = """
import os, signal, threading, time
import procman

def forever():
    sum(iter(int, 1))

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/thread-that-keeps-the-lock":
        threading.Timer(0.2, forever).start()
    elif environ["PATH_INFO"] == "/signal-handler":
        signal.signal(signal.SIGALRM, lambda *_: forever())
        signal.setitimer(signal.ITIMER_REAL, 0.2)
    elif environ["PATH_INFO"] == "/hub":
        import gevent
        gevent.spawn_later(0.2, forever)
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
hang_timeout = 2

[pools.cron]
kind = "cron"
app = "app"
hang_timeout = 2

[pools.jobrunner]
kind = "jobrunner"
hang_timeout = 2

[pools.longpoll]
kind = "gevent-longpolling"
app = "app:application"
bind = "127.0.0.1:0"
hang_timeout = 2
"""

POOLS = {Kind.HTTP: "http", Kind.CRON: "cron", Kind.JOBRUNNER: "jobrunner", Kind.LONGPOLLING: "longpoll"}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with Procmand(tmp_path_factory.mktemp("h"), CONFIGURATION, modules={"app.py": APPLICATION}) as running:
        yield running


def assert_ended_with_evidence(daemon, name, pid, evidence):
    daemon.wait_replaced(name, pid)
    pool = name.partition(".")[0]
    gone = daemon.wait(lambda: {r["pid"]: r for r in daemon.pool(pool)["exits"] if r["pid"] == pid}, "the record")
    assert (gone[pid]["reason"], gone[pid]["status"]) == ("hang", -9)
    log = daemon.log
    said = log.index(f"Worker {name} ({pid}) has shown no sign of life for")
    stacks = log.index("Stacks before the kill", said)
    killed = log.index(f"Worker {name} ({pid}) is killed: hang")
    assert evidence in log[stacks:killed]
    assert f"Worker {name} ({pid}) idle" in log[stacks:killed]


@pytest.mark.parametrize("kind", list(POOLS))
def test_a_stopped_worker_of_any_kind_is_found_hanging(daemon, kind):
    name = f"{POOLS[kind]}.1"
    pid = daemon.wait(lambda: daemon.worker(name), f"{name} to be ready")["pid"]
    os.kill(pid, signal.SIGSTOP)
    assert_ended_with_evidence(daemon, name, pid, "state T (stopped)")


@pytest.mark.parametrize(
    ("pool", "path"),
    [("http", "/thread-that-keeps-the-lock"), ("http", "/signal-handler"), ("longpoll", "/hub")],
)
def test_what_is_stuck_in_c_beside_its_units_is_found_hanging(daemon, pool, path):
    before = {worker["pid"]: worker["name"] for worker in daemon.pool(pool)["workers"]}
    status, _ = daemon.request("GET", path, pool=pool)
    assert status == 200
    gone = daemon.wait(
        lambda: [r for r in daemon.pool(pool)["exits"] if r["pid"] in before and r["reason"] == "hang"], "a hang"
    )
    assert_ended_with_evidence(daemon, gone[-1]["worker"], gone[-1]["pid"], "in forever")


def test_idle_workers_of_every_kind_are_asked_and_live_on(daemon):
    """Odoo kills its idle cron workers when their limit is short (facts: 60 s of sleep count as work)."""
    daemon.wait(
        lambda: all(daemon.pool(pool)["ready"] == daemon.pool(pool)["target"] for pool in POOLS.values()), "all"
    )
    before = {worker["pid"] for pool in POOLS.values() for worker in daemon.pool(pool)["workers"]}
    born = min(worker["uptime"] for pool in POOLS.values() for worker in daemon.pool(pool)["workers"])

    def three_limits_later():
        workers = [worker for pool in POOLS.values() for worker in daemon.pool(pool)["workers"]]
        assert {worker["pid"] for worker in workers} == before
        return min(worker["uptime"] for worker in workers) > born + 6

    daemon.wait(three_limits_later, "three times the limit")


def test_a_unit_without_a_limit_may_take_longer_than_a_worker_may_be_silent(short_path):
    application = "import time\ndef application(environ, start_response):\n" + (
        "    time.sleep(3)\n    start_response('200 OK', [])\n    return [b'slept']\n"
    )
    configuration = '[pools.http]\nkind = "http"\napp = "app:application"\nbind = "127.0.0.1:0"\nhang_timeout = 0.5\n'
    with Procmand(short_path, configuration, modules={"app.py": application}) as daemon:
        came_to, thread = ask_in_background(daemon, "/")
        thread.join(60)
        assert came_to == [(200, b"slept")]
        assert daemon.pool("http")["exits"] == []
