"""Jobs with limits of their own, in pools that have none: ended from outside, wherever they are, with their stacks."""

from __future__ import annotations

import pytest

from procman.db.connection import connect
from tests.support.daemon import Procmand

APPLICATION = """
import time
import procman

def application(environ, start_response):
    name = environ["PATH_INFO"].strip("/")
    uuid = globals()[name].delay()
    start_response("200 OK", [])
    return [uuid.encode()]

@procman.job(timeout=1.0)
def python():
    while True:
        time.sleep(0.05)

@procman.job(timeout=1.0)
def database():
    with procman.cursor() as cr:
        cr.execute("SELECT pg_sleep(600)")

@procman.job(timeout=1.0, retries=1)
def inside_of_c():
    sum(iter(int, 1))

@procman.job(timeout=60.0)
def in_time():
    return "in time"

@procman.job
def no_limit():
    time.sleep(3)
    return "slept"
"""

CONFIGURATION = """
[database]
url = "embedded"

[pools.http]
kind = "http"
app = "app:application"
bind = "127.0.0.1:0"
workers = 2
kill_timeout = 1
{}

[pools.jobrunner]
kind = "jobrunner"
channels = "root:2"
target = "http"
"""

ROW = """
SELECT state, job.exc_name, job.exc_message, job.result::text, job.exc_info, array_agg(h.outcome ORDER BY h.number),
    array_agg(h.reason ORDER BY h.number), array_agg(coalesce(h.exc_info, '') ORDER BY h.number)
FROM procman.job AS job JOIN procman.job_history AS h ON h.job_id = job.id WHERE uuid = %s GROUP BY job.id
"""


@pytest.fixture(scope="module", params=["", "threads = 2"], ids=["one", "threads"])
def daemon(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("q")
    with Procmand(directory, CONFIGURATION.format(request.param), modules={"app.py": APPLICATION}) as running:
        yield running


@pytest.fixture
def outcome(daemon):
    """Enqueue a job by this name, and wait for it to be over."""
    connection = connect(f"host={daemon.directory}/var/postgres-socket port=5432 user=procman dbname=procman")

    def outcome(name):
        status, body = daemon.request("GET", f"/{name}", timeout=60)
        assert status == 200

        def over():
            with connection.cursor() as cr:
                cr.execute(ROW, (body.decode(),))
                row = cr.fetchone()
                return row if row and (row[0] == "done" or (row[0] == "failed" and None not in row[6])) else None

        return daemon.wait(over, f"the job {name}", timeout=60)

    yield outcome
    connection.close()


@pytest.mark.parametrize("name", ["python", "database"])
def test_it_is_asked_to_end_and_has_failed(outcome, name):
    state, _, message, _, info, outcomes, reasons, infos = outcome(name)
    assert (state, message, outcomes, reasons) == ("failed", "real_time", ["failed"], ["real_time"])
    assert f"in {name}\n" in info
    assert infos == [info]


def test_inside_of_c_its_worker_is_killed_and_its_history_has_the_stacks(outcome):
    state, exc_name, message, _, info, outcomes, reasons, infos = outcome("inside_of_c")
    assert (state, exc_name) == ("failed", "JobFoundDead")
    assert "real_time" in message
    assert (outcomes, reasons) == (["dead", "dead"], ["real_time", "real_time"])
    assert all("in inside_of_c" in each for each in infos)
    assert info == infos[-1]


def test_others_are_left_alone(outcome):
    assert outcome("in_time")[3] == '"in time"'
    assert outcome("no_limit")[3] == '"slept"'
