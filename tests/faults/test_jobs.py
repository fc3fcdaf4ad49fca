"""Five thousand jobs that each add one row, while everything that has a part in them is killed at random instants.

Workers, the job runner, the arbiter and PostgreSQL: kill -9, alone or two at a time. In the end every job is done,
there are as many rows as jobs, nothing is stuck and nobody has had to put anything right. Which victim comes when is
drawn from a seed, which a failure names; ``PROCMAN_TEST_SEED`` takes it again. When is told by how many jobs are done,
so that all of it happens in the middle of the work, however fast the machine is.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import time
from contextlib import suppress

import psycopg2
import pytest

from procman import config
from procman.errors import ProcmanError
from tests.support.daemon import PATIENCE, Procmand, processes_in, wait_until

JOBS = 5000
# A job is tried again for each of its workers that dies, and fails after its `retries`: that is another promise.
FAULTS = ("worker",) * 5 + ("runner",) * 3 + ("postgres",) * 2 + ("arbiter",) * 2
STANDSTILL = 90.0  # seconds without one more job done, after which it is stuck

APPLICATION = """
import procman

@procman.job(retries=20)
def add(number):
    with procman.cursor() as cr:
        cr.execute("INSERT INTO effect (number) VALUES (%s)", (number,))

def application(environ, start_response):
    start_response("200 OK", [])
    return []
"""

CONFIGURATION = """
[database]
url = "embedded"

[pools.http]
kind = "http"
app = "app:application"
bind = "127.0.0.1:0"
workers = 2
BACKOFF

[pools.jobrunner]
kind = "jobrunner"
workers = 2
channels = "root:4"
capacity = 4
BACKOFF
""".replace("BACKOFF", 'backoff = { first = "100ms", most = "200ms" }\nmax_restarts = 1000')


class Table:
    """What the database says, when it can be asked."""

    def __init__(self, daemon):
        self._url = config.read(str(daemon.file), os.environ).database.url
        self._connection = None

    def ask(self, statement, *parameters):
        """The rows; None while there is no server."""
        try:
            if self._connection is None:
                self._connection = psycopg2.connect(self._url)
                self._connection.autocommit = True
            with self._connection.cursor() as cr:
                cr.execute(statement, parameters or None)
                return cr.fetchall() if cr.description else []
        except psycopg2.OperationalError:
            self.close()
            return None

    def must(self, statement, *parameters):
        answers = []

        def answered():
            answers.append(self.ask(statement, *parameters))
            return answers[-1] is not None

        wait_until(answered, "the database")
        return answers[-1]

    def done(self):
        rows = self.ask("SELECT count(*) FROM effect")
        return rows[0][0] if rows else None

    def close(self):
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Chaos:
    def __init__(self, daemon, seed):
        self.daemon = daemon
        self.random = random.Random(seed)
        self.done = []

    def plan(self):
        """How many jobs are to be done before which victims die: some of them two at a time."""
        faults = list(FAULTS)
        self.random.shuffle(faults)
        while faults:
            size = self.random.choice((1, 1, 2))
            together, faults = faults[:size], faults[size:]
            yield self.random.randrange(JOBS // 50, JOBS - JOBS // 20), together

    def strike(self, victims):
        for victim in victims:
            time.sleep(self.random.uniform(0, 0.05))
            getattr(self, f"_kill_{victim}")()
            self.done.append(victim)

    def _kill_worker(self):
        self._kill("http")

    def _kill_runner(self):
        self._kill("jobrunner")

    def _kill_postgres(self):
        self._kill("postgres")

    def _kill_arbiter(self):
        self.daemon.kill()
        self.daemon.start()

    def _kill(self, pool):
        def pids():
            with suppress(ProcmanError, LookupError):
                return [w["pid"] for w in self.daemon.ctl("status", timeout=5)["pools"][pool]["workers"] if w["pid"]]
            return []

        pid = self.random.choice(sorted(wait_until(pids, f"a worker of {pool}")))
        if pid in processes_in(self.daemon.directory):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def work(daemon, table, seed):
    chaos = Chaos(daemon, seed)
    plan = sorted(chaos.plan())
    done, changed = 0, time.monotonic()
    while done < JOBS:
        now = table.done()
        if now is not None and now > done:
            done, changed = now, time.monotonic()
        story = f"seed {seed}, {done} jobs done, killed {chaos.done}"
        assert time.monotonic() - changed < STANDSTILL, f"stuck: {story}\n{daemon.log[-20_000:]}"
        if plan and now is not None and now >= plan[0][0]:
            chaos.strike(plan.pop(0)[1])
        time.sleep(0.03)
    assert plan == []
    return f"seed {seed}, killed {chaos.done}"


@pytest.mark.timeout(600)
def test_every_job_is_done_once_whoever_is_killed(short_path):
    seed = int(os.environ.get("PROCMAN_TEST_SEED") or secrets.randbelow(2**32))
    with Procmand(short_path, CONFIGURATION, modules={"app.py": APPLICATION}) as daemon:
        table = Table(daemon)
        wait_until(lambda: table.must("SELECT to_regclass('procman.job_leader')")[0][0], "procman's tables")
        table.must("CREATE TABLE effect (number integer)")
        table.must(
            # In blocks: alone, and with others in one transaction, so that either meets with all that is killed.
            "INSERT INTO procman.job (function, args, max_retries, batch) "
            "SELECT 'app:add', jsonb_build_array(n), 20, CASE WHEN n / 250 %% 3 > 0 THEN 20 END "
            "FROM generate_series(1, %s) AS n",
            JOBS,
        )
        story = work(daemon, table, seed)
        states = "SELECT state, count(*) FROM procman.job GROUP BY state"
        wait_until(lambda: table.ask(states) == [("done", JOBS)], f"all to be done: {story}", PATIENCE)
        rows = table.must("SELECT count(*), count(DISTINCT number), min(number), max(number) FROM effect")
        assert rows == [(JOBS, JOBS, 1, JOBS)], story
        table.close()
        daemon.wait(lambda: daemon.ctl("status")["pools"]["http"]["ready"] == 2, "everybody to be there again")
