"""Limits of http workers, with real processes: exact, in time, and on nobody who has done nothing."""

from __future__ import annotations

import time

import pytest

from tests.support.daemon import Procmand
from tests.support.wild import ask_in_background, busy_worker

APPLICATION = """
import mmap, time

HOARD = []

def application(environ, start_response):
    path, _, number = environ["PATH_INFO"][1:].partition("/")
    if path == "burn":
        while True:
            pass
    elif path == "inside-c":
        sum(iter(int, 1))
    elif path == "stubborn":
        while True:
            try:
                while True:
                    pass
            except BaseException:
                pass
    elif path == "compute":
        until = time.process_time() + float(number)
        while time.process_time() < until:
            pass
    elif path == "sleep":
        time.sleep(float(number))
    elif path == "hoard":
        HOARD.append(bytearray(int(number) << 20))
    elif path == "reserve":
        HOARD.append(mmap.mmap(-1, int(number) << 20))
    elif path == "garbage":
        # A circle, which only the collector frees.
        circle = [bytearray(int(number) << 20)]
        circle.append(circle)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"served"]
"""

CONFIGURATION = """
[pools.http]
kind = "http"
app = "app:application"
bind = "127.0.0.1:0"
kill_timeout = 1

[pools.http.limits]
"""


def running(short_path, limits):
    return Procmand(short_path, CONFIGURATION + limits + "\n", modules={"app.py": APPLICATION})


def the_exit(daemon):
    (record,) = daemon.wait(lambda: daemon.pool("http")["exits"], "the exit record")
    return record["reason"], record["status"]


# -- CPU --------------------------------------------------------------------------------------------------


def test_the_limit_counts_cpu_time_in_fractions_of_a_second(short_path):
    with running(short_path, "time_cpu = 0.3") as daemon:
        # None of these uses as much by itself; together they do, and a long sleep does not count.
        for _ in range(5):
            assert daemon.request("GET", "/compute/0.15")[0] == 200
        assert daemon.request("GET", "/sleep/1")[0] == 200
        assert daemon.pool("http")["exits"] == []
        assert daemon.request("GET", "/compute/0.5")[0] == 503
        assert the_exit(daemon) == ("cpu_time", 0)
        assert "GET /compute/0.5 was ended: cpu_time" in daemon.log


@pytest.mark.parametrize("path", ["/inside-c", "/stubborn"])
def test_a_unit_that_does_not_heed_its_cpu_limit_is_killed_with_its_stacks(short_path, path):
    with running(short_path, "time_cpu = 1") as daemon:
        _, thread = ask_in_background(daemon, path)
        pid = busy_worker(daemon, path)["pid"]
        thread.join(30)
        assert the_exit(daemon) == ("cpu_time", -9)
        log = daemon.log
        evidence = log[log.index("Stacks before the kill") : log.index(f"({pid}) is killed: cpu_time")]
        assert f"Worker http.1 ({pid}) GET {path}" in evidence
        assert "app.py" in evidence


# -- memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["rss", "pss", "uss", "vms"])
def test_a_unit_that_leaks_much_at_once_is_the_last_of_its_worker(short_path, metric):
    # vms counts what is reserved as well: several times of what is used.
    limits = f'memory_metric = "{metric}"\nmemory_soft = "{"500MiB" if metric == "vms" else "150MiB"}"'
    with running(short_path, limits) as daemon:
        pid = daemon.worker("http.1")["pid"]
        for _ in range(5):
            assert daemon.request("GET", "/")[0] == 200
        assert daemon.request("GET", "/hoard/600")[0] == 200
        daemon.wait_replaced("http.1", pid)
        assert the_exit(daemon) == ("memory_soft", 0)
        assert f"({pid}) memory limit reached: {metric} " in daemon.log


def test_what_the_collector_frees_is_no_reason_to_go(short_path):
    with running(short_path, 'memory_soft = "150MiB"') as daemon:
        pid = daemon.worker("http.1")["pid"]
        for _ in range(5):
            assert daemon.request("GET", "/garbage/200")[0] == 200
        assert daemon.worker("http.1")["pid"] == pid
        assert daemon.pool("http")["exits"] == []


def test_reserved_memory_that_is_not_used_counts_for_vms_alone(short_path):
    with running(short_path, 'memory_soft = "150MiB"') as daemon:
        pid = daemon.worker("http.1")["pid"]
        for _ in range(5):
            assert daemon.request("GET", "/reserve/400")[0] == 200
            time.sleep(0.02)  # long enough to be looked at
        assert daemon.worker("http.1")["pid"] == pid
