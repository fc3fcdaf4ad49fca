"""Databases that come, go, are cloned, break or hang while the runner serves the others."""

from __future__ import annotations

import secrets
import time

import psycopg2
import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from procman import signaling
from procman.core.channels import parse
from procman.core.spec import DatabaseSpec
from procman.errors import NoDatabase
from procman.jobs import feed, link
from procman.jobs.exchange import Target
from procman.jobs.runner import Runner
from tests.support import jobs as functions
from tests.support.cable import Cable
from tests.support.jobrunner import Workers


class Databases:
    """Databases beside the main one, whose names have a beginning in common."""

    def __init__(self, server):
        self.server = server
        self.prefix = f"t_{secrets.token_hex(4)}_"
        self.made = []

    def create(self, name, template=None):
        full = self.prefix + name
        self.server.execute(f'CREATE DATABASE "{full}"' + (f' TEMPLATE "{self.prefix}{template}"' if template else ""))
        self.made.append(full)
        if template is None:
            self(full, functions.SCHEMA)
        return full

    def drop(self, full):
        self.made.remove(full)
        self.server.execute(f'DROP DATABASE "{full}" WITH (FORCE)')

    def __call__(self, full, statement):
        connection = psycopg2.connect(self.server.url(full))
        try:
            with connection, connection.cursor() as cr:
                cr.execute(statement)
                return cr.fetchall() if cr.description else []
        finally:
            connection.close()

    def enqueue(self, full, value):
        while True:
            try:
                unit = signaling.begin(full)
                break
            except NoDatabase:  # the list was read in the last tenth of a second, before it was made
                time.sleep(0.02)
        unit.rollback()
        with signaling.unit(full):
            functions.note.delay(value)

    def effects(self, full):
        return [value for (value,) in self(full, "SELECT value FROM effect ORDER BY id")]


@pytest.fixture
def databases(jobs_url, postgres_server):
    databases = Databases(postgres_server)
    signaling.configure(DatabaseSpec(url=jobs_url, databases=(f"{databases.prefix}*", f"!{databases.prefix}not*")))
    yield databases
    signaling.configure(None)
    for full in list(databases.made):
        databases.drop(full)


@pytest.fixture
def workers(jobs_url, databases, short_path):
    workers = Workers(jobs_url, short_path / "http.sock", databases=(f"{databases.prefix}*",))
    workers.start(1)
    yield workers
    workers.close()


@pytest.fixture
def runner(workers):
    runner = Runner(parse("root:4"), Target((workers.address,)))
    yield runner
    runner.close()


