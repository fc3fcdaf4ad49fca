"""Two releases of an application on one database, as in a reload, and what becomes of what is in the code no more."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from procman.crontab import Cron, history, registration
from procman.db.connection import connect
from procman.db.migrate import migrate
from tests.integration.crontab.harness import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg2

    from tests.integration.crontab.harness import Pool

TERMS = "SELECT priority, misfire, timeout, jitter FROM procman.cron WHERE name = 'stays'"


def test_the_release_that_was_imported_latest_has_its_way(pool: Pool) -> None:
    old = pool.start("release_one")
    pool.await_rows("SELECT 1 FROM ran", 2)
    assert pool.ask(TERMS) == [(10, "once", None, 0.0)]
    new = pool.start("release_two")
    assert pool.ask(TERMS) == [(0, "skip", 300.0, 60.0)]
    pool.await_rows("SELECT 1 FROM ran", 3)
    written = pool.ask("SELECT xmin::text FROM procman.cron ORDER BY name")
    # Those of the old one come back, as after a lost connection, and change nothing.
    pool.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    for worker in (old, new):
        until(lambda worker=worker: worker.log().count("Watching") == 2, worker.log)
    assert pool.ask("SELECT xmin::text FROM procman.cron ORDER BY name") == written
    # Back to the old one: imported anew, it is the latest.
    pool.start("release_one")
    assert pool.ask(TERMS) == [(10, "once", None, 0.0)]


def test_each_runs_what_it_knows_and_nobody_is_held_up_by_the_rest(pool: Pool) -> None:
    old = pool.start("release_one")
    new = pool.start("release_two")
    pool.await_rows("SELECT 1 FROM ran", 3)
    pool.ask("UPDATE procman.cron SET next_call = now(), planned = now()")
    pool.await_rows("SELECT 1 FROM ran", 6)
    assert set(pool.ask("SELECT pid FROM ran WHERE name = 'goes'")) == {old.pid}
    assert set(pool.ask("SELECT pid FROM ran WHERE name = 'comes'")) == {new.pid}
    old.leave()
    # What nobody knows any more is left alone, due as it is.
    pool.ask("UPDATE procman.cron SET next_call = now(), planned = now()")
    pool.await_rows("SELECT 1 FROM ran", 8)
    assert len(pool.ask("SELECT 1 FROM ran WHERE name = 'goes'")) == 2
    new.leave()


# -- the table itself --------------------------------------------------------------------------------------------


@pytest.fixture
def cursor(database_url: str) -> Iterator[psycopg2.extensions.cursor]:
    connection = connect(database_url)
    migrate(connection)
    with connection.cursor() as cr:
        yield cr
    connection.close()


AGES = itertools.count(1000, -1)


def declared(names: str, **terms: object) -> Cron:
    made = Cron()
    for name in names:
        made(name=name, **{"every": "1h", **terms})(print)
    made._declared -= next(AGES)  # each is a release of its own, a second after the one before
    return made


def register(cursor: psycopg2.extensions.cursor, cron: Cron) -> bool:
    return registration.register(cursor, cron, application="app", database="db")


def test_another_schedule_counts_from_the_last_call_and_other_terms_move_nothing(cursor) -> None:
    register(cursor, declared("a"))
    cursor.execute(
        "UPDATE procman.cron SET last_call = now() - interval '10 min', planned = now() + interval '50 min', "
        "next_call = now() + interval '50 min' RETURNING planned"
    )
    (planned,) = cursor.fetchone()
    register(cursor, declared("a", priority=1))
    cursor.execute("SELECT priority, planned = %s, next_call = %s FROM procman.cron", (planned, planned))
    assert cursor.fetchall() == [(1, True, True)]
    register(cursor, declared("a", every="30m"))
    cursor.execute("SELECT round(extract(epoch FROM next_call - last_call)) FROM procman.cron")
    assert cursor.fetchall() == [(1800,)]
    register(cursor, declared("a", every=None, expression="never"))
    cursor.execute("SELECT planned, next_call FROM procman.cron")
    assert cursor.fetchall() == [(None, None)]


def test_what_a_trigger_has_asked_for_stays_due_under_another_schedule(cursor) -> None:
    register(cursor, declared("a"))
    cursor.execute("UPDATE procman.cron SET cause = 'trigger', next_call = '2020-01-01'")
    register(cursor, declared("a", every=None, expression="0 0 1 1 *"))
    cursor.execute("SELECT cause, extract(year FROM next_call), planned > now() FROM procman.cron")
    assert cursor.fetchall() == [("trigger", 2020, True)]


def test_an_entry_that_is_being_run_is_changed_later_and_waited_for_by_nobody(cursor, database_url: str) -> None:
    register(cursor, declared("ab"))
    running = connect(database_url, autocommit=False)
    with running.cursor() as cr:
        cr.execute("SELECT 1 FROM procman.cron WHERE name = 'a' FOR NO KEY UPDATE")
        cron = declared("ab", every="2h")
        assert not register(cursor, cron)
        cursor.execute("SELECT name, schedule FROM procman.cron ORDER BY name")
        assert cursor.fetchall() == [("a", "@every 3600s"), ("b", "@every 7200s")]
    running.rollback()
    running.close()
    assert register(cursor, cron)
    cursor.execute("SELECT DISTINCT schedule FROM procman.cron")
    assert cursor.fetchall() == [("@every 7200s",)]
    assert register(cursor, cron)


def test_what_is_old_is_forgotten_in_small_steps(cursor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "VACUUM_ROWS", 3)
    register(cursor, declared("ab"))
    insert = (
        "INSERT INTO procman.cron_run (name, number, cause, began, outcome) SELECT 'a', n, 'schedule', %s, %s FROM "
    )
    for outcome, age, number in (("failed", "40 days", 5), ("failed", "20 days", 1), ("done", "40 days", 2)):
        cursor.execute(f"{insert} generate_series(1, {number}) AS n", ("now", outcome))
        cursor.execute(
            "UPDATE procman.cron_run SET began = now() - %s::interval WHERE began > now() - interval '1 day'", (age,)
        )
    month = 30 * 86400.0
    assert [history.vacuum(cursor, month), history.vacuum(cursor, month)] == [True, False]
    cursor.execute("SELECT outcome, count(*) FROM procman.cron_run GROUP BY outcome ORDER BY outcome")
    assert cursor.fetchall() == [("done", 2), ("failed", 1)]


def test_entries_that_have_gone_from_the_code_are_forgotten_with_all_that_was_theirs(cursor) -> None:
    month = 30 * 86400.0
    register(cursor, declared("ab"))
    cursor.execute("UPDATE procman.cron SET declared_at = now() - interval '40 days'")
    # An application that nobody has imported since, as far as anybody knows, may come back.
    history.vacuum(cursor, month)
    cursor.execute("SELECT count(*) FROM procman.cron")
    assert cursor.fetchall() == [(2,)]
    register(cursor, declared("a"))
    for table, columns, values in (
        ("cron_run", "name, number, cause, began, outcome", "'b', 1, 'schedule', now(), 'done'"),
        ("cron_attempt", "name, number, began, worker, host, pid", "'b', 1, now(), 'w', 'h', 1"),
        ("cron_trigger", "name, at", "'b', now()"),
        ("cron_disabled", "name, reason", "'b', 'r'"),
    ):
        cursor.execute(f"INSERT INTO procman.{table} ({columns}) VALUES ({values})")
    cursor.execute("UPDATE procman.cron SET last_call = now() WHERE name = 'b'")  # an older release runs it still
    history.vacuum(cursor, month)
    cursor.execute("UPDATE procman.cron SET last_call = NULL")
    cursor.execute("SELECT count(*) FROM procman.cron")
    assert cursor.fetchall() == [(2,)]
    history.vacuum(cursor, month)
    for table in ("cron_run", "cron_attempt", "cron_trigger", "cron_disabled"):
        cursor.execute(f"SELECT count(*) FROM procman.{table}")
        assert cursor.fetchall() == [(0,)]
    cursor.execute("SELECT name FROM procman.cron")
    assert cursor.fetchall() == [("a",)]
