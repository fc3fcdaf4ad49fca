"""An Odoo as the application of an http pool, and jobs of both queues in one database, in a real daemon."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from uuid import uuid4

import psycopg2
import psycopg2.extras
import pytest

from tests.support.daemon import Procmand
from tests.support.oca import LAYOUTS, enqueue

APPLICATION = """
import os
from urllib.parse import parse_qs
import procman
from tests.support.oca import LAYOUTS
from tests.support.odoo import METHODS, Worker, connecting

LAYOUT = LAYOUTS["{layout}"]
connect = connecting("{url}", LAYOUT)
worker = Worker(LAYOUT, METHODS)
connections = {{}}

@procman.job
def own(value):
    with procman.cursor() as cr:
        cr.execute("INSERT INTO effect (value) VALUES (%s)", (value,))

def application(environ, start_response):
    if environ["PATH_INFO"] != "/queue_job/runjob":
        start_response("200 OK", [])
        return [b"Odoo"]
    asked = parse_qs(environ["QUERY_STRING"])
    database = environ["HTTP_X_ODOO_DATABASE"]
    assert asked["db"] == [database]
    connection = connections.get(database) or connections.setdefault(database, connect(database))
    status = worker.run(connection, asked["job_uuid"][0])
    start_response(f"{{status}} x", [("Content-Length", "0")])
    return []
"""
POOLS = """
[database]
url = "{url}"
[pools.http]
kind = "http"
app = "app:application"
bind = "unix:http.sock"
workers = 2
[pools.jobs]
kind = "jobrunner"
channels = "root:4"
queues = ["procman", "queue_job"]
"""
ROOT = str(Path(__file__).parents[3])


@pytest.fixture(params=["14.0", "16.0", "18.0"])
def world(request, short_path, database_url):
    connection = psycopg2.connect(database_url)
    connection.autocommit = True
    cr = connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor)
    cr.execute(LAYOUTS[request.param].ddl)
    cr.execute("CREATE TABLE effect (id serial PRIMARY KEY, value text)")
    modules = {"app.py": APPLICATION.format(url=database_url, layout=request.param)}
    env = {"PYTHONPATH": ROOT}
    with Procmand(short_path, POOLS.format(url=database_url), modules=modules, env=env) as daemon:
        daemon.wait(lambda: daemon.log.count("this one starts its jobs") == 2, "the runner to lead in both queues")
        yield daemon, cr
    connection.close()


def states(cr, table):
    cr.execute(f"SELECT state, count(*) AS n FROM {table} GROUP BY state")
    return {row["state"]: row["n"] for row in cr.fetchall()}


def effects(cr):
    cr.execute("SELECT value FROM effect ORDER BY value")
    return [row["value"] for row in cr.fetchall()]


def test_both_queues_are_served_by_one_pool(world):
    daemon, cr = world
    for number in range(5):
        enqueue(cr, "note", f'["odoo {number}"]')
        cr.execute(
            "INSERT INTO procman.job (function, args) VALUES ('app:own', jsonb_build_array(%s))", (f"own {number}",)
        )
    daemon.wait(lambda: states(cr, "queue_job") == {"done": 5}, "Odoo's jobs")
    daemon.wait(lambda: states(cr, "procman.job") == {"done": 5}, "procman's jobs")
    assert effects(cr) == [f"{whose} {number}" for whose in ("odoo", "own") for number in range(5)]


def test_what_a_job_of_odoo_waits_for_is_known_to_the_runner(world):
    daemon, cr = world
    uuid = enqueue(cr, "note", '["later"]', eta=3600)
    daemon.wait(lambda: uuid in daemon.procmanctl("jobs", "why", uuid).stdout, "the runner to know it")
    assert "its time" in daemon.procmanctl("jobs", "why", uuid).stdout
    unknown = daemon.procmanctl("jobs", "why", str(uuid4()))
    assert unknown.returncode == 1
    assert "there is no job" in unknown.stderr


def test_the_job_of_a_worker_that_is_killed_runs_again(world):
    daemon, cr = world
    uuid = enqueue(cr, "wait_for", f'["{daemon.directory}/go"]')
    daemon.wait(lambda: list(daemon.directory.glob("go.*")), "the job to begin")
    (begun,) = daemon.directory.glob("go.*")
    os.kill(int(begun.suffix[1:]), signal.SIGKILL)
    daemon.wait(lambda: len(list(daemon.directory.glob("go.*"))) == 2, "the job to begin again")
    (daemon.directory / "go").touch()
    daemon.wait(lambda: states(cr, "queue_job") == {"done": 1}, "the job to be done")
    assert effects(cr) == ["waited"]
    cr.execute("SELECT retry FROM queue_job WHERE uuid = %s", (uuid,))
    assert cr.fetchone()["retry"] == 2
