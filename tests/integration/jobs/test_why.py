"""What a real daemon knows of its jobs: why they wait, what goes on in the channels, and the metrics."""

from __future__ import annotations

import json

import psycopg2
import pytest

from tests.support.daemon import Procmand

APPLICATION = """
import time

import procman


@procman.job(channel="root.one")
def wait(seconds):
    time.sleep(seconds)


@procman.job(channel="root.later")
def later():
    pass


@procman.job(channel="root.one")
def fail():
    raise ValueError("on purpose")


def application(environ, start_response):
    path, _, argument = environ["PATH_INFO"].strip("/").partition("/")
    made = {
        "wait": lambda: wait.delay(float(argument)),
        "later": lambda: later.options(eta=3600).delay(),
        "fail": fail.delay,
    }[path]()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(made)))])
    return [made.encode()]
"""

CONFIGURATION = """
[procman]
dashboard = "127.0.0.1:0"

[database]
url = "{url}"

[pools.http]
kind = "http"
app = "asking:application"
bind = "127.0.0.1:0"
workers = 2

[pools.jobrunner]
kind = "jobrunner"
channels = "root:4,root.one:1,root.later:2:throttle=5"
reserve = 0
"""


@pytest.fixture
def daemon(short_path, database_url):
    with Procmand(
        short_path, CONFIGURATION.format(url=database_url), modules={"asking.py": APPLICATION}
    ) as daemon:  # fmt: skip
        yield daemon


def enqueue(daemon, path):
    status, body = daemon.request("GET", path)
    assert status == 200
    return body.decode()


