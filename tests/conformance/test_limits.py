"""Limits that every kind of worker with units has, whatever its units are. (Those on units: tests/faults.)"""

from __future__ import annotations

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

@procman.cron(every="1s")
def often():
    sum(range(200_000))
"""

CONFIGURATION = """
[database]
url = "embedded"

[pools.http]
kind = "http"
app = "app:application"
bind = "127.0.0.1:0"
LIMITS

[pools.threads]
kind = "http"
app = "app:application"
bind = "127.0.0.1:0"
threads = 2
LIMITS

[pools.cron]
kind = "cron"
app = "app"
LIMITS

[pools.jobrunner]
kind = "jobrunner"
target = "http"
LIMITS

[pools.longpoll]
kind = "gevent-longpolling"
app = "app:application"
bind = "127.0.0.1:0"
LIMITS
"""

POOLS = {
    "http": Kind.HTTP,
    "threads": Kind.HTTP,
    "cron": Kind.CRON,
    "jobrunner": Kind.JOBRUNNER,
    "longpoll": Kind.LONGPOLLING,
}
every_pool = pytest.mark.parametrize("pool", list(POOLS))


def running(limits):
    @pytest.fixture(scope="module")
    def daemon():
        with (
            tempfile.TemporaryDirectory(prefix="pm", dir="/tmp") as directory,
            Procmand(
                Path(directory), CONFIGURATION.replace("LIMITS", limits), modules={"app.py": APPLICATION}
            ) as running,
        ):
            yield running

    return daemon


ageing = running("limits = { age = 3 }")
# So little that any worker has more: it is the look that is tested, and that nothing else comes of it.
heavy = running('limits = { memory_soft = "5MiB" }')


def wait_for_exit(daemon, pool, reason):
    def found():
        return [record for record in daemon.pool(pool)["exits"] if record["reason"] == reason]

    return daemon.wait(found, f"a worker of {pool} to go for {reason}")


def test_no_kind_is_left_out():
    assert set(POOLS.values()) == set(Kind) - {Kind.EXEC, Kind.POSTGRES}


@every_pool
def test_an_idle_worker_goes_at_its_age(ageing, pool):
    record = wait_for_exit(ageing, pool, "max_age")[0]
    assert record["status"] == 0
    assert record["lived"] > 1  # counted from when it was ready, its age from when it was born


@every_pool
def test_a_worker_with_too_much_memory_is_replaced_after_its_work(heavy, pool):
    def asked():
        if pool in ("http", "threads", "longpoll"):
            for _ in range(50):
                assert heavy.request("GET", "/", pool=pool)[0] == 200
        return [record for record in heavy.pool(pool)["exits"] if record["reason"] == "memory_soft"]

    assert heavy.wait(asked, "a worker to go for memory_soft")[0]["status"] == 0
