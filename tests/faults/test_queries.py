"""A unit that waits for PostgreSQL and is ended: its query is ended as well, however the worker goes."""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time

import pytest

from procman.db.connection import connect
from tests.support.daemon import Procmand, wait_until
from tests.support.wild import ask_in_background, busy_worker

APPLICATION = """
import os
import psycopg2
import procman

LONG = "SELECT pg_sleep(600)"

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/sleep":
        with procman.cursor() as cr:
            cr.execute("INSERT INTO written VALUES (1)")
            cr.execute(LONG)
    elif path == "/three-seconds":
        with procman.cursor() as cr:
            cr.execute("SELECT pg_sleep(3.5)")
    elif path == "/stubborn":
        with procman.cursor() as cr:
            try:
                cr.execute(LONG)
            except Exception:
                pass
            cr.execute("ROLLBACK")
            cr.execute(LONG)
    elif path == "/own-driver":
        connection = psycopg2.connect(environ["HTTP_X_URL"])
        connection.cursor().execute(LONG)
    elif path in ("/job", "/stuck-job"):
        with procman.cursor():
            answer = (long_job if path == "/job" else stuck_job).delay()
        start_response("200 OK", [])
        return [str(answer).encode()]
    start_response("200 OK", [])
    return [b"served"]

@procman.job()
def long_job():
    with procman.cursor() as cr:
        cr.execute("INSERT INTO written VALUES (2)")
        cr.execute(LONG)

@procman.job(retries=1)
def stuck_job():
    sum(iter(int, 1))

@procman.cron(every="1h")
def long_entry():
    with procman.cursor() as cr:
        if os.path.exists(os.environ["ENTRY_RUNS"]):
            os.unlink(os.environ["ENTRY_RUNS"])
            cr.execute(LONG)
"""

CONFIGURATION = """
[database]
url = "embedded"

[pools.http]
kind = "http"
app = "app:application"
bind = "127.0.0.1:0"
workers = 2
kill_timeout = 5
limits = { time_real = 2 }

[pools.slow]
kind = "http"
app = "app:application"
bind = "127.0.0.1:0"

[pools.threads]
kind = "http"
app = "app:application"
bind = "127.0.0.1:0"
threads = 3
kill_timeout = 10
limits = { time_real = 4 }

[pools.jobrunner]
kind = "jobrunner"
target = "http"

[pools.cron]
kind = "cron"
app = "app"
kill_timeout = 1
limits = { time_real = 2 }
"""

# From the end of the unit's time: the server looks every half second whether its client is still there.
SOON = 3.0


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    directory = tmp_path_factory.mktemp("q")
    env = {"ENTRY_RUNS": str(directory / "entry-runs")}
    with Procmand(directory, CONFIGURATION, modules={"app.py": APPLICATION}, env=env) as running:
        yield running


@pytest.fixture
def url(daemon):
    return f"host={daemon.directory}/var/postgres-socket port=5432 user=procman dbname=procman"


@pytest.fixture
def ask(url):
    connection = connect(url)
    with connection.cursor() as cr:
        cr.execute("CREATE TABLE IF NOT EXISTS written (what int)")

    def value(statement):
        with connection.cursor() as cr:
            cr.execute(statement)
            return cr.fetchone()[0]

    yield value
    connection.close()