def jobs(daemon, *arguments, code=0):
    done = daemon.procmanctl("jobs", *arguments, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def reasons(daemon, uuid):
    return {one["for"]: one for one in jobs(daemon, "why", uuid)["waits_for"]}


def waits_for(daemon, uuid, *words):
    """Wait until the runner knows the job and says exactly this of it; the reasons."""
    return daemon.wait(lambda: found if set(found := reasons(daemon, uuid)) == set(words) else None, f"{words}")


def figures(daemon):
    return daemon.pool("jobrunner").get("jobs")


def is_running(daemon, uuid):
    """Wait until the job runs; the worker that it is in."""

    def worker():
        workers = daemon.pool("http")["workers"]
        return next((one["name"] for one in workers if (one["unit"] or "").endswith(f":wait {uuid}")), None)

    return daemon.wait(worker, "the job to run")


def test_a_job_that_waits_for_others(daemon):
    running = enqueue(daemon, "/wait/60")
    worker = is_running(daemon, running)
    found = jobs(daemon, "why", running)
    assert (found["waits_for"], found["says"].partition(" (")[0]) == ([], f"runs in {worker}")
    second, third = enqueue(daemon, "/wait/0"), enqueue(daemon, "/wait/0")
    full = waits_for(daemon, second, "full")["full"]
    assert (full["channel"], full["running"], full["capacity"]) == ("root.one", 1, 1)
    assert full["jobs"][0]["uuid"] == running
    assert f"asking:wait {running}, in http." in full["text"]
    turn = waits_for(daemon, third, "full", "turn")["turn"]
    assert (turn["ahead"], turn["ahead_in_all"]) == (1, 1)
    assert "1 job of its channel before it, 1 of all" in turn["text"]

    # Without a runner there is less to be said.
    daemon.ctl("stop", name="jobrunner", waiting=True)
    assert waits_for(daemon, second, "runner")["runner"]["text"] == "a job runner: the daemon has none"
    by_rows = jobs(daemon, "stats")
    assert by_rows["source"] == "rows"
    assert {one["name"]: one["waiting"] for one in by_rows["channels"]} == {"root": 2, "root.one": 2}
    assert "By the rows alone: " in daemon.procmanctl("jobs", "stats").stdout
    daemon.ctl("kill", name=worker)


def test_a_job_that_waits_for_its_time_and_its_channel(daemon):
    timed = enqueue(daemon, "/later")
    eta = waits_for(daemon, timed, "eta")["eta"]
    assert 3500 < eta["seconds"] <= 3600
    jobs(daemon, "pause", "root.later")
    assert waits_for(daemon, timed, "eta", "paused")["paused"]["channel"] == "root.later"
    text = daemon.procmanctl("jobs", "why", timed).stdout
    assert "in channel root.later of database t_" in text
    assert "  paused    channel root.later is paused" in text
    jobs(daemon, "resume", "root.later")
    waits_for(daemon, timed, "eta")

    # Anybody who may look may ask.
    answer = daemon.ctl("jobwhy", uuid=timed)["runners"]
    assert [one["worker"] for one in answer] == ["jobrunner.1"]
    assert answer[0]["answer"]["databases"][0]["state"] == "leads"
    assert daemon.ctl("jobwhy", uuid="nonsense")["runners"][0]["answer"] == {}
    unknown = "00000000-0000-4000-8000-000000000000"
    assert daemon.ctl("jobwhy", uuid=unknown)["runners"][0]["answer"] == {"databases": []}
    assert daemon.ctl("jobwhy", uuid=timed, database="other")["runners"][0]["answer"] == {"databases": []}


def test_what_goes_on_in_the_channels(daemon):
    failed, later = enqueue(daemon, "/fail"), enqueue(daemon, "/later")
    running = enqueue(daemon, "/wait/60")
    enqueue(daemon, "/wait/0")

    def settled():
        found = figures(daemon)
        known = {tuple(one[1:4]) for one in found["jobs"]} if found else set()
        wanted = {("root.one", "failed", 1), ("root.one", "running", 1), ("root.one", "pending", 1)}
        return found if wanted | {("root.later", "pending", 1)} <= known else None

    found = daemon.wait(settled, "the figures to say so")
    (database,) = found["databases"]
    assert found["databases"][database] == {"state": "leads", "leader": None, "problem": None}
    assert found["channels"]["root.one"]["capacity"] == 1
    assert found["channels"]["root"]["waiting"] == 2
    assert found["ended"] == {"root.one": {"failed": 1}}
    assert sum(found["times"]["root.one"]["waited"]["counts"]) == 1

    table = {one["name"]: one for one in jobs(daemon, "stats")["channels"]}
    assert (table["root.one"]["running"], table["root.one"]["waiting"], table["root.one"]["failed"]) == (1, 1, 1)
    assert (table["root"]["failed"], table["root.later"]["throttle"]) == (1, 5.0)
    assert table["root.later"]["oldest_pending"] is None  # it could not start if it were alone
    assert table["root"]["oldest_pending"] == table["root.one"]["oldest_pending"] is not None
    assert [one["name"] for one in jobs(daemon, "stats", "one")["channels"]] == ["root.one"]
    assert "root.one" in daemon.procmanctl("jobs", "stats").stdout

    status, body = daemon.request("GET", "/metrics", pool="dashboard")
    assert status == 200
    shown = body.decode().splitlines()
    place = f'pool="jobrunner",db="{database}",channel="root.one"'
    assert f'procman_jobs{{{place},state="failed"}} 1' in shown
    assert f'procman_jobs{{{place},state="running"}} 1' in shown
    assert f'procman_jobs_db_up{{pool="jobrunner",db="{database}"}} 1.0' in shown
    assert 'procman_jobs_channel_capacity{pool="jobrunner",channel="root.one"} 1.0' in shown
    assert 'procman_jobs_dispatch_seconds_count{pool="jobrunner",channel="root.one"} 1' in shown

    # What a killed worker leaves is counted, and comes back with the reason.
    daemon.ctl("kill", name=is_running(daemon, running))
    daemon.wait(lambda: (figures(daemon) or {}).get("rescued") == {database: 1}, "it to be counted")
    worker = is_running(daemon, running)
    again = jobs(daemon, "show", running)
    assert again["attempts"][0]["reason"] == "killed_by_user"
    assert "in wait" in again["attempts"][0]["exc_info"]
    daemon.ctl("kill", name=worker)
    assert {failed, later} <= {one["uuid"] for one in jobs(daemon, "list")["jobs"]}


def test_a_database_that_is_away_is_said_to_be(daemon, database_url, postgres_server):
    def of(name):
        """What was said of it last, which may have been before it was known, and be a second old."""
        found = (figures(daemon) or {"databases": {}})["databases"].get(name)
        return {"state": "", **found, "problem": found["problem"] or ""} if found else {"state": "", "problem": ""}

    uuid = enqueue(daemon, "/later")
    waits_for(daemon, uuid, "eta")
    name = psycopg2.extensions.parse_dsn(database_url)["dbname"]
    postgres_server.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false')
    postgres_server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    try:
        refused = "not currently accepting connections"
        missed = daemon.wait(lambda: found if refused in (found := of(name))["problem"] else None, "it to be missed")
        assert missed["state"] == "down"
        (answer,) = daemon.ctl("jobwhy", uuid=uuid)["runners"]
        assert answer["answer"]["databases"][0]["known"] is False
        assert refused in answer["answer"]["databases"][0]["problem"]
        found = jobs(daemon, "why", uuid)
        assert [one["for"] for one in found["waits_for"]] == ["database", "database"]
        assert "jobrunner.1 can't reach either: " in found["waits_for"][1]["text"]
        assert daemon.procmanctl("jobs", "why", uuid).stdout.startswith(f"Job {uuid}\nwaits for\n  database")
        assert "could not be asked" in daemon.procmanctl("jobs", "why", uuid[:8]).stderr
        assert f"can't reach database {name}" in daemon.procmanctl("jobs", "stats").stdout
        body = daemon.request("GET", "/metrics", pool="dashboard")[1].decode()
        assert f'procman_jobs_db_up{{pool="jobrunner",db="{name}"}} 0.0' in body
    finally:
        postgres_server.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS true')
    daemon.wait(lambda: of(name)["state"] == "leads", "it to be back")
