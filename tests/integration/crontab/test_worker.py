"""Cron workers as processes, on a real PostgreSQL."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import psycopg2
import pytest

from procman.core.lifecycle import Recycle, Retiring
from procman.core.reason import Reason
from procman.core.spec import Limits
from procman.crontab.execute import MOST_ATTEMPTS
from procman.db.connection import url_for
from tests.integration.crontab.harness import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.crontab.harness import Gate, Pool

HOUR = timedelta(hours=1)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


# -- sharing the work --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [2, 4])
def test_every_call_is_run_once(pool: Pool, tmp_path: Path, workers: int) -> None:
    trace = tmp_path / "trace"
    for _ in range(workers):
        pool.start("many", ready=False, TRACE=str(trace))
    rows = pool.await_rows("SELECT name, planned, pid FROM ran", 200)
    # Not one run began that was rolled back then, because another worker had been faster.
    begun = Counter(trace.read_text().splitlines())
    assert set(begun.values()) == {1}, pool.logs()
    assert len({(name, planned) for name, planned, _ in rows}) == len(rows) <= len(begun)
    assert len({pid for _, _, pid in rows}) > 1  # or nothing has been proved
    for entry in {name for name, _, _ in rows}:
        calls = sorted(planned for name, planned, _ in rows if name == entry)
        assert {(call - calls[0]) % timedelta(milliseconds=100) for call in calls} == {timedelta(0)}
    assert "Traceback" not in pool.logs()


def test_runs_of_one_entry_never_overlap(pool: Pool, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for _ in range(3):
        pool.start("slow", TRACE=str(trace))
    pool.await_rows("SELECT id FROM ran", 8)
    lines = trace.read_text().splitlines()
    assert lines[::2] == ["begin"] * len(lines[::2])
    assert lines[1::2] == ["end"] * len(lines[1::2])


# -- failures ----------------------------------------------------------------------------------------------------


def test_a_failure_undoes_everything_and_the_next_call_comes(pool: Pool) -> None:
    worker = pool.start("failing")
    pool.await_rows("SELECT 1 FROM ran", 2)
    log = worker.log()
    assert log.count("Cron failing failed after") == 3
    assert "LookupError: on purpose: é" in log
    assert "division by zero" in log
    assert "SystemExit: on purpose" in log
    assert "DatabaseUnavailable" not in log
    # Of the three that failed there is nothing: neither a row, nor a message, nor a signal.
    assert pool.ask("SELECT message::text FROM procman.bus ORDER BY id LIMIT 2") == ["4", "5"]
    ran, signals = pool.ask("SELECT (SELECT count(*) FROM ran), count(*) FROM procman.signal_delta")[0]
    assert ran == signals
    entry = pool.entry("failing")
    assert (entry["failure_count"], entry["last_status"], entry["last_error"]) == (0, "done", None)
    assert worker.sample().errors == 3


def test_what_is_recorded_of_a_failure(pool: Pool) -> None:
    worker = pool.start("losing")
    pool.await_rows("SELECT 1 FROM procman.cron WHERE last_status IS NOT NULL", 7)
    entry = pool.entry("conflict always")
    assert (entry["last_status"], entry["failure_count"], entry["last_worker"]) == ("failed", 1, "cron.1")
    assert "Traceback (most recent call last)" in entry["last_error"]
    assert "in conflict_always" in entry["last_error"]
    assert moment(entry["next_call"]) - moment(entry["last_call"]) <= HOUR
    assert worker.log().count("Cron conflict always is rolled back") == MOST_ATTEMPTS - 1


def test_losing_against_another_transaction_is_no_failure(pool: Pool) -> None:
    pool.start("losing")
    pool.await_rows("SELECT 1 FROM procman.cron WHERE last_status IS NOT NULL", 7)
    for name in ("conflict twice", "connection lost once"):
        assert pool.entry(name)["last_status"] == "done"
        assert pool.ask("SELECT count(*) FROM ran WHERE name = %s", name) == [1]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("connection lost always", "ServerAway"),
        ("ends the unit", "the function has ended its unit itself"),
        ("swallows an error", "InFailedSqlTransaction"),
        ("fails at the commit", "at the commit"),
    ],
)
def test_other_ways_to_fail(pool: Pool, name: str, error: str) -> None:
    pool.start("losing")
    pool.await_rows("SELECT 1 FROM procman.cron WHERE last_status IS NOT NULL", 7)
    entry = pool.entry(name)
    assert (entry["last_status"], entry["failure_count"]) == ("failed", 1)
    assert error in entry["last_error"]
    assert pool.ask("SELECT count(*) FROM ran WHERE name = %s", name) == [0]
    assert moment(entry["next_call"]) > moment(entry["last_call"])


def test_a_run_ended_by_its_limit(pool: Pool) -> None:
    worker = pool.start("burning", limits=Limits(time_cpu=1.0))
    assert worker.await_message(Retiring).reason == Reason.CPU_TIME
    assert worker.wait() == 0
    entry = pool.entry("burning")
    assert (entry["last_status"], entry["failure_count"]) == ("failed", 1)
    assert "UnitAborted" in entry["last_error"]
    assert pool.ask("SELECT count(*) FROM ran") == [0]
    # The next worker does not burn as well: the call is over.
    pool.start("burning").leave()
    assert pool.entry("burning") == entry


def test_a_killed_worker_s_entry_is_run_by_another_one(pool: Pool, gate: Gate) -> None:
    first = pool.start("held", GATE=gate.path)
    with gate.held() as run:
        assert run.pid == first.pid
        second = pool.start("held", GATE=gate.path)
        assert pool.ask("SELECT count(*) FROM ran") == [0]
        first.kill()
    with gate.held() as run:
        assert run.pid == second.pid
    assert pool.await_rows("SELECT pid FROM ran") == [second.pid]
    entry = pool.entry("held")
    assert (entry["last_worker"], entry["last_status"]) == ("cron.2", "done")


def test_killed_at_random_instants(pool: Pool, tmp_path: Path) -> None:
    """Workers are killed all the time, PostgreSQL's connections cut: each run that is recorded has happened, once."""
    chance = random.Random(4711)
    for _ in range(3):
        pool.start("many", TRACE=str(tmp_path / "trace"))
    for number in range(15):
        time.sleep(chance.uniform(0.05, 0.4))
        if number % 5 == 4:
            pool.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        else:
            chance.choice(pool.workers[-3:]).kill()
            pool.start("many", ready=False, TRACE=str(tmp_path / "trace"))
    until(lambda: len(pool.ask("SELECT 1 FROM ran")) > 100, pool.logs)
    for worker in pool.workers:
        worker.kill()
    # The server notices by itself that its clients have gone; until then it may still commit.
    others = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    until(lambda: pool.ask(others) == [], pool.logs)
    ran = Counter(pool.ask("SELECT name, planned FROM ran"))
    assert set(ran.values()) == {1}
    recorded = Counter(pool.ask("SELECT name, due FROM procman.cron_run WHERE outcome = 'done'"))
    assert ran == recorded
    # Whoever was killed, or has lost the connection, in the middle of a run is in the history, once for that run.
    killed = Counter(pool.ask("SELECT name, number, pid FROM procman.cron_run WHERE outcome = 'killed'"))
    assert set(killed.values()) <= {1}
    assert {pid for _, _, pid in killed} <= {worker.pid for worker in pool.workers}


