"""The runner in this process: several databases, lost notices, rows that change under its feet."""

from __future__ import annotations

import secrets
import threading
import time

import psycopg2
import pytest

from procman import signaling
from procman.core.channels import parse
from procman.core.spec import DatabaseSpec
from procman.jobs.dialect import Dead, Rescued, Span
from procman.jobs.exchange import Target
from procman.jobs.feed import Feed
from procman.jobs.runner import Runner
from procman.jobs.tables import Tables
from tests.support import jobs as functions
from tests.support.jobrunner import Workers


@pytest.fixture
def workers(jobs_url, short_path):
    workers = Workers(jobs_url, short_path / "http.sock")
    yield workers
    workers.close()


@pytest.fixture
def make_runner():
    made = []

    def make(*addresses, channels="root:4", sweep_every=60.0):
        made.append(Runner(parse(channels), Target(addresses), sweep_every=sweep_every))
        return made[-1]

    yield make
    for runner in made:
        runner.close()


@pytest.fixture
def other_database(jobs_url, postgres_server, database):
    """A second database, configured beside the main one."""
    name = f"t_{secrets.token_hex(6)}"
    postgres_server.execute(f'CREATE DATABASE "{name}"')
    connection = psycopg2.connect(postgres_server.url(name))
    with connection, connection.cursor() as cr:
        cr.execute(functions.SCHEMA)
    connection.close()
    signaling.configure(DatabaseSpec(url=jobs_url, databases=(name,)))
    yield name
    signaling.configure(None)
    postgres_server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def drive(runner, condition, seconds=30):
    """Let the runner work until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        runner.turn(most=0.02)


def test_a_notice_that_is_lost_is_made_up_for(workers, make_runner, truth):
    workers.start(1)
    runner = make_runner(workers.address, sweep_every=0.2)
    functions.note.delay("a")
    drive(runner, lambda: truth.states() == {"done": 1})
    truth("ALTER TABLE procman.job DISABLE TRIGGER ALL")
    functions.note.delay("b")
    drive(runner, lambda: truth.states() == {"done": 2})


def test_rows_that_change_without_a_notice_are_forgotten(make_runner, truth, database):
    runner = make_runner(sweep_every=0.1, channels="root:1:paused")
    uuids = functions.note.delay_many([("a",), ("b",)])
    drive(runner, lambda: runner.scheduler.figures()["root"].waiting == 2)
    truth("ALTER TABLE procman.job DISABLE TRIGGER ALL")
    truth("UPDATE procman.job SET state = 'cancelled' WHERE uuid = %s", uuids[0])
    truth("DELETE FROM procman.job WHERE uuid = %s", uuids[1])
    drive(runner, lambda: runner.scheduler.figures()["root"].waiting == 0)


def test_notices_of_people_are_followed(make_runner, truth, database):
    """Its channels are paused: nothing is asked but for notices."""
    runner = make_runner(channels="root:1:paused,other:1")

    def waiting():
        return {name: figures.waiting for name, figures in runner.scheduler.figures().items() if figures.waiting}

    uuid = functions.note.delay("a")
    drive(runner, lambda: waiting() == {"root": 1})
    truth("UPDATE procman.job SET channel = 'root.other'")
    drive(runner, lambda: waiting() == {"root": 1, "root.other": 1})
    truth("UPDATE procman.job SET state = 'failed'")
    drive(runner, lambda: waiting() == {})
    truth("UPDATE procman.job SET state = 'pending' WHERE uuid = %s", uuid)
    drive(runner, lambda: waiting() == {"root": 1, "root.other": 1})
    truth("DELETE FROM procman.job")
    drive(runner, lambda: waiting() == {})
    (job,) = [functions.note.delay("b")]
    drive(runner, lambda: waiting() == {"root": 1})
    truth("UPDATE procman.job SET state = 'done' WHERE uuid = %s", job)
    drive(runner, lambda: waiting() == {})


def test_a_job_without_incident_costs_one_notice(truth, database):
    listening = signaling.connect(database)
    try:
        listening.cursor().execute("LISTEN procman_job")
        with signaling.unit(database) as unit:
            functions.note.delay_many([("x",)] * 5)
            with unit.cursor() as cr:
                cr.execute("UPDATE procman.job SET state = 'enqueued'")
        truth("UPDATE procman.job SET state = 'started'")
        truth("UPDATE procman.job SET state = 'done' WHERE id % 2 = 0")
        truth("UPDATE procman.job SET state = 'failed' WHERE id % 2 = 1")
        truth("NOTIFY procman_job, 'the end'")
        payloads = []
        while "the end" not in payloads:
            listening.poll()
            payloads = [notice.payload for notice in listening.notifies]
        assert payloads == ["1 5", "the end"]
    finally:
        listening.close()


def test_two_databases_share_the_channels(workers, make_runner, truth, other_database, jobs_url, database):
    with signaling.unit(database):
        functions.note.delay_many([("here",)] * 20)
    with signaling.unit(other_database):
        functions.note.delay_many([("there",)] * 20)
    runner = make_runner(workers.address, channels="root:3")
    drive(runner, lambda: _running(database) + _running(other_database) == 3)
    assert runner.scheduler.figures()["root"].running == 3


def test_one_bad_database_is_no_matter_of_the_other(
    workers, make_runner, truth, other_database, database, postgres_server
):
    runner = make_runner(workers.address, channels="root:1")
    workers.start(1)
    functions.note.delay("a")
    drive(runner, lambda: truth.states() == {"done": 1})
    postgres_server.execute(f'ALTER DATABASE "{other_database}" ALLOW_CONNECTIONS false')
    postgres_server.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{other_database}'"
    )
    functions.note.delay("b")
    drive(runner, lambda: truth.states() == {"done": 2})
    postgres_server.execute(f'ALTER DATABASE "{other_database}" ALLOW_CONNECTIONS true')
    drive(runner, lambda: other_database in _connected(runner))


def _connected(runner):
    return {name for name, link in runner.links.items() if link.feed.connected}


def _running(name):
    with signaling.unit(name), signaling.cursor() as cr:
        cr.execute("SELECT count(*) FROM procman.job WHERE state = 'enqueued'")
        return cr.fetchone()[0]


# -- rescue ------------------------------------------------------------------------------------------------


@pytest.fixture
def feed(database):
    feed = Feed(database, Tables())
    feed.connect()
    yield feed
    feed.close()


def _started(truth, uuid):
    truth(
        "UPDATE procman.job SET state = 'started', date_started = now(), retry = retry + 1, worker = 'http.1', "
        "worker_pid = 7 WHERE uuid = %s",
        uuid,
    )
    row = truth.job(uuid)
    return Dead(row["id"], row["date_started"])


def test_rescue_returns_what_nobody_holds(feed, truth):
    uuid = functions.note.delay("a")
    attempt = _started(truth, uuid)
    assert feed.abandoned([attempt.key]) == {attempt.key: attempt.try_of}
    (rescued,) = feed.rescue([attempt])
    assert rescued == Rescued(attempt.key, uuid, "pending", 1, "http.1", 7)
    row = truth.job(uuid)
    assert (row["state"], row["worker"], row["date_started"], row["eta"]) == ("pending", None, None, None)
    assert (row["exc_name"], row["exc_message"]) == ("JobFoundDead", "Job found dead (worker http.1, pid 7)")


def test_rescue_leaves_alone_what_somebody_holds_or_has_begun_anew(feed, truth, database):
    uuid = functions.note.delay("a")
    attempt = _started(truth, uuid)
    with signaling.unit(database) as unit, unit.cursor() as cr:
        cr.execute("SELECT FROM procman.job WHERE uuid = %s FOR NO KEY UPDATE", (uuid,))
        assert feed.abandoned([attempt.key]) == {}
        assert feed.rescue([attempt]) == []
    _started(truth, uuid)
    assert feed.rescue([attempt]) == []
    assert truth.job(uuid)["state"] == "started"


def test_rescue_while_an_equal_job_waits(feed, truth):
    uuid = functions.note.options(identity_key="k").delay("a")
    attempt = _started(truth, uuid)
    functions.note.options(identity_key="k").delay("a")
    (rescued,) = feed.rescue([attempt])
    assert rescued.state == "cancelled"
    assert truth.states() == {"cancelled": 1, "pending": 1}


def test_rescue_while_an_equal_job_is_being_made(feed, truth, database):
    uuid = functions.note.options(identity_key="k").delay("a")
    attempt = _started(truth, uuid)
    unit = signaling.begin(database)
    functions.note.options(identity_key="k").delay("a")
    results = []
    thread = threading.Thread(target=lambda: results.append(feed.rescue([attempt])), daemon=True)
    thread.start()
    blocked = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while not truth(blocked):
        assert thread.is_alive()
    unit.commit()
    thread.join()
    assert results == [[]]
    assert [job.state for job in feed.rescue([attempt])] == ["cancelled"]


def test_what_failed_before_holds_up_a_channel_that_becomes_sequential(make_runner, truth):
    runner = make_runner(channels="root:4")
    uuid = functions.note.options(channel="strict").delay("a")
    truth("UPDATE procman.job SET state = 'failed' WHERE uuid = %s", uuid)
    functions.note.options(channel="strict").delay("b")
    drive(runner, lambda: runner.scheduler.figures()["root"].waiting == 1)
    runner.configure(parse("root:4,strict:1:sequential"))
    drive(runner, lambda: runner.scheduler.figures()["root.strict"].failed == 1)
    assert truth.states() == {"failed": 1, "pending": 1}
    runner.configure(parse("root:4"))
    assert runner.scheduler.figures()["root.strict"].failed == 0


def test_a_job_that_comes_alone_is_told_whole(truth, database):
    """As it would be read, so that it need not be."""
    told = Feed(database, Tables())
    told.connect()
    try:
        assert told.claim().until
        told.begin()
        while told.has_more:
            told.read((), None)
        for job in (functions.note.options(channel="root.a b", priority=-3), functions.note):
            job.delay("x")
        rows = []
        while len(rows) < 2:
            told.take_notices()
            rows += told.read((), None).rows
        for row in rows:
            (read,) = told.read_now([row.key]).rows
            assert row.job(database, 0.0) == read.job(database, 0.0)
        assert [row.channel for row in rows] == ["root.a b", "root"]
    finally:
        told.close()


def test_what_can_not_be_told_is_read(truth, database):
    feed = Feed(database, Tables())
    for payload, about in (
        ("3 3", 3),
        ("3 9", Span(3, 9)),
        ("3 3 10 1.5", 3),
        ("channels", None),
        ("", None),
        ("a b", None),
        ("1 x", None),
    ):
        assert feed.dialect.understand(payload) == about


def test_what_was_offered_by_nobody_is_offered_again(workers, make_runner, truth):
    """As by a runner that was stopped in the middle of offering, or by hand; there is no notice of it."""
    workers.start(1)
    runner = make_runner(workers.address, sweep_every=0.1)
    functions.note.delay("a")
    drive(runner, lambda: truth.states() == {"done": 1})
    truth("INSERT INTO procman.job (function, state) VALUES ('tests.support.jobs:note', 'enqueued')")
    truth(
        "INSERT INTO procman.job (function, state, date_enqueued) VALUES ('tests.support.jobs:note', 'enqueued', now())"
    )
    drive(runner, lambda: truth.states() == {"done": 3})
