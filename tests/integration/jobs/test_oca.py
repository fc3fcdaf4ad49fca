"""The queue of an Odoo with OCA's queue_job, in each of its layouts, with workers that keep to its protocol."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
import time

import psycopg2
import psycopg2.extras
import pytest

from procman import signaling
from procman.core.channels import parse
from procman.core.spec import DatabaseSpec, JobQueue
from procman.db.connection import database_name
from procman.jobs import link, tries
from procman.jobs.dialect import Dead
from procman.jobs.exchange import Target
from procman.jobs.oca.dialect import QueueJob
from procman.jobs.runner import Runner
from tests.support import jobs as functions
from tests.support.jobrunner import Workers
from tests.support.oca import ADVISORY_LOCK, LAYOUTS, enqueue
from tests.support.odoo import METHODS, Worker, connecting, serve

EVERY = [pytest.param(layout, id=layout.name) for layout in LAYOUTS.values()]
LOCKING = [pytest.param(layout, id=layout.name) for layout in LAYOUTS.values() if layout.lock_table]
PROVABLE = [pytest.param(layout, id=layout.name) for layout in LAYOUTS.values() if layout.lock_table or layout.named]
HOPELESS = [pytest.param(layout, id=layout.name) for layout in LAYOUTS.values() if not layout.lock_table]
NAMELESS = [pytest.param(layout, id=layout.name) for layout in LAYOUTS.values() if not layout.named]


class Odoo:
    """A database, its workers, and the runner."""

    def __init__(self, url, directory):
        self.url, self.directory = url, directory
        self.database = database_name(url)
        self.layout = LAYOUTS["18.0"]
        self.connection = psycopg2.connect(url)
        self.connection.autocommit = True
        self("CREATE TABLE effect (id serial PRIMARY KEY, value text, pid int)")
        self._closed = [self.connection]
        signaling.configure(DatabaseSpec(url=url))

    def install(self, layout):
        self.layout = layout
        self(layout.ddl)

    def __call__(self, statement, *parameters):
        """The rows, as dictionaries."""
        with self.connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cr:
            cr.execute(statement, parameters or None)
            return cr.fetchall() if cr.description else []

    def enqueue(self, method, args="[]", **options):
        with self.connection.cursor() as cr:
            return enqueue(cr, method, args, **options)

    def job(self, uuid):
        (row,) = self("SELECT * FROM queue_job WHERE uuid = %s", uuid)
        return row

    def states(self):
        return {row["state"]: row["n"] for row in self("SELECT state, count(*) AS n FROM queue_job GROUP BY state")}

    def effects(self):
        return [row["value"] for row in self("SELECT value FROM effect ORDER BY id")]

    def workers(self, count=1, path=None):
        program = ("-m", "tests.support.odoo", self.layout.name)
        workers = Workers(self.url, self.directory / path if path else None, program)
        self._closed.append(workers)
        workers.start(count)
        return workers

    def runner(self, target=None, channels="root:4", queues=(JobQueue.QUEUE_JOB,), sweep_every=60.0):
        runner = Runner(parse(channels), target or Target(()), queues=queues, sweep_every=sweep_every)
        self._closed.append(runner)
        return runner

    def served(self, count=1, **options):
        """Workers at a URL, and a runner that asks them."""
        workers = self.workers(count)
        return workers, self.runner(Target(url=f"http://127.0.0.1:{workers.address.port}"), **options)

    def is_known_to(self, runner):
        """It has read all there is."""
        link = runner.links.get(self.database)
        return link is not None and link.feed.swept

    def close(self):
        for each in reversed(self._closed):
            each.close()
        signaling.configure(None)


@pytest.fixture
def odoo(database_url, short_path):
    odoo = Odoo(database_url, short_path)
    yield odoo
    odoo.close()


def drive(runner, condition, seconds=30):
    """Let the runner work until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        runner.turn(most=0.02)