# -- the transaction ---------------------------------------------------------------------------------------------


def test_messages_and_signals_come_with_the_commit(pool: Pool, gate: Gate) -> None:
    pool.start("price", GATE=gate.path)
    with gate.held():
        assert pool.ask("SELECT value FROM counter") == [0]
        assert pool.ask("SELECT 1 FROM procman.bus") == []
        assert pool.ask("SELECT 1 FROM procman.signal_delta") == []
    pool.await_rows("SELECT 1 FROM ran")
    assert pool.ask("SELECT value FROM counter") == [1]
    assert pool.ask("SELECT message FROM procman.bus") == [{"before": 0, "after": 1}]
    assert pool.ask("SELECT signal_group FROM procman.signal_delta") == ["cron test"]


def test_the_unit_on_the_scoreboard(pool: Pool, gate: Gate) -> None:
    worker = pool.start("held", GATE=gate.path)
    with gate.held():
        sample = worker.sample()
        assert sample.unit == "cron held"
        assert pool.url.find(sample.database) > 0
        assert sample.queries > 0
    until(lambda: worker.sample().requests == 1, worker.log)
    assert worker.sample().unit is None
    assert worker.sample().errors == 0


# -- the schedule ------------------------------------------------------------------------------------------------


def test_a_restart_keeps_the_next_call(pool: Pool) -> None:
    pool.start("hourly")
    pool.await_rows("SELECT 1 FROM ran")
    before = pool.entry("hourly")
    assert before["schedule"] == "@every 3600s"
    assert pool.ask("SELECT next_call - ran.planned FROM procman.cron, ran") == [HOUR]
    pool.workers[0].leave()
    pool.start("hourly").leave()
    assert pool.entry("hourly") == before


