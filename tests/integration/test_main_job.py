"""The main job, as the README promises it: the repository's own procman.toml, with ports and a place of its own.

Nothing is shared with other tests, not even the database: this is the one that starts the embedded server.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.daemon import Procmand, processes_in
from tests.support.traffic import Traffic

EXAMPLE = Path(__file__).parents[2] / "procman.toml"


@pytest.fixture
def daemon(short_path):
    configuration = EXAMPLE.read_text()
    for port in (8069, 8072, 8079):
        configuration = configuration.replace(f"127.0.0.1:{port}", "127.0.0.1:0")
    with Procmand(short_path, configuration) as running:
        yield running


def ask_worker(daemon, name, path):
    """GET until the worker of that name has answered; what it said."""

    def answered():
        answer = daemon.get_json(path)
        return answer if answer["worker"] == name else None

    return daemon.wait(answered, f"an answer of {name}")


def put_price(daemon, product, price):
    status, body = daemon.request("PUT", f"/prices/{product}", json.dumps({"price": price}))
    assert status == 200, body
    return json.loads(body)


def poll(daemon, channels):
    """One long poll for what comes from now on; the messages."""
    connection = http.client.HTTPConnection(daemon.address("longpoll"), timeout=60)
    params = {"channels": channels, "last": 0, "options": {}}
    body = json.dumps({"jsonrpc": "2.0", "method": "call", "params": params, "id": 1})
    try:
        connection.request("POST", "/longpolling/poll", body, {"Content-Type": "application/json"})
        return json.loads(connection.getresponse().read())["result"]
    finally:
        connection.close()


def all_jobs_done(daemon, number):
    counts = daemon.get_json("/jobs")
    assert counts.get("failed", 0) == 0, counts
    return counts.get("done", 0) >= number


def test_all_kinds_serve_and_agree(daemon):
    kinds = {name: pool["kind"] for name, pool in daemon.ctl("stats")["pools"].items()}
    assert kinds == {
        "postgres": "postgres",
        "http": "http",
        "cron": "cron",
        "jobrunner": "jobrunner",
        "longpoll": "gevent-longpolling",
        "dashboard": "http",
    }
    assert daemon.procmanctl("check").returncode == 0

    # A change through one worker is in the cache of every other one at once.
    for name in ("http.1", "http.2"):
        ask_worker(daemon, name, "/prices/1")
        assert ask_worker(daemon, name, "/prices/1")["cached"]
    for price in ("19.90", "20.05", "17.00"):
        assert put_price(daemon, 1, price)["price"] == price
        for name in ("http.1", "http.2"):
            assert ask_worker(daemon, name, "/prices/1")["price"] == price

    # A change wakes whoever waits for it.
    waiting = []
    thread = threading.Thread(target=lambda: waiting.append(poll(daemon, ["prices"])))
    thread.start()
    while thread.is_alive():  # the poll counts from when it arrives, which is not to be seen from here
        put_price(daemon, 2, "12.60")
        thread.join(0.2)
    assert waiting[0][-1]["message"]["price"] == "12.60"

    # Jobs that are enqueued at once are all done.
    status, _ = daemon.request("POST", "/jobs?n=200")
    assert status == 200
    daemon.wait(lambda: all_jobs_done(daemon, 200), "200 jobs to be done")

    # The cron function has left its mark.
    daemon.wait(lambda: daemon.get_json("/cron")["ticks"] >= 1, "a tick of cron")


def test_every_worker_that_is_killed_is_healed_without_help(daemon):
    put_price(daemon, 1, "21.00")
    for name in ("http.1", "http.2", "cron.1", "jobrunner.1", "longpoll.1"):
        pid = daemon.worker(name)["pid"]
        os.kill(pid, signal.SIGKILL)
        daemon.wait_replaced(name, pid)
    status, _ = daemon.request("POST", "/jobs?n=20")
    assert status == 200
    daemon.wait(lambda: all_jobs_done(daemon, 20), "the jobs to be done")

    postgres = daemon.worker("postgres.1")["pid"]
    os.kill(postgres, signal.SIGKILL)
    daemon.wait_replaced("postgres.1", postgres)
    daemon.wait(lambda: daemon.request("GET", "/prices/1")[0] == 200, "the web to find its database again")
    assert daemon.get_json("/prices/1")["price"] == "21.00"
    assert put_price(daemon, 1, "22.00")["price"] == "22.00"
    daemon.request("POST", "/jobs?n=20")
    daemon.wait(lambda: all_jobs_done(daemon, 40), "jobs to be run after the database came back")
    assert daemon.procmanctl("check").returncode == 0


def test_jobs_of_a_killed_worker_are_run_by_another(daemon):
    daemon.request("POST", "/jobs?n=300")
    for _ in range(5):
        pids = [worker["pid"] for worker in daemon.pool("http")["workers"] if worker["state"] == "ready"]
        with suppress(ProcessLookupError):  # retired since we looked
            os.kill(pids[0], signal.SIGKILL)
        daemon.wait(
            lambda gone=pids[0]: daemon.pool("http")["ready"] == 2 and gone not in processes_in(daemon.directory),
            "the replacement",
        )
    daemon.wait(lambda: all_jobs_done(daemon, 300), "all jobs to be done")


def test_reload_while_jobs_and_requests_run_loses_nothing(daemon):
    daemon.request("POST", "/jobs?n=200")
    with Traffic(daemon.address(), "/prices/1") as traffic:
        for _ in range(2):
            run = daemon.procmanctl("reload")
            assert run.returncode == 0, run.stderr
            traffic.wait_for(20)
    assert traffic.lost == []
    assert {status for status, _ in traffic.answers} == {200}
    daemon.wait(lambda: all_jobs_done(daemon, 200), "all jobs to be done")


def test_data_survive_a_restart_and_a_killed_daemon(daemon):
    put_price(daemon, 3, "33.33")
    assert daemon.stop(signal.SIGINT) == 0
    daemon.assert_nothing_left()
    daemon.start()
    daemon.wait_said("READY=1")
    assert daemon.get_json("/prices/3")["price"] == "33.33"

    put_price(daemon, 3, "44.44")
    daemon.kill()
    daemon.start()
    daemon.wait_said("READY=1")
    assert daemon.get_json("/prices/3")["price"] == "44.44"