def drive_for(runner, seconds):
    until = time.monotonic() + seconds
    drive(runner, lambda: time.monotonic() > until)


# -- what goes well ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", EVERY)
def test_jobs_run_in_their_order(odoo, layout):
    odoo.install(layout)
    late = odoo.enqueue("note", '["c"]', priority=20)
    for value in ("a", "b"):
        odoo.enqueue("note", f'["{value}"]')
    odoo.enqueue("note", '["first"]', priority=1)
    odoo.enqueue("fail", '["x"]', priority=30)
    _, runner = odoo.served(channels="root:1")
    drive(runner, lambda: odoo.states() == {"done": 4, "failed": 1})
    assert odoo.effects() == ["first", "a", "b", "c"]
    row = odoo.job(late)
    assert (row["result"], row["retry"]) == ("noted c", 1)
    assert row["date_created"] <= row["date_enqueued"] <= row["date_started"] <= row["date_done"]


@pytest.mark.parametrize("layout", EVERY)
def test_jobs_that_come_while_it_runs(odoo, layout):
    odoo.install(layout)
    _, runner = odoo.served(2)
    drive(runner, lambda: odoo.is_known_to(runner))
    for number in range(50):
        odoo.enqueue("note", f'["{number}"]')
    drive(runner, lambda: odoo.states() == {"done": 50})
    assert sorted(odoo.effects(), key=int) == [str(number) for number in range(50)]


def test_it_leaves_the_database_as_it_is(odoo):
    odoo.install(LAYOUTS["16.0"])
    odoo.enqueue("note", '["a"]')
    _, runner = odoo.served()
    drive(runner, lambda: odoo.states() == {"done": 1})
    assert odoo("SELECT FROM pg_namespace WHERE nspname = 'procman'") == []


def test_rows_as_people_make_them(odoo):
    odoo.install(LAYOUTS["18.0"])
    odoo.enqueue("note", '["no priority"]', priority=None)
    odoo.enqueue("note", '["no channel"]', channel=None, max_retries=None)
    odoo.enqueue("note", '["empty channel"]', channel="")
    odoo.enqueue("note", '["no date"]')
    odoo.enqueue("note", '["long ago"]')
    never = odoo.enqueue("note", '["never"]')
    odoo("UPDATE queue_job SET date_created = NULL WHERE args = '[\"no date\"]'")
    odoo("UPDATE queue_job SET eta = '-infinity' WHERE args = '[\"long ago\"]'")
    odoo("UPDATE queue_job SET eta = 'infinity' WHERE uuid = %s", never)
    _, runner = odoo.served()
    drive(runner, lambda: odoo.states() == {"done": 5, "pending": 1})
    odoo("UPDATE queue_job SET eta = NULL WHERE uuid = %s", never)
    drive(runner, lambda: odoo.states() == {"done": 6})


def test_the_time_of_a_job_is_in_utc(odoo):
    odoo.install(LAYOUTS["17.0"])
    odoo(f"ALTER DATABASE {odoo.database} SET timezone = 'Asia/Tokyo'")
    uuid = odoo.enqueue("note", '["a"]', eta=1.0)
    _, runner = odoo.served()
    drive(runner, lambda: odoo.states() == {"done": 1})
    row = odoo.job(uuid)
    assert 0 <= (row["date_started"] - row["eta"]).total_seconds() < 10


def test_a_retry_is_odoos_affair(odoo):
    odoo.install(LAYOUTS["18.0"])
    uuid = odoo.enqueue("again", "[0.1]", max_retries=3)
    _, runner = odoo.served()
    drive(runner, lambda: odoo.states() == {"failed": 1})
    assert odoo.job(uuid)["retry"] == 3