def test_an_entry_that_is_due_is_run_by_the_next_worker_that_starts(pool: Pool) -> None:
    pool.start("hourly")
    pool.await_rows("SELECT 1 FROM ran")
    pool.workers[0].leave()
    missed = timedelta(hours=25, minutes=20)
    pool.ask("UPDATE procman.cron SET next_call = next_call - %s, planned = planned - %s", missed, missed)
    pool.start("hourly")
    # One run for all that were missed, and the next at the old minute.
    pool.await_rows("SELECT 1 FROM ran", 2)
    first, second = pool.ask("SELECT planned FROM ran ORDER BY id")
    ahead = moment(pool.entry("hourly")["next_call"])
    assert (ahead - second) % HOUR == timedelta(0)
    assert ahead - second == 25 * HOUR
    assert ahead - first == timedelta(minutes=40)


def test_another_schedule_moves_the_next_call_and_waits_for_nobody(pool: Pool, gate: Gate) -> None:
    old = pool.start("held", GATE=gate.path)
    with gate.held():
        # The entry is locked: the new worker is ready nevertheless, and changes the schedule when it can.
        new = pool.start("held_daily", GATE=gate.path)
        assert pool.entry("held")["schedule"] == "@every 3600s"
    until(lambda: pool.entry("held")["schedule"] == "CRON_TZ=Europe/Brussels 0 3 * * *", new.log)
    # Who still runs the old code goes by the new schedule.
    pool.ask("UPDATE procman.cron SET next_call = now()")
    new.leave()
    with gate.held() as run:
        assert run.pid == old.pid
    pool.await_rows("SELECT 1 FROM ran", 2)
    entry = pool.entry("held")
    assert pool.ask(
        "SELECT to_char(%s::timestamptz AT TIME ZONE 'Europe/Brussels', 'HH24:MI')", entry["next_call"]
    ) == ["03:00"]


def test_a_call_that_comes_nearer_wakes_a_sleeping_worker(pool: Pool) -> None:
    worker = pool.start("hourly")
    pool.await_rows("SELECT 1 FROM ran")
    until(lambda: worker.sample().requests == 1, worker.log)
    pool.ask("UPDATE procman.cron SET next_call = now()")
    began = time.monotonic()
    pool.await_rows("SELECT 1 FROM ran", 2)
    assert time.monotonic() - began < 5  # and not after the sleep of a minute


def test_an_idle_worker_sleeps(pool: Pool) -> None:
    worker = pool.start("hourly")
    until(lambda: worker.sample().requests == 1, worker.log)

    def sleeps() -> str:
        with open(f"/proc/{worker.pid}/status", encoding="ascii") as file:
            return next(line for line in file if line.startswith("voluntary_ctxt_switches"))

    def fell_asleep() -> bool:
        before = sleeps()
        time.sleep(0.5)
        return sleeps() == before

    until(fell_asleep, worker.log)


