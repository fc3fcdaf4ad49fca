"""A new configuration under a real daemon: who is changed live, who is rolled, and who is left alone."""

from __future__ import annotations

import signal
import socket

import pytest

from tests.support.daemon import Procmand
from tests.support.traffic import Traffic

APPLICATION = """
import os, time

def application(environ, start_response):
    if environ["PATH_INFO"] == "/burn":
        while True:
            pass
    elif environ["PATH_INFO"] == "/sleep":
        time.sleep(1000)
    elif environ["PATH_INFO"] == "/eat":
        try:
            bytearray(400 << 20)
        except MemoryError:
            start_response("507 Insufficient Storage", [])
            return [b"MemoryError"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""

CONFIGURATION = """
[pools.http]
kind = "http"
app = "app:application"
bind = "127.0.0.1:0"
workers = 2
kill_timeout = 1
{more}

[pools.sleeper]
kind = "exec"
command = ["sleep", "1000"]
start_seconds = 0
{sleeper}
"""


def configuration(more="", sleeper=""):
    return CONFIGURATION.format(more=more, sleeper=sleeper)


@pytest.fixture
def daemon(short_path):
    with Procmand(short_path, configuration(), modules={"app.py": APPLICATION}) as running:
        yield running


def pids(daemon, pool):
    return sorted(worker["pid"] for worker in daemon.pool(pool)["workers"] if worker["state"] == "ready")


def reload(daemon, text):
    daemon.file.write_text(text)
    run = daemon.procmanctl("reload")
    assert run.returncode == 0, run.stderr
    return sorted(run.stdout.splitlines())


def test_limits_are_changed_live_and_act_on_the_workers_there_are(daemon):
    before, sleeper = pids(daemon, "http"), pids(daemon, "sleeper")
    said = reload(daemon, configuration("limits = { time_real = 1, memory_hard = '250MiB' }"))
    assert said == ["http: goes on with its new settings", "sleeper: nothing has changed"]
    assert pids(daemon, "http") == before
    assert daemon.request("GET", "/eat") == (507, b"MemoryError")
    status, _ = daemon.request("GET", "/sleep")
    assert status == 503
    daemon.wait(lambda: daemon.pool("http")["exits"], "the exit record")
    assert daemon.pool("http")["exits"][-1]["reason"] == "real_time"
    # Whoever comes now, from the template that has been there all the time, has them too.
    daemon.wait(lambda: daemon.pool("http")["ready"] == 2, "the replacement")
    said = reload(daemon, configuration("limits = { time_cpu = 1, requests = 3 }"))
    assert daemon.request("GET", "/eat")[0] == 200
    assert daemon.request("GET", "/burn")[0] == 503
    for _ in range(20):
        daemon.request("GET", "/")
    daemon.wait(lambda: {"cpu_time", "max_requests"} <= {e["reason"] for e in daemon.pool("http")["exits"]}, "exits")
    assert daemon.pool("http")["generation"] == 1
    assert pids(daemon, "sleeper") == sleeper


def test_only_who_has_changed_is_rolled_when_something_has(daemon):
    http, sleeper = pids(daemon, "http"), pids(daemon, "sleeper")
    said = reload(daemon, configuration(sleeper="env = { A = '1' }"))
    assert said == ["http: nothing has changed", "sleeper: generation 2 serves"]
    assert pids(daemon, "http") == http
    assert not set(pids(daemon, "sleeper")) & set(sleeper)


def test_everybody_is_rolled_when_nothing_has(daemon):
    http, sleeper = pids(daemon, "http"), pids(daemon, "sleeper")
    assert reload(daemon, configuration()) == ["http: generation 2 serves", "sleeper: generation 2 serves"]
    assert not set(pids(daemon, "http")) & set(http)
    assert not set(pids(daemon, "sleeper")) & set(sleeper)


def test_hup_tells_the_service_manager_of_a_live_change_as_well(daemon):
    before = pids(daemon, "http")
    daemon.file.write_text(configuration("recycle_at_once = 2"))
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_said("RELOADING=1")
    daemon.wait_said("READY=1")
    assert pids(daemon, "http") == before


def test_an_address_is_added_before_another_one_goes_and_the_one_that_stays_loses_nothing(daemon):
    def text(*addresses):
        binds = ", ".join(f'"{address}"' for address in addresses)
        return configuration().replace('bind = "127.0.0.1:0"', f"bind = [{binds}]")

    address = daemon.address()
    reload(daemon, text("127.0.0.1:0", "unix:b.sock"))
    assert connects(daemon.directory / "b.sock")
    with Traffic(address) as traffic:
        said = reload(daemon, text("127.0.0.1:0", "unix:c.sock"))
        assert said == ["http: generation 3 serves", "sleeper: nothing has changed"]
        traffic.wait_for(20)
    assert traffic.lost == []
    assert connects(daemon.directory / "c.sock")
    assert not connects(daemon.directory / "b.sock")


def test_an_address_that_can_not_be_had_changes_nothing(daemon, short_path):
    before = pids(daemon, "http")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon.file.write_text(configuration("workers = 3\n").replace("workers = 2\n", "").replace(":0", f":{port}"))
        run = daemon.procmanctl("reload")
    assert run.returncode == 1
    assert str(port) in run.stderr
    assert pids(daemon, "http") == before
    assert daemon.pool("http")["generation"] == 1


def connects(path):
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True