SLEEPING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE query = 'SELECT pg_sleep(600)' AND state = 'active' AND pid <> pg_backend_pid()
"""


def wait_for_sleepers(ask, number, timeout=60.0):
    wait_until(lambda: ask(SLEEPING) == number, f"{number} long queries", timeout)


@pytest.mark.parametrize("path", ["/sleep", "/own-driver"])
def test_the_query_of_a_unit_over_its_time_is_cancelled_and_the_unit_answers(daemon, ask, url, path):
    before = len(daemon.log)
    connection = http.client.HTTPConnection(daemon.address(), timeout=60)
    begun = time.monotonic()
    connection.request("GET", path, headers={"X-Url": url})
    wait_for_sleepers(ask, 1)
    assert connection.getresponse().status == 503
    # Asked, and not killed: within the limit and not after kill_timeout.
    assert time.monotonic() - begun < 2 + SOON
    wait_for_sleepers(ask, 0, SOON)
    assert ask("SELECT count(*) FROM written") == 0
    reasons = daemon.wait(lambda: [record["reason"] for record in daemon.pool("http")["exits"]], "the exit")
    assert set(reasons) == {"real_time"}
    assert "is killed: real_time" not in daemon.log[before:]


def test_only_the_query_of_the_thread_that_is_over_its_time_is_cancelled(daemon, ask):
    address = daemon.address("threads")
    answers = []

    def run(path):
        begun = time.monotonic()
        answers.append((path, daemon.request_at(address, "GET", path, timeout=60)[0], time.monotonic() - begun))

    long, short = (threading.Thread(target=run, args=(path,), daemon=True) for path in ("/sleep", "/three-seconds"))
    long.start()
    wait_for_sleepers(ask, 1)
    time.sleep(1.0)  # the second one is a second behind, and still waits when the first is over its time
    short.start()
    long.join(60)
    wait_for_sleepers(ask, 0, SOON)
    short.join(60)
    assert sorted((path, status) for path, status, _ in answers) == [("/sleep", 503), ("/three-seconds", 200)]
    assert ask("SELECT count(*) FROM written") == 0
    (record,) = daemon.wait(lambda: daemon.pool("threads")["exits"], "the exit record")
    assert (record["reason"], record["status"]) == ("real_time", 0)


def test_a_unit_that_begins_another_query_is_killed_and_that_ends_too(daemon, ask):
    _, thread = ask_in_background(daemon, "/stubborn")
    wait_for_sleepers(ask, 1)
    thread.join(30)
    wait_for_sleepers(ask, 0, SOON)


def test_the_query_of_a_stopped_worker_ends_with_it(daemon, ask):
    came_to, thread = ask_in_background(daemon, "/sleep")
    wait_for_sleepers(ask, 1)
    os.kill(busy_worker(daemon, "/sleep")["pid"], signal.SIGSTOP)
    thread.join(30)
    assert not isinstance(came_to[0], tuple)
    wait_for_sleepers(ask, 0, SOON)


@pytest.mark.parametrize("how", ["kill", "procmanctl"])
def test_the_query_of_a_worker_that_somebody_kills_ends_with_it(daemon, ask, how):
    address = daemon.address("slow")

    def run():
        try:
            daemon.request_at(address, "GET", "/sleep", timeout=60)
        except OSError:
            pass

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    wait_for_sleepers(ask, 1)
    pid = daemon.worker("slow.1")["pid"]
    if how == "kill":
        os.kill(pid, signal.SIGKILL)
    else:
        assert daemon.procmanctl("kill", "slow.1").returncode == 0
    wait_for_sleepers(ask, 0, SOON)
    thread.join(30)
    daemon.wait_replaced("slow.1", pid)


def test_the_query_of_a_job_over_its_time_is_cancelled_and_the_job_fails(daemon, ask):
    status, uuid = daemon.request("GET", "/job", pool="slow")
    assert status == 200
    wait_for_sleepers(ask, 1)
    row = f"FROM procman.job WHERE uuid = '{uuid.decode()}'"
    daemon.wait(lambda: ask(f"SELECT state {row}") == "failed", "the job to fail", timeout=20)
    assert "real_time" in ask(f"SELECT exc_message {row}")
    wait_for_sleepers(ask, 0, SOON)
    assert ask("SELECT count(*) FROM written") == 0


def test_the_row_of_a_job_that_was_killed_says_why_and_where_it_was(daemon, ask):
    status, uuid = daemon.request("GET", "/stuck-job", pool="slow")
    assert status == 200
    row = f"FROM procman.job WHERE uuid = '{uuid.decode()}'"
    daemon.wait(lambda: ask(f"SELECT state {row}") == "failed", "the job to fail", timeout=60)
    assert ask(f"SELECT exc_name {row}") == "JobFoundDead"
    assert ask(f"SELECT exc_message {row}").endswith(": real_time")
    text = ask(f"SELECT exc_info {row}")
    assert f":stuck_job {uuid.decode()}" in text
    assert "in stuck_job" in text


def test_the_query_of_a_cron_run_over_its_time_is_cancelled_and_the_run_fails(daemon, ask):
    (daemon.directory / "entry-runs").touch()
    ask("UPDATE procman.cron SET next_call = now() WHERE name = 'app:long_entry' RETURNING 1")
    daemon.wait(lambda: not (daemon.directory / "entry-runs").exists(), "the run to begin")
    daemon.wait(lambda: "UnitAborted: real_time" in daemon.log, "its end", timeout=30)
    wait_for_sleepers(ask, 0, SOON)
    exits = daemon.wait(lambda: daemon.pool("cron")["exits"], "the exit record")
    assert [record["reason"] for record in exits] == ["real_time"]