# -- databases ---------------------------------------------------------------------------------------------------


def test_connections_that_are_cut(pool: Pool) -> None:
    worker = pool.start("often")
    for _ in range(3):
        (newest,) = pool.ask("SELECT coalesce(max(id), 0) FROM ran")
        pool.ask(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        pool.await_rows(f"SELECT 1 FROM ran WHERE id > {newest}", 3)
    assert "is interrupted" in worker.log()
    calls = pool.ask("SELECT planned FROM ran")
    assert len(calls) == len(set(calls))


def test_a_database_that_comes_later(pool: Pool) -> None:
    later = url_for(pool.url, f"{psycopg2.extensions.parse_dsn(pool.url)['dbname']}_later")
    worker = pool.start("often", url=later)
    worker.await_log("is interrupted")
    name = psycopg2.extensions.parse_dsn(later)["dbname"]
    pool.ask(f'CREATE DATABASE "{name}"')
    try:
        until(lambda: "UndefinedTable" in worker.log(), worker.log)  # the function's own: it does run
    finally:
        worker.kill()
        pool.ask(f'DROP DATABASE "{name}" WITH (FORCE)')


def test_several_databases_one_of_them_missing(pool: Pool) -> None:
    main = psycopg2.extensions.parse_dsn(pool.url)["dbname"]
    other = f"{main}_other"
    pool.ask(f'CREATE DATABASE "{other}" TEMPLATE "{main}"')
    try:
        worker = pool.start("often", databases=("no_such_database", other))
        other_url = url_for(pool.url, other)
        for url in (pool.url, other_url):
            until(lambda url=url: pool.ask("SELECT count(*) FROM ran", url=url)[0] >= 5, worker.log)
        assert worker.log().count("Cron of database no_such_database is interrupted") == 1
        worker.leave()
    finally:
        for one in pool.workers:
            one.close()
        pool.workers.clear()
        pool.ask(f'DROP DATABASE "{other}" WITH (FORCE)')


# -- the life of a worker ----------------------------------------------------------------------------------------


def test_retiring_between_units_is_at_once(pool: Pool) -> None:
    worker = pool.start("hourly")
    until(lambda: worker.sample().requests == 1, worker.log)
    began = time.monotonic()
    worker.leave()
    assert time.monotonic() - began < 5


def test_retiring_in_a_unit_finishes_it(pool: Pool, gate: Gate) -> None:
    worker = pool.start("held", GATE=gate.path)
    with gate.held():
        worker.retire()
    assert worker.await_message(Retiring).reason == Reason.RELOAD
    assert worker.wait() == 0
    assert pool.ask("SELECT pid FROM ran") == [worker.pid]


def test_a_worker_whose_arbiter_is_gone_finishes_its_unit(pool: Pool, gate: Gate) -> None:
    worker = pool.start("held", GATE=gate.path)
    with gate.held():
        worker.channel.close()
    assert worker.wait() == 0
    assert pool.ask("SELECT pid FROM ran") == [worker.pid]


def test_the_limit_of_units(pool: Pool) -> None:
    worker = pool.start("often", limits=Limits(requests=3))
    assert worker.await_message(Recycle).reason == Reason.MAX_REQUESTS
    until(lambda: worker.sample().requests > 3, worker.log)  # it works on until its successor is there
    worker.leave()


def test_the_limit_of_age_ends_a_sleep(pool: Pool) -> None:
    worker = pool.start("nothing", limits=Limits(age=0.2))
    assert worker.await_message(Recycle).reason == Reason.MAX_AGE
    worker.leave()


def test_nothing_to_do(pool: Pool) -> None:
    worker = pool.start("nothing")
    worker.await_log("No cron function is registered")
    assert os.path.exists(f"/proc/{worker.pid}")
    worker.leave()
