"""Six hundred jobs of an Odoo that each add one row, while its workers and the runner are killed at random instants.

In the end every job is done and there are as many rows as jobs: nothing was lost, nothing ran twice, nothing is stuck.
The instants are told by how many jobs are done; the seed is named by a failure, and PROCMAN_TEST_SEED takes it again.
"""

from __future__ import annotations

import os
import random
import secrets
import time

import psycopg2
import pytest

from procman.core.spec import JobQueue
from tests.support.jobrunner import JobRunner, Workers
from tests.support.oca import LAYOUTS, enqueue

JOBS = 600
DEATHS = 24
STANDSTILL = 90.0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("layout", ["16.0", "17.0", "18.0", "19.0"])
def test_all_are_killed(database_url, short_path, layout):
    seed = os.environ.get("PROCMAN_TEST_SEED") or secrets.token_hex(4)
    chance = random.Random(seed)
    connection = psycopg2.connect(database_url)
    connection.autocommit = True
    cr = connection.cursor()
    cr.execute(LAYOUTS[layout].ddl)
    cr.execute("CREATE TABLE effect (id serial PRIMARY KEY, value text)")
    for number in range(JOBS):
        enqueue(cr, "note", f'["{number}"]', max_retries=0)

    def states():
        cr.execute("SELECT state, count(*) FROM queue_job GROUP BY state")
        return dict(cr.fetchall())

    def wait_done(count):
        deadline = time.monotonic() + STANDSTILL
        while states().get("done", 0) < count:
            assert time.monotonic() < deadline, f"seed {seed}: {states()}\n{runner.log()[-4000:]}"
            time.sleep(0.02)

    workers = Workers(database_url, None, ("-m", "tests.support.odoo", layout))
    workers.start(4)
    options = {"target_url": f"http://127.0.0.1:{workers.address.port}", "queues": (JobQueue.QUEUE_JOB,)}
    runner = JobRunner(short_path, database_url, **options)
    try:
        for at in sorted(chance.sample(range(JOBS - 50), DEATHS)):
            wait_done(at)
            if chance.random() < 0.25:
                runner.close()
                runner = JobRunner(short_path, database_url, **options)
            else:
                workers.kill(chance.choice(workers.processes).pid)
                workers.start(1)
        wait_done(JOBS)
    finally:
        runner.close()
        workers.close()
    cr.execute("SELECT value::integer FROM effect ORDER BY 1")
    assert [number for (number,) in cr.fetchall()] == list(range(JOBS)), f"seed {seed}"
    connection.close()
