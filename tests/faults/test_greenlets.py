"""Limits of a gevent worker, in which many units run at once: what ends one of them leaves the others alone."""

from __future__ import annotations

import http.client
import threading
import time

import pytest

from tests.support.daemon import Procmand

APPLICATION = """
import time
import procman

HOARD = []

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/sleep":
        with procman.cursor() as cr:
            cr.execute("CREATE TABLE IF NOT EXISTS never (what int)")
        time.sleep(1000)
    elif path == "/query":
        with procman.cursor() as cr:
            cr.execute("SELECT pg_sleep(600)")
    elif path == "/burn":
        while True:
            pass
    elif path == "/inside-c":
        sum(iter(int, 1))
    elif path == "/work":
        # Much CPU, with turns for the others: nobody suffers.
        until = time.process_time() + 2.5
        while time.process_time() < until:
            sum(range(1000))
            time.sleep(0)
    elif path == "/hoard":
        HOARD.append(bytearray(200 << 20))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"served"]
"""

CONFIGURATION = """
[database]
url = "embedded"

[pools.poll]
kind = "gevent-longpolling"
app = "app:application"
bind = "127.0.0.1:0"
kill_timeout = 1
hang_timeout = 20

[pools.poll.limits]
"""


def running(short_path, limits):
    return Procmand(short_path, CONFIGURATION + limits + "\n", modules={"app.py": APPLICATION})


def ask(address, path, answers):
    def run():
        connection = http.client.HTTPConnection(address, timeout=60)
        begun = time.monotonic()
        try:
            connection.request("GET", path)
            answers.append((path, connection.getresponse().status, time.monotonic() - begun))
        except (OSError, http.client.HTTPException) as error:
            answers.append((path, type(error), time.monotonic() - begun))
        finally:
            connection.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("path", ["/sleep", "/query"])
def test_who_waits_too_long_is_a_503_and_nobody_else_notices(short_path, path):
    with running(short_path, "time_real = 2") as daemon:
        address, pid = daemon.address("poll"), daemon.worker("poll.1")["pid"]
        answers = []
        threads = [ask(address, path, answers)]
        time_of_the_second = 0.7
        threads[0].join(time_of_the_second)
        threads.append(ask(address, path, answers))
        for thread in threads:
            while thread.is_alive():
                assert daemon.request_at(address)[0] == 200
                thread.join(0.05)
        assert [status for _, status, _ in answers] == [503, 503]
        # Each by its own clock.
        assert all(2 <= seconds < 15 for _, _, seconds in answers)
        assert daemon.worker("poll.1")["pid"] == pid
        assert daemon.pool("poll")["exits"] == []
        assert daemon.log.count(f"GET {path} was ended: real_time") == 2


@pytest.mark.parametrize(("limits", "reason"), [("time_real = 1", "real_time"), ("time_cpu = 1", "cpu_time")])
def test_who_keeps_all_others_waiting_is_interrupted_and_the_worker_replaced(short_path, limits, reason):
    with running(short_path, limits) as daemon:
        address, pid = daemon.address("poll"), daemon.worker("poll.1")["pid"]
        answers = []
        threads = [ask(address, "/burn", answers)]
        daemon.wait(lambda: daemon.worker("poll.1")["unit"] == "GET /burn", "the unit to begin")
        threads.append(ask(address, "/", answers))
        for thread in threads:
            thread.join(30)
        assert {path: status for path, status, _ in answers} == {"/burn": 503, "/": 200}
        daemon.wait_replaced("poll.1", pid)
        exits = daemon.wait(lambda: daemon.pool("poll")["exits"], "the exit record")
        assert [(record["reason"], record["status"]) for record in exits] == [(reason, 0)]


@pytest.mark.parametrize(
    ("limits", "reason"), [("time_real = 1", "real_time"), ("time_cpu = 1", "cpu_time"), ("age = 1000", "hang")]
)
def test_who_is_stuck_in_c_is_killed_with_the_stacks_of_the_hub(short_path, limits, reason):
    with Procmand(
        short_path,
        CONFIGURATION.replace("hang_timeout = 20", "hang_timeout = 3" if reason == "hang" else "") + limits + "\n",
        modules={"app.py": APPLICATION},
    ) as daemon:
        pid = daemon.worker("poll.1")["pid"]
        answers = []
        ask(daemon.address("poll"), "/inside-c", answers).join(60)
        daemon.wait_replaced("poll.1", pid)
        (record,) = daemon.wait(lambda: daemon.pool("poll")["exits"], "the exit record")
        assert (record["reason"], record["status"]) == (reason, -9)
        assert answers[0][2] < 12
        log = daemon.log
        assert "app.py" in log[log.index("Stacks before the kill") : log.index(f"is killed: {reason}")]
        assert f"Worker poll.1 ({pid}) GET /inside-c" in log


def test_much_work_with_turns_for_the_others_is_not_over_the_limit(short_path):
    with running(short_path, "time_cpu = 1") as daemon:
        answers = []
        ask(daemon.address("poll"), "/work", answers).join(60)
        assert [status for _, status, _ in answers] == [200]
        assert daemon.pool("poll")["exits"] == []


def test_memory_is_that_of_the_whole_process_and_looked_at_soon(short_path):
    with running(short_path, 'memory_soft = "200MiB"') as daemon:
        pid = daemon.worker("poll.1")["pid"]
        assert daemon.request("GET", "/", pool="poll")[0] == 200
        assert daemon.request("GET", "/hoard", pool="poll")[0] == 200
        daemon.wait_replaced("poll.1", pid)
        (record,) = daemon.wait(lambda: daemon.pool("poll")["exits"], "the exit record")
        assert record["reason"] == "memory_soft"


def test_age_needs_no_request(short_path):
    with running(short_path, "age = 1") as daemon:
        pid = daemon.worker("poll.1")["pid"]
        daemon.wait_replaced("poll.1", pid)
        exits = daemon.wait(lambda: daemon.pool("poll")["exits"], "the exit record")
        assert exits[0]["reason"] == "max_age"