def test_a_job_that_is_cancelled_in_the_moment_of_its_choice(odoo):
    """The row decides: queue_job's own runner would run it."""
    odoo.install(LAYOUTS["18.0"])
    runner = odoo.runner(channels="root:1")
    drive(runner, lambda: odoo.is_known_to(runner))
    odoo("ALTER TABLE queue_job DISABLE TRIGGER queue_job_notify")
    odoo("UPDATE queue_job SET state = 'cancelled' WHERE uuid = %s", odoo.enqueue("note", '["a"]'))
    feed = runner.links[odoo.database].feed
    (row,) = feed.read_now([odoo("SELECT id FROM queue_job")[0]["id"]]).rows
    runner.scheduler.put(row._replace(state="pending").job(odoo.database, 0.0))
    drive_for(runner, 0.3)
    assert odoo.states() == {"cancelled": 1}
    assert runner.scheduler.figures()["root"].running == 0


def test_a_transaction_that_has_changed_a_job_holds_up_that_one_only(odoo):
    odoo.install(LAYOUTS["18.0"])
    uuid = odoo.enqueue("note", '["changed"]', priority=1)
    odoo.enqueue("note", '["other"]')
    with psycopg2.connect(odoo.url) as connection, connection.cursor() as cr:
        cr.execute("UPDATE queue_job SET priority = 2 WHERE uuid = %s", (uuid,))
        _, runner = odoo.served(channels="root:1")
        drive(runner, lambda: odoo.effects() == ["other"])
        connection.commit()
        drive(runner, lambda: odoo.effects() == ["other", "changed"])
    connection.close()


# -- what is asked -----------------------------------------------------------------------------------------


@pytest.fixture
def serve_here(odoo):
    """A worker in this process; the list is of the requests."""
    listeners = []

    def start(wrap=lambda listener: listener):
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        listeners.append(wrap(listener))
        heads = []
        worker = Worker(odoo.layout, METHODS)
        arguments = (listeners[-1], connecting(odoo.url, odoo.layout), worker, heads.append)
        threading.Thread(target=_serve_until_closed, args=arguments, daemon=True).start()
        return port, heads

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _serve_until_closed(listener, *arguments):
    while listener.fileno() >= 0:
        try:
            serve(listener, *arguments)
        except OSError:
            pass  # a client that doesn't like the certificate, or the end


def test_the_request(odoo, serve_here):
    odoo.install(LAYOUTS["19.0"])
    uuid = odoo.enqueue("note", '["a"]')
    port, heads = serve_here()
    runner = odoo.runner(Target(url=f"http://jobs%40us:p%3a%25@127.0.0.1:{port}"))
    drive(runner, lambda: odoo.states() == {"done": 1})
    line, *fields = heads[0].decode().split("\r\n")
    assert line == f"GET /queue_job/runjob?db={odoo.database}&job_uuid={uuid} HTTP/1.1"
    assert f"X-Odoo-Database: {odoo.database}" in fields
    assert "Authorization: Basic am9ic0B1czpwOiU=" in fields  # jobs@us:p:%
    assert f"Host: 127.0.0.1:{port}" in fields


def test_over_https(odoo, serve_here, monkeypatch, tmp_path):
    import trustme

    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    odoo.install(LAYOUTS["18.0"])
    port, heads = serve_here(lambda listener: context.wrap_socket(listener, server_side=True))
    url = f"https://127.0.0.1:{port}"

    uuids = [odoo.enqueue("note", f'["{number}"]') for number in range(5)]
    runner = odoo.runner(Target(url=url))
    drive(runner, lambda: runner.target.closed_until > 0)
    assert set(odoo.states()) <= {"pending", "enqueued"}, "whoever can't be trusted is not asked"
    runner.leave()
    runner.close()

    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    runner = odoo.runner(Target(url=url))
    drive(runner, lambda: odoo.states() == {"done": 5})
    assert {uuid for uuid in uuids if any(uuid.encode() in head for head in heads)} == set(uuids)


