"""One unit: when it opens, how it ends, what it calls."""

from __future__ import annotations

import os
import signal
import threading

import psycopg2
import pytest

import procman
from procman import signaling
from procman.core.spec import DatabaseSpec, Isolation
from procman.errors import DatabaseUnavailable, NoDatabase, UnitAborted
from procman.signaling import runtime
from tests.support.pricer import with_schema
from tests.support.server import Server


class Figures:
    """A meter that remembers."""

    def __init__(self):
        self.queries, self.databases, self.caches = [], [], []

    def query(self, seconds):
        self.queries.append(seconds)

    def in_database(self, database):
        self.databases.append(database)

    def cache(self, *, hit):
        self.caches.append(hit)


def test_it_opens_at_the_first_use_and_commits(configured, truth):
    with signaling.unit() as unit:
        assert signaling.current() is unit
        assert not unit.opened
        with unit.cursor() as cr:
            cr.execute("UPDATE item SET price = 7 WHERE id = 1")
        assert unit.opened
        assert truth() == 0
    assert signaling.current() is None
    assert truth() == 7


def test_an_exception_rolls_back(configured, truth):
    def fail():
        with signaling.unit(), procman.cursor() as cr:
            cr.execute("UPDATE item SET price = 7 WHERE id = 1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert signaling.current() is None
    assert truth() == 0


def test_nested_cursors_share_the_transaction(configured, truth):
    with procman.cursor() as outer:
        outer.execute("UPDATE item SET price = 7 WHERE id = 1")
        with procman.cursor() as inner:
            inner.execute("SELECT price, pg_backend_pid() FROM item WHERE id = 1")
            assert inner.fetchone()[0] == 7
        assert truth() == 0
    assert truth() == 7


def test_units_do_not_nest(configured):
    with signaling.unit(), pytest.raises(RuntimeError, match="can't begin inside another unit"):
        signaling.begin()


def test_another_database_than_the_units(configured):
    with signaling.unit(), pytest.raises(ValueError, match="not in 'elsewhere'"), procman.cursor("elsewhere"):
        pass


def test_a_database_that_is_not_configured(configured):
    with pytest.raises(NoDatabase, match="'elsewhere' is not among the configured ones"):
        signaling.begin("elsewhere")
    assert signaling.current() is None


def test_without_a_database_a_unit_is_free_until_it_needs_one():
    signaling.configure(None)
    with signaling.unit() as unit:
        assert unit.database == ""
    with pytest.raises(NoDatabase, match=r"set `url` in \[database\]"), procman.cursor():
        pass
    assert signaling.current() is None
    assert signaling.databases() == ()


def test_outside_of_the_daemon_the_environment_says_where(prices_url, monkeypatch):
    monkeypatch.setattr(runtime, "_runtime", None)
    monkeypatch.setenv("PROCMAN_DATABASE_URL", prices_url)
    with procman.cursor() as cr:
        cr.execute("SELECT count(*) FROM item")
        assert cr.fetchone() == (5,)
    signaling.configure(None)


@pytest.mark.parametrize("url", ["embedded", "postgresql://[::1/x"])
def test_an_environment_that_is_no_url_is_named(monkeypatch, url):
    monkeypatch.setattr("procman.signaling.runtime._runtime", None)
    monkeypatch.setenv("PROCMAN_DATABASE_URL", url)
    with pytest.raises(NoDatabase, match=r"^PROCMAN_DATABASE_URL: expected a URI such as"):
        signaling.databases()


def test_an_aborted_transaction_is_not_committed_in_silence(configured, truth):
    unit = signaling.begin()
    cr = unit.cursor()
    cr.execute("UPDATE item SET price = 7 WHERE id = 1")
    with pytest.raises(psycopg2.errors.DivisionByZero):
        cr.execute("SELECT 1 / 0")
    with pytest.raises(psycopg2.errors.InFailedSqlTransaction):
        unit.commit()
    assert signaling.current() is None
    assert truth() == 0


def test_hooks(configured, truth):
    calls = []

    def before(cr):
        cr.execute("UPDATE item SET price = price + 1 WHERE id = 1 RETURNING price")
        calls.append(cr.fetchone()[0])
        if len(calls) < 3:
            signaling.current().before_commit(before)

    def failing():
        raise ZeroDivisionError

    with signaling.unit() as unit:
        unit.before_commit(before)
        unit.after_commit(failing)
        unit.after_commit(lambda: calls.append((signaling.current(), truth())))
    assert calls == [1, 2, 3, (None, 3)]


def test_a_hook_that_fails_before_the_commit_prevents_it(configured, truth):
    calls = []

    def failing(cr):
        raise ZeroDivisionError

    unit = signaling.begin()
    unit.cursor().execute("UPDATE item SET price = 7 WHERE id = 1")
    unit.before_commit(failing)
    unit.after_commit(lambda: calls.append(1))
    with pytest.raises(ZeroDivisionError):
        unit.commit()
    assert (truth(), calls) == (0, [])


def test_what_it_counts(prices_url):
    figures = Figures()
    signaling.configure(DatabaseSpec(url=prices_url), meter=figures)

    @procman.cached("prices")
    def one():
        return 1

    with signaling.unit() as unit:
        with unit.cursor() as cr:
            cr.execute("SELECT pg_sleep(0.01)")
            cr.execute("SELECT 1")
        one(), one(), one()
        assert unit.queries == 2
        assert unit.query_seconds >= 0.01
    assert len(figures.queries) == 2
    assert figures.databases == [unit.database]
    assert figures.caches == [False, True, True]
    signaling.configure(None)


def test_a_deferred_constraint_fails_the_commit(configured, truth):
    with procman.cursor() as cr:
        cr.execute("CREATE TABLE once (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    unit = signaling.begin()
    unit.cursor().execute("INSERT INTO once VALUES (1), (1)")
    procman.invalidate("prices")
    with pytest.raises(psycopg2.errors.UniqueViolation):
        unit.commit()
    assert truth("SELECT count(*) FROM once") == 0
    assert truth("SELECT count(*) FROM procman.signal_delta") == 0


def test_serialization_failures_reach_the_caller(configured, truth):
    unit = signaling.begin()
    cr = unit.cursor()
    cr.execute("SELECT 1")
    truth("UPDATE item SET price = 1 WHERE id = 1")
    with pytest.raises(psycopg2.errors.SerializationFailure):
        cr.execute("UPDATE item SET price = 2 WHERE id = 1")
    unit.rollback()
    assert truth() == 1


def test_several_databases(configured, postgres_server):
    main = signaling.databases()[0]
    postgres_server.execute(f'CREATE DATABASE "{main}_b"')
    try:
        signaling.configure(DatabaseSpec(url=configured, databases=(f"{main}_b",)))
        assert signaling.databases() == (main, f"{main}_b")
        with_schema(signaling.database_url(f"{main}_b"))

        @procman.cached("prices")
        def price(item):
            with procman.cursor() as cr:
                cr.execute("SELECT price FROM item WHERE id = %s", (item,))
                return cr.fetchone()[0]

        with signaling.unit(f"{main}_b") as unit:
            unit.cursor().execute("UPDATE item SET price = 8")
            procman.invalidate("prices")
        with signaling.unit():
            assert price(1) == 0
        with signaling.unit(f"{main}_b"):
            assert price(1) == 8
        signaling.configure(DatabaseSpec(url=configured, databases=("auto",)))
        assert signaling.databases()[0] == main
        assert f"{main}_b" in signaling.databases()
        assert "postgres" not in signaling.databases()
    finally:
        signaling.configure(None)
        postgres_server.execute(f'DROP DATABASE "{main}_b" WITH (FORCE)')


def test_a_dedicated_connection_for_listening(configured):
    (name,) = signaling.databases()
    connection = signaling.connect(name)
    with connection.cursor() as cr:
        cr.execute("LISTEN wake")
        with procman.cursor() as other:
            other.execute("NOTIFY wake, 'up'")
        cr.execute("SELECT count(*) FROM procman.migration")
    assert [notice.payload for notice in connection.notifies] == ["up"]
    connection.close()


def test_the_server_goes_and_comes_back(short_path):
    server = Server(str(short_path))
    try:
        url = server.url("postgres")
        signaling.configure(DatabaseSpec(url=url))
        with_schema(url)
        with procman.cursor() as cr:
            cr.execute("SELECT 1")
        unit = signaling.begin()
        cr = unit.cursor()
        server.stop()
        with pytest.raises(DatabaseUnavailable):
            cr.execute("SELECT 1")
        with pytest.raises(psycopg2.OperationalError):  # which it is as well
            cr.execute("SELECT 1")
        with pytest.raises(DatabaseUnavailable):
            unit.commit()
        assert signaling.current() is None
        with pytest.raises(DatabaseUnavailable), procman.cursor():
            pass
        server.start()
        with procman.cursor() as cr:
            cr.execute("SELECT count(*) FROM item")
            assert cr.fetchone() == (5,)
        # With an idle connection in the pool that died unseen: the next unit does not suffer.
        server.stop()
        server.start()
        with procman.cursor() as cr:
            cr.execute("SELECT count(*) FROM item")
            assert cr.fetchone() == (5,)
    finally:
        signaling.configure(None)
        server.stop()


def test_a_database_that_is_made_anew_under_its_name(postgres_server, database_url):
    signaling.configure(DatabaseSpec(url=database_url))
    name = signaling.databases()[0]

    @procman.cached("prices")
    def price(item):
        with procman.cursor() as cr:
            cr.execute("SELECT price FROM item WHERE id = %s", (item,))
            return cr.fetchone()[0]

    with_schema(database_url)
    assert price(1) == 0
    postgres_server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    postgres_server.execute(f'CREATE DATABASE "{name}"')
    with_schema(database_url)
    connection = psycopg2.connect(database_url)
    with connection, connection.cursor() as cr:
        cr.execute("UPDATE item SET price = 9")
    connection.close()
    assert price(1) == 9
    signaling.configure(None)


def test_a_forked_child_starts_without_its_parents_connections(configured):
    with procman.cursor() as cr:
        cr.execute("SELECT 1")
    unit = signaling.begin()
    unit.cursor()
    child = os.fork()
    if child == 0:
        os._exit(0 if signaling.current() is None and signaling.databases() == () else 1)
    assert os.waitpid(child, 0)[1] == 0
    with unit.cursor() as cr:
        cr.execute("SELECT 1")
    unit.commit()


def test_its_cursors_end_with_it(configured):
    unit = signaling.begin()
    cr = unit.cursor()
    cr.execute("SELECT 1")
    unit.commit()
    with pytest.raises(psycopg2.InterfaceError):
        cr.execute("SELECT 1")
    with pytest.raises(RuntimeError, match="the unit has ended"):
        unit.cursor()
    with pytest.raises(RuntimeError, match="the unit has ended"):
        unit.commit()


def test_a_limit_that_ends_a_unit_in_its_query(configured, truth):
    """UnitAborted comes out of a signal handler, in the middle of whatever runs."""

    def abort(signum, frame):
        raise UnitAborted("cpu_time")

    before = signal.signal(signal.SIGUSR1, abort)
    unit = signaling.begin()
    try:
        cr = unit.cursor()
        cr.execute("UPDATE item SET price = 7 WHERE id = 1")
        procman.invalidate("prices")
        timer = threading.Timer(0.05, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
        timer.start()
        with pytest.raises(UnitAborted):
            cr.execute("SELECT pg_sleep(0.3)")
        timer.join()
        unit.rollback()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert signaling.current() is None
    assert truth() == 0
    with procman.cursor() as cr:
        cr.execute("SELECT price FROM item WHERE id = 1")
        assert cr.fetchone() == (0,)


@pytest.mark.parametrize("isolation", Isolation)
def test_isolation_is_as_configured(prices_url, isolation):
    signaling.configure(DatabaseSpec(url=prices_url, isolation=isolation))
    with procman.cursor() as cr:
        cr.execute("SHOW transaction_isolation")
        assert cr.fetchone() == (isolation.value,)
    signaling.configure(None)


def test_the_registries_of_few_databases_are_kept(configured, postgres_server, monkeypatch):
    loads = []

    def load(cr):
        cr.execute("SELECT current_database()")
        loads.append(cr.fetchone()[0])
        return loads[-1]

    monkeypatch.setattr("procman.signaling.loading._loaders", [load])
    main = signaling.databases()[0]
    names = [main, f"{main}_b", f"{main}_c"]
    for name in names[1:]:
        postgres_server.execute(f'CREATE DATABASE "{name}"')
    try:
        signaling.configure(DatabaseSpec(url=configured, databases=tuple(names[1:]), registries=2))
        for name in [names[0], names[1], names[0], names[2], names[0], names[1]]:
            with signaling.unit(name):
                assert procman.registry() == name
        assert loads == [names[0], names[1], names[2], names[1]]
    finally:
        signaling.configure(None)
        for name in names[1:]:
            postgres_server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
