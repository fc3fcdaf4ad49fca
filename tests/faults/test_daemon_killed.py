"""kill -9 of the daemon: what was being served is answered, nothing stays, and the next start works at once."""

from __future__ import annotations

import threading

import pytest

from tests.support.daemon import Procmand, processes_in

APPLICATION = """
import os

def application(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        while not os.path.exists("go"):
            pass
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"""

CONFIGURATION = """
[pools.http]
kind = "http"
app = "app:application"
bind = ["127.0.0.1:{port}", "unix:web.sock"]
workers = 2

[pools.sleeper]
kind = "exec"
command = ["sleep", "1000"]
start_seconds = 0.1
"""


@pytest.fixture
def daemon(short_path):
    configuration = CONFIGURATION.format(port=0)
    with Procmand(short_path, configuration, modules={"app.py": APPLICATION}) as running:
        yield running


def test_idle_workers_commands_and_templates_go_at_once(daemon):
    daemon.kill()
    daemon.wait_gone(timeout=10)
    daemon.start()
    daemon.wait_said("READY=1")


def test_the_request_in_flight_is_answered_and_the_next_daemon_does_not_wait_for_it(daemon):
    # A port of its own, so that the next daemon wants the very same address.
    port = daemon.address().rpartition(":")[2]
    daemon.file.write_text(CONFIGURATION.format(port=port))
    answers = []
    slow = threading.Thread(target=lambda: answers.append(daemon.request("GET", "/slow")))
    slow.start()
    busy = daemon.wait(lambda: [w for w in daemon.pool("http")["workers"] if w["busy"]], "the request to be served")
    daemon.kill()
    daemon.start()
    daemon.wait_said("READY=1")
    # The next daemon serves while an orphan of the last one is still in its unit.
    assert daemon.request("GET", "/")[0] == 200
    assert answers == []
    (daemon.directory / "go").touch()
    slow.join()
    assert answers == [(200, str(busy[0]["pid"]).encode())]
    daemon.wait(lambda: busy[0]["pid"] not in processes_in(daemon.directory), "the orphan to go", timeout=10)