# -- workers that die --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", PROVABLE)
def test_the_job_of_a_dead_worker_runs_again(odoo, layout):
    odoo.install(layout)
    file = odoo.directory / "go"
    uuid = odoo.enqueue("wait_for", f'["{file}"]')
    workers, runner = odoo.served(2)
    drive(runner, lambda: list(odoo.directory.glob("go.*")))
    (begun,) = odoo.directory.glob("go.*")
    drive(runner, lambda: odoo.job(uuid)["state"] == "started")
    drive_for(runner, 0.2)  # so that the notice has been read
    workers.kill(int(begun.suffix[1:]))
    drive(runner, lambda: len(list(odoo.directory.glob("go.*"))) == 2)
    file.touch()
    drive(runner, lambda: odoo.states() == {"done": 1})
    assert odoo.effects() == ["waited"]
    assert odoo.job(uuid)["retry"] == 2


@pytest.mark.parametrize("layout", LOCKING)
def test_a_job_that_kills_its_workers_fails_in_the_end(odoo, layout):
    odoo.install(layout)
    uuid = odoo.enqueue("die_unless", f'["{odoo.directory}/never"]', max_retries=2)
    _, runner = odoo.served(4, channels="root:1")
    drive(runner, lambda: odoo.job(uuid)["state"] == "failed", seconds=60)
    row = odoo.job(uuid)
    assert (row["exc_name"], row["retry"]) == ("JobFoundDead", 3)
    assert row["exc_message"].startswith("Job found dead after too many retries (worker ")


@pytest.mark.parametrize("layout", LOCKING)
def test_as_often_as_it_takes(odoo, layout):
    odoo.install(layout)
    uuid = odoo.enqueue("die_unless", f'["{odoo.directory}/never"]', max_retries=0)
    odoo("UPDATE queue_job SET retry = 50")
    workers, runner = odoo.served(1, channels="root:1")
    drive(runner, lambda: odoo.job(uuid)["retry"] == 51)
    (odoo.directory / "never").touch()
    workers.start(1)
    drive(runner, lambda: odoo.states() == {"done": 1})


@pytest.mark.parametrize("layout", HOPELESS)
def test_without_a_proof_it_is_left_alone(odoo, layout):
    """Its worker has never been seen, so that nobody can know that it is gone."""
    odoo.install(layout)
    uuid = odoo.enqueue("note", '["a"]', state="started")
    odoo("UPDATE queue_job SET worker_pid = 4000000, date_started = '2020-01-01', date_enqueued = '2020-01-01'")
    _, runner = odoo.served()
    drive(runner, lambda: odoo.is_known_to(runner))
    drive_for(runner, tries.SECOND_LOOK + 1.5)
    assert odoo.job(uuid)["state"] == "started"


@pytest.mark.parametrize("layout", NAMELESS)
def test_the_death_of_one_of_our_own_is_a_proof(odoo, layout):
    odoo.install(layout)
    uuid = odoo.enqueue("die_unless", f'["{odoo.directory}/never"]')
    workers = odoo.workers(1, path="http.sock")
    runner = odoo.runner(Target((workers.address,)))
    pid = workers.processes[0].pid
    drive(runner, lambda: odoo.job(uuid)["state"] == "started")
    workers.processes[0].wait(30)
    drive_for(runner, 0.5)
    assert odoo.job(uuid)["state"] == "started", "its session is gone, but who knows which it was"
    runner.worker_ended(pid, "crashed")
    (odoo.directory / "never").touch()
    workers.start(1)
    drive(runner, lambda: odoo.states() == {"done": 1})
    assert odoo.job(uuid)["retry"] == 2


@pytest.mark.parametrize("layout", EVERY)
def test_what_a_runner_that_is_no_more_has_left(odoo, layout):
    odoo.install(layout)
    for number in range(3):
        odoo.enqueue("note", f'["{number}"]', state="enqueued")
    odoo("UPDATE queue_job SET date_enqueued = date_trunc('second', date_created)")
    odoo("UPDATE queue_job SET date_enqueued = NULL WHERE id = 1")
    _, runner = odoo.served()
    drive(runner, lambda: odoo.states() == {"done": 3})
    assert sorted(odoo.effects()) == ["0", "1", "2"]