def drive(runner, condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        runner.turn(most=0.02)


def served(runner, full):
    return full in runner.links and runner.links[full].standing.until > 0


def test_one_that_comes_is_served_when_that_is_told(runner, databases, database, truth):
    drive(runner, lambda: served(runner, database))
    full = databases.create("new")
    databases.enqueue(full, "a")
    truth("NOTIFY procman_databases")
    drive(runner, lambda: databases.effects(full) == ["a"])


def test_one_that_comes_is_found(runner, databases, database, monkeypatch):
    monkeypatch.setattr("procman.jobs.runner._NAMES_EVERY", 0.2)
    drive(runner, lambda: served(runner, database))
    full = databases.create("new")
    left_out = databases.create("not_this_one")
    databases.enqueue(full, "a")
    drive(runner, lambda: databases.effects(full) == ["a"])
    assert left_out not in runner.links


def test_one_that_is_dropped_is_forgotten(runner, databases, database):
    full = databases.create("old")
    drive(runner, lambda: served(runner, database) and served(runner, full))
    databases.drop(full)  # which ends the sessions in it, and so is noticed at once
    drive(runner, lambda: full not in runner.links)
    assert served(runner, database)


def test_one_that_is_dropped_and_made_anew_under_its_name(runner, databases):
    full = databases.create("again")
    databases.enqueue(full, "a")
    drive(runner, lambda: databases.effects(full) == ["a"])
    databases.drop(full)
    databases.create("again")
    drive(runner, lambda: full in runner.links)
    databases.enqueue(full, "b")
    drive(runner, lambda: databases.effects(full) == ["b"])


def test_a_clone_has_jobs_of_its_own_though_they_are_called_the_same(databases, runner):
    original = databases.create("original")
    databases.enqueue(original, "a")
    databases.server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{original}'")
    clone = databases.create("clone", template="original")
    drive(runner, lambda: databases.effects(original) == databases.effects(clone) == ["a"])
    ids = [databases(full, "SELECT id, uuid::text FROM procman.job") for full in (original, clone)]
    assert ids[0] == ids[1]


def test_one_that_can_not_be_had_is_no_matter_of_the_others(runner, databases, database, truth):
    broken = databases.create("broken")
    databases(broken, "CREATE SCHEMA procman; CREATE TABLE procman.migration (whatever int)")
    functions.note.delay("a")
    drive(runner, lambda: truth.states() == {"done": 1})
    assert not served(runner, broken)
    databases(broken, "DROP SCHEMA procman CASCADE")
    drive(runner, lambda: served(runner, broken))


def test_one_that_is_slow_is_no_matter_of_the_others(runner, databases, database, truth):
    slow = databases.create("slow")
    drive(runner, lambda: served(runner, slow) and served(runner, database))
    locker = psycopg2.connect(databases.server.url(slow))
    try:
        with locker.cursor() as cr:
            cr.execute("LOCK TABLE procman.job, procman.job_leader IN ACCESS EXCLUSIVE MODE")
        waits = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
        drive(runner, lambda: truth(waits, slow))
        for number in range(5):
            functions.note.delay(str(number))
        drive(runner, lambda: truth.states() == {"done": 5})
        assert truth(waits, slow)  # all the while
    finally:
        locker.close()
    databases.enqueue(slow, "a")
    drive(runner, lambda: databases.effects(slow) == ["a"])


# -- a network that fails in silence -----------------------------------------------------------------------


@pytest.fixture
def cable(jobs_url):
    given = parse_dsn(jobs_url)
    cable = Cable(f"{given['host']}/.s.PGSQL.{given.get('port', 5432)}")
    yield cable
    cable.close()


def test_a_listener_that_hears_nothing_any_more_is_noticed(jobs_url, workers, cable, database, monkeypatch, truth):
    """Only the connection that listens is cut off: nothing else would ever show it."""
    monkeypatch.setattr(link, "BEAT_EVERY", 0.5)
    monkeypatch.setattr(link, "BEAT_PATIENCE", 0.5)
    listen_url = make_dsn(**{**parse_dsn(jobs_url), "host": "127.0.0.1", "port": cable.port})
    signaling.configure(DatabaseSpec(url=jobs_url, listen_url=listen_url))
    runner = Runner(parse("root:4"), Target((workers.address,)))
    try:
        functions.note.delay("a")
        drive(runner, lambda: truth.states() == {"done": 1})
        cable.cut()
        drive(runner, lambda: not served(runner, database))
        functions.note.delay("b")
        cable.mend()
        drive(runner, lambda: truth.states() == {"done": 2})
    finally:
        runner.close()


@pytest.fixture
def pooler(jobs_url):
    """A way to the server on which notices get lost; its URL."""
    given = parse_dsn(jobs_url)
    cable = Cable(f"{given['host']}/.s.PGSQL.{given.get('port', 5432)}", without=b"A")  # NotificationResponse
    plain = {"host": "127.0.0.1", "port": cable.port, "sslmode": "disable", "gssencmode": "disable"}
    yield make_dsn(**{**given, **plain})
    cable.close()


def test_listening_goes_past_the_pooler(jobs_url, workers, pooler, database, monkeypatch, truth, caplog):
    monkeypatch.setattr(link, "BEAT_EVERY", 0.2)
    signaling.configure(DatabaseSpec(url=pooler, listen_url=jobs_url))
    runner = Runner(parse("root:4"), Target((workers.address,)))
    try:
        drive(runner, lambda: served(runner, database) and not runner.links[database].feed.has_more)
        for number in range(3):
            functions.note.delay(str(number))  # noticed by nothing but notices, for a minute
            drive(runner, lambda: truth.states() == {"done": number + 1}, seconds=30)  # noqa: B023
        assert "listen_url" not in caplog.text
    finally:
        runner.close()


def test_a_pooler_that_keeps_notices_to_itself_makes_jobs_late_and_is_told(workers, pooler, monkeypatch, truth, caplog):
    monkeypatch.setattr(link, "BEAT_EVERY", 0.2)
    monkeypatch.setattr(feed, "DEAF_SWEEP_EVERY", 0.5)
    signaling.configure(DatabaseSpec(url=pooler))
    runner = Runner(parse("root:4"), Target((workers.address,)))
    try:
        drive(runner, lambda: "listen_url" in caplog.text)
        truth("INSERT INTO procman.job (function) VALUES ('tests.support.jobs:note')")
        drive(runner, lambda: truth.states() == {"done": 1})
    finally:
        runner.close()
