"""The demo's long job, while its worker and its runner are killed: told over HTTP, and seen by a real browser."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest

from tests.support.browser import Browser
from tests.support.browser import program as chromium
from tests.support.daemon import Procmand

CONFIGURATION = """
[database]
url = "{url}"

[pools.http]
kind = "http"
app = "procman.demo:application"
bind = "127.0.0.1:0"
workers = 2

[pools.jobrunner]
kind = "jobrunner"
channels = "root:4,root.stock:1"

[pools.longpoll]
kind = "gevent-longpolling"
app = "procman.demo:application"
bind = "127.0.0.1:${{PROCMAN_DEMO_POLL_PORT}}"
"""


def free_port():
    """One that nobody has at the moment: the page has to know it before the daemon has it."""
    with socket.socket() as trying:
        trying.bind(("127.0.0.1", 0))
        return trying.getsockname()[1]


@pytest.fixture
def daemon(short_path, database_url):
    environ = {"PROCMAN_DEMO_POLL_PORT": str(free_port())}
    with Procmand(short_path, CONFIGURATION.format(url=database_url), env=environ) as daemon:
        yield daemon


def begin(daemon, seconds):
    status, body = daemon.request("POST", f"/stock?seconds={seconds}")
    assert status == 200, body
    return json.loads(body)["uuid"]


def taking(daemon, uuid):
    """What the page is told of it; None while nobody answers."""
    try:
        takings = daemon.get_json("/stock")["takings"]
    except (OSError, ValueError, AssertionError):
        return None  # the worker that was asked is the one that was killed
    return next((one for one in takings if one["uuid"] == uuid), None)


def wait_for(daemon, uuid, condition, what):
    def met():
        found = taking(daemon, uuid)
        return found if found and condition(found) else None

    return daemon.wait(met, what)


def is_underway(one):
    return one["state"] == "started" and (one["progress"] or {"done": 0})["done"] >= 2


def test_a_long_job_survives_its_worker_and_its_runner(daemon):
    uuid = begin(daemon, 6)
    first = wait_for(daemon, uuid, is_underway, "the job to be under way")
    killed = first["tries"][-1]
    os.kill(killed["worker_pid"], signal.SIGKILL)
    second = wait_for(daemon, uuid, lambda one: one["attempt"] == 2 and is_underway(one), "the second try")
    lost = second["tries"][0]
    assert (lost["outcome"], lost["worker_pid"], lost["worker"]) == ("dead", killed["worker_pid"], killed["worker"])
    assert lost["reason"] == "killed_by_user"
    os.kill(daemon.worker("jobrunner.1")["pid"], signal.SIGKILL)
    done = wait_for(daemon, uuid, lambda one: one["state"] == "done", "the job to be done")
    assert (done["attempt"], done["result"], done["rows"]) == (2, {"shelves": 40, "pieces": 201}, 40)
    # And what was enqueued when there was no runner is found by the next one.
    other = begin(daemon, 0)
    wait_for(daemon, other, lambda one: one["state"] == "done", "another one to be done")


def test_how_far_it_is_can_be_seen_everywhere(daemon):
    uuid = begin(daemon, 60)
    wait_for(daemon, uuid, is_underway, "the job to be under way")

    def unit():
        found = [worker for worker in daemon.pool("http")["workers"] if worker["progress"]]
        return found[0] if found else None

    worker = daemon.wait(unit, "a worker that says how far it is")
    assert worker["unit"] == f"job procman.demo:take_stock {uuid}"
    assert 0 < worker["progress"] < 1
    shown = daemon.procmanctl("jobs", "show", uuid).stdout
    assert "stock-taking" in shown
    assert " of 40: " in shown
    assert "% job procman.demo:take_stock" in daemon.procmanctl("stats", "http").stdout
    os.kill(worker["pid"], signal.SIGKILL)  # the minute need not be waited for


def test_seconds_are_a_number(daemon):
    assert daemon.request("POST", "/stock?seconds=a+while")[0] == 400


@pytest.mark.skipif(chromium() is None, reason="there is no Chromium here")
def test_it_is_seen_in_a_browser(daemon, tmp_path):
    with Browser(tmp_path) as page:
        page.open(f"http://{daemon.address()}/")
        page.wait("document.getElementById('live').classList.contains('on')", "the bus to be heard")
        page.run("fetch('/stock?seconds=20', {method: 'POST'}).then(() => 0)")
        page.wait("document.querySelector('.taking.started progress')?.value >= 2", "the bar to move")
        pid = int(page.text(".taking code").rpartition(" ")[2])
        os.kill(pid, signal.SIGKILL)
        page.wait("document.querySelector('.taking .lost')", "the page to say what has happened")
        assert f"(pid {pid}) was killed at " in page.text(".taking .lost")
        assert " (killed_by_user): rolled back, begun anew " in page.text(".taking .lost")
        assert "try 2" in page.text(".taking .head")
        page.wait("document.querySelector('.taking.started progress')?.value >= 2", "the bar to go on")
        os.kill(daemon.worker("jobrunner.1")["pid"], signal.SIGKILL)
        seen = page.run("document.querySelector('.taking progress').value")
        page.wait(f"document.querySelector('.taking progress')?.value > {seen}", "the bar to go on without a runner")
        page.wait("document.querySelector('.taking.done')", "it to be done")
        assert "201 pieces on 40 shelves" in page.text(".taking")
        assert "40 rows written, each once" in page.text(".taking")
        assert page.errors == []