@pytest.mark.parametrize("layout", LOCKING)
def test_jobs_that_run_when_it_starts(odoo, layout):
    odoo.install(layout)
    file = odoo.directory / "go"
    odoo.enqueue("wait_for", f'["{file}"]')
    workers, runner = odoo.served(1)
    drive(runner, lambda: list(odoo.directory.glob("go.*")))
    runner.close()
    runner = odoo.runner(Target(url=f"http://127.0.0.1:{workers.address.port}"), channels="root:1")
    odoo.enqueue("note", '["after"]')
    drive_for(runner, tries.SECOND_LOOK + 1)
    assert odoo.states() == {"started": 1, "pending": 1}, "it takes room, and is not taken for dead"
    file.touch()
    drive(runner, lambda: odoo.states() == {"done": 2})
    assert odoo.effects() == ["waited", "after"]


@pytest.fixture
def dialect(odoo):
    """With a connection of its own."""
    odoo.install(LAYOUTS["18.0"])
    dialect = QueueJob()
    connection = dialect.connect(odoo.database, listen=False)
    with connection.cursor() as cr:
        yield dialect, cr
    connection.close()


@pytest.fixture
def late(odoo, dialect):
    """A worker that has started a job, and not yet locked it."""
    uuid = odoo.enqueue("note", '["a"]', state="enqueued")
    connection = psycopg2.connect(odoo.url)
    with connection.cursor() as cr:
        worker = Worker(odoo.layout, METHODS)
        worker._start(cr, uuid)
        connection.commit()
        yield odoo.job(uuid)["id"], lambda: worker._hold(cr, uuid), connection
    connection.close()


def test_to_look_at_a_lock_does_not_keep_a_worker_from_it(dialect, late):
    dialect, cr = dialect
    key, hold, connection = late
    cr.connection.autocommit = False
    assert list(dialect.abandoned(cr, [key])) == [key]
    assert hold()
    cr.connection.rollback()
    assert dialect.abandoned(cr, [key]) == {}
    connection.rollback()
    assert list(dialect.abandoned(cr, [key])) == [key]


def test_nobody_is_declared_dead_who_has_locked_its_job_in_the_last_moment(odoo, dialect, late):
    dialect, cr = dialect
    key, hold, _ = late
    abandoned = dialect.abandoned(cr, [key])
    assert hold()
    assert dialect.rescue(cr, [Dead(key, abandoned[key])]) == []
    assert odoo.job(odoo("SELECT uuid FROM queue_job")[0]["uuid"])["state"] == "started"


def test_who_has_been_declared_dead_does_not_get_the_lock(odoo, dialect, late):
    dialect, cr = dialect
    key, hold, _ = late
    abandoned = dialect.abandoned(cr, [key])
    (rescued,) = dialect.rescue(cr, [Dead(key, abandoned[key], "killed", "its stacks\0")])
    assert (rescued.key, rescued.state, rescued.retry, rescued.worker_pid) == (key, "pending", 1, os.getpid())
    assert not hold()
    row = odoo.job(odoo("SELECT uuid FROM queue_job")[0]["uuid"])
    assert row["exc_info"] == f"Job found dead (worker {os.getpid()}): killed\nits stacks?"
    assert (row["date_enqueued"], row["date_started"], row["worker_pid"]) == (None, None, None)


def test_a_rescue_is_of_one_try(odoo, dialect, late):
    dialect, cr = dialect
    key, _, _ = late
    abandoned = dialect.abandoned(cr, [key])
    odoo("UPDATE queue_job SET date_started = date_started + interval '1 s'")
    assert dialect.rescue(cr, [Dead(key, abandoned[key])]) == []


# -- who starts the jobs -----------------------------------------------------------------------------------


def test_one_runner_at_a_time_of_whichever_kind(odoo, caplog):
    caplog.set_level(logging.INFO)
    odoo.install(LAYOUTS["16.0"])
    odoos_own = psycopg2.connect(odoo.url, application_name="odoo-77")
    odoos_own.autocommit = True
    with odoos_own.cursor() as cr:
        cr.execute("SELECT pg_try_advisory_lock(%s)", (ADVISORY_LOCK,))
        _, runner = odoo.served()
        odoo.enqueue("note", '["a"]')
        drive_for(runner, 1.5)
        assert odoo.states() == {"pending": 1}
        assert "odoo-77 on the database's host starts its jobs" in caplog.text
        odoos_own.close()
        began = time.monotonic()
        drive(runner, lambda: odoo.states() == {"done": 1})
        assert time.monotonic() - began < 5
    with psycopg2.connect(odoo.url) as connection, connection.cursor() as cr:
        cr.execute("SELECT pg_try_advisory_lock(%s)", (ADVISORY_LOCK,))
        assert cr.fetchone() == (False,)
        runner.leave()
        cr.execute("SELECT pg_try_advisory_lock(%s)", (ADVISORY_LOCK,))
        assert cr.fetchone() == (True,)
    connection.close()


def test_a_session_that_is_lost_is_taken_up_again(odoo):
    odoo.install(LAYOUTS["17.0"])
    _, runner = odoo.served()
    drive(runner, lambda: odoo.is_known_to(runner))
    odoo("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'procman'")
    odoo.enqueue("note", '["a"]')
    drive(runner, lambda: odoo.states() == {"done": 1})


def test_a_rival_that_takes_no_lock_is_told_of(odoo, caplog):
    odoo.install(LAYOUTS["14.0"])
    _, runner = odoo.served()
    drive(runner, lambda: odoo.is_known_to(runner))
    odoo.enqueue("note", '["a"]')
    drive(runner, lambda: odoo.states() == {"done": 1})
    assert "somebody else" not in caplog.text
    uuid = odoo.enqueue("note", '["b"]', state="wait_dependencies")
    odoo("UPDATE queue_job SET state = 'enqueued', date_enqueued = date_trunc('second', now()) WHERE uuid = %s", uuid)
    drive(runner, lambda: "ODOO_QUEUE_JOB_CHANNELS=root:0" in caplog.text)


# -- what there is, and what comes -------------------------------------------------------------------------


def test_a_module_that_is_installed_later(odoo, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(link, "ABSENT_FOR", 0.1)
    runner = odoo.runner()
    drive_for(runner, 0.3)
    assert caplog.text.count("no Odoo with queue_job is installed") == 1
    odoo.install(LAYOUTS["16.0"])
    odoo("UPDATE ir_module_module SET state = 'to install' WHERE name = 'queue_job'")
    drive_for(runner, 0.3)
    assert not runner.links[odoo.database].feed.swept
    odoo("UPDATE ir_module_module SET state = 'installed' WHERE name = 'queue_job'")
    odoo.enqueue("note", '["a"]')
    drive(runner, lambda: runner.scheduler.figures()["root"].waiting + runner.scheduler.figures()["root"].running == 1)


def test_a_module_that_is_removed(odoo, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(link, "ABSENT_FOR", 0.1)
    odoo.install(LAYOUTS["16.0"])
    odoo.enqueue("note", '["a"]', eta=3600)
    runner = odoo.runner(sweep_every=0.1)
    drive(runner, lambda: runner.scheduler.figures()["root"].waiting == 1)
    odoo("UPDATE ir_module_module SET state = 'uninstalled' WHERE name = 'queue_job'; DROP TABLE queue_job CASCADE")
    drive(runner, lambda: "no Odoo with queue_job is installed" in caplog.text)
    assert runner.scheduler.figures()["root"].waiting == 0


def test_a_module_that_is_updated(odoo, caplog):
    """From a version without locks to one with locks, while it is at work."""
    caplog.set_level(logging.INFO)
    odoo.install(LAYOUTS["18.0.1"])
    _, runner = odoo.served(sweep_every=0.1)
    drive(runner, lambda: odoo.is_known_to(runner))
    assert "queue_job 18.0.1.0.0, which has no locks" in caplog.text
    odoo(LAYOUTS["18.0"].ddl.removeprefix(LAYOUTS["18.0.1"].ddl.rpartition("UPDATE")[0]))
    drive(runner, lambda: "queue_job 18.0.4.1.2, jobs of dead workers are known by their locks" in caplog.text)
    odoo.enqueue("note", '["a"]')
    drive(runner, lambda: odoo.states() == {"done": 1})


def test_a_trigger_that_is_missing(odoo, caplog):
    odoo.install(LAYOUTS["15.0"])
    odoo("DROP TRIGGER queue_job_notify ON queue_job")
    _, runner = odoo.served(sweep_every=0.1)
    drive(runner, lambda: odoo.is_known_to(runner))
    assert f"update the module: odoo-bin -d {odoo.database} -u queue_job" in caplog.text
    odoo.enqueue("note", '["a"]')
    drive(runner, lambda: odoo.states() == {"done": 1})


def test_a_channel_that_is_paused_in_odoo(odoo):
    odoo.install(LAYOUTS["18.0"])
    odoo("INSERT INTO queue_job_channel (name, complete_name, parent_id, paused) VALUES ('slow', 'root.slow', 1, true)")
    _, runner = odoo.served()
    odoo.enqueue("note", '["slow"]', channel="root.slow.own")
    odoo.enqueue("note", '["fast"]')
    drive(runner, lambda: odoo.states() == {"done": 1, "pending": 1})
    drive_for(runner, 0.2)
    assert odoo.effects() == ["fast"]
    odoo("UPDATE queue_job_channel SET paused = NULL; NOTIFY queue_job, 'reload'")
    drive(runner, lambda: odoo.states() == {"done": 2})


def test_children_whose_parents_worker_died_between_the_two(odoo):
    odoo.install(LAYOUTS["17.0"])
    parent, other = odoo.enqueue("note", '["a"]', state="done"), odoo.enqueue("note", '["b"]', state="failed")
    child, waits = (odoo.enqueue("note", f'["{name}"]', state="wait_dependencies") for name in ("child", "waits"))
    for uuid, parents in ((child, [parent]), (waits, [parent, other])):
        depends = psycopg2.extras.Json({"depends_on": parents, "reverse_depends_on": []})
        odoo("UPDATE queue_job SET dependencies = %s::text WHERE uuid = %s", depends, uuid)
    odoo("UPDATE queue_job SET date_done = now() AT TIME ZONE 'UTC' WHERE uuid = %s", parent)
    _, runner = odoo.served(sweep_every=0.1)
    drive_for(runner, 0.5)
    assert odoo.job(child)["state"] == "wait_dependencies", "its parent's worker may be about to do it"
    odoo("UPDATE queue_job SET date_done = date_done - interval '1 minute' WHERE uuid = %s", parent)
    drive(runner, lambda: odoo.job(child)["state"] == "done")
    assert odoo.job(waits)["state"] == "wait_dependencies"


def test_both_queues_of_one_database(odoo):
    """The workers run each its own jobs: here, nobody is asked for those of procman."""
    odoo.install(LAYOUTS["18.0"])
    runner = odoo.runner(queues=(JobQueue.PROCMAN, JobQueue.QUEUE_JOB), channels="root:1:paused")
    drive(runner, lambda: len(runner.links) == 2 and all(each.feed.swept for each in runner.links.values()))
    odoo.enqueue("note", '["a"]')
    functions.note.delay("b")
    drive(runner, lambda: runner.scheduler.figures()["root"].waiting == 2)
    assert set(runner.links) == {odoo.database, f"{odoo.database} (queue_job)"}
