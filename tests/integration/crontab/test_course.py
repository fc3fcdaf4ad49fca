"""Triggers, portions, misfires, runs that kill their workers: cron workers as processes, on a real PostgreSQL."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import psycopg2
import pytest

from procman import cron, signaling
from procman.core.lifecycle import Deactivated
from procman.core.spec import DatabaseSpec
from procman.crontab.call import TURN
from tests.integration.crontab.harness import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.crontab.harness import Gate, Pool, Worker

RUNS = "SELECT outcome, reason, cause FROM procman.cron_run WHERE name = %s ORDER BY id"


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    directory = tmp_path / "orders"
    directory.mkdir()
    return directory


@pytest.fixture
def outside(pool: Pool) -> Iterator[None]:
    """This process as one that has nothing to do with workers."""
    signaling.configure(DatabaseSpec(url=pool.url))
    yield
    signaling.configure(None)


def course(pool: Pool, orders: Path, **environ: str) -> Worker:
    return pool.start("course", ORDERS=str(orders), **environ)


# -- triggers ----------------------------------------------------------------------------------------------------


def test_a_trigger_wakes_a_worker_with_the_commit_and_not_before(pool: Pool, orders: Path, outside: None) -> None:
    worker = course(pool, orders)
    until(lambda: "Watching" in worker.log(), worker.log)
    with signaling.unit() as unit:
        cron.trigger("triggered")
        unit.rollback()
    with signaling.unit():
        cron.trigger("triggered")
        assert pool.ask("SELECT 1 FROM procman.cron_trigger") == []
    began = time.monotonic()
    assert pool.await_rows("SELECT name, planned FROM ran") == [("trigger", None)]
    assert time.monotonic() - began < 5  # and not after the sleep of half a minute
    assert pool.ask("SELECT 1 FROM procman.cron_trigger") == []
    assert pool.ask(RUNS, "triggered") == [("done", None, "trigger")]
    assert pool.entry("triggered")["next_call"] is None


def test_triggers_of_the_future_come_at_their_times(pool: Pool, orders: Path, outside: None) -> None:
    course(pool, orders)
    cron.trigger("triggered", at=[0.5, timedelta(seconds=1), 1000.0])
    pool.await_rows("SELECT 1 FROM ran", 2)
    first, second = pool.ask("SELECT due FROM procman.cron_run ORDER BY id")
    assert timedelta(seconds=0.4) < second - first < timedelta(seconds=0.6)
    late = pool.ask("SELECT extract(epoch FROM began - due)::float FROM procman.cron_run")
    assert max(late) < 5
    assert pool.ask("SELECT count(*) FROM procman.cron_trigger") == [1]


def test_several_at_once_are_one_run_and_one_during_a_run_is_another(
    pool: Pool, orders: Path, gate: Gate, outside: None
) -> None:
    (orders / "hold").touch()
    # Before any worker knows it: the code of this process does not have it either.
    with pytest.raises(LookupError, match="there is no cron entry 'triggered'"):
        cron.trigger("triggered")
    workers = [course(pool, orders, GATE=gate.path) for _ in range(2)]
    cron.trigger("triggered", at=[0, 0, 0])
    with gate.held() as run:
        assert run.pid in {worker.pid for worker in workers}
        cron.trigger("triggered")
        cron.trigger("triggered")
        # Both look, and leave it to the one who runs it.
        until(lambda: pool.ask("SELECT count(*) FROM procman.cron_trigger") == [2], pool.logs)
    began = time.monotonic()
    with gate.held():
        assert time.monotonic() - began < 3
        assert pool.ask("SELECT count(*) FROM procman.cron_trigger") == [0]
    until(lambda: len(pool.ask(RUNS, "triggered")) == 2, pool.logs)


def test_an_entry_triggers_itself_and_what_a_failed_run_has_triggered_is_not(
    pool: Pool, orders: Path, outside: None
) -> None:
    (orders / "trigger myself").touch()
    course(pool, orders)
    cron.trigger("triggered")
    pool.await_rows("SELECT 1 FROM ran", 2)
    (orders / "trigger and fail").touch()
    cron.trigger("triggered")
    # It is tried again for the trigger that it was run for.
    pool.await_rows("SELECT 1 FROM procman.cron_run WHERE outcome = 'done'", 3)
    assert [row[0] for row in pool.ask(RUNS, "triggered")] == ["done", "done", "failed", "done"]
    assert pool.ask("SELECT 1 FROM procman.cron_trigger") == []


def test_a_trigger_whose_run_has_failed_is_tried_again(pool: Pool, orders: Path, outside: None) -> None:
    (orders / "fail").touch()
    course(pool, orders)
    cron.trigger("triggered")
    pool.await_rows("SELECT 1 FROM procman.cron_run WHERE outcome = 'failed'", 2)
    (orders / "fail").unlink()
    pool.await_rows("SELECT 1 FROM ran")
    assert pool.entry("triggered")["failure_count"] == 0
    first, second = pool.ask("SELECT began FROM procman.cron_run WHERE outcome = 'failed' ORDER BY id LIMIT 2")
    assert second - first >= timedelta(seconds=1)


def test_a_trigger_waits_for_an_entry_that_is_disabled(pool: Pool, orders: Path, outside: None) -> None:
    worker = course(pool, orders)
    pool.ask("INSERT INTO procman.cron_disabled (name, reason) VALUES ('triggered', 'test')")
    cron.trigger("triggered")
    cron.trigger("killer")
    until(lambda: worker.sample().requests == 1, worker.log)
    assert pool.ask("SELECT name FROM procman.cron_trigger") == ["triggered"]
    pool.ask("DELETE FROM procman.cron_disabled")
    pool.await_rows("SELECT 1 FROM ran WHERE name = 'trigger'")


# -- misfires ----------------------------------------------------------------------------------------------------


def test_calls_that_were_missed_are_skipped_or_all_made_good(pool: Pool, orders: Path) -> None:
    course(pool, orders).leave()
    missed = timedelta(hours=5)
    pool.ask("UPDATE procman.cron SET next_call = next_call - %s, planned = planned - %s", missed, missed)
    pool.ask("UPDATE procman.cron SET next_call = '2020-01-01', planned = '2020-01-01' WHERE name = 'yearly'")
    worker = course(pool, orders)
    pool.await_rows("SELECT 1 FROM ran WHERE name = 'schedule'", 5)
    planned = pool.ask("SELECT planned FROM ran ORDER BY id")
    assert {after - before for before, after in pairwise(planned)} == {timedelta(hours=1)}
    until(lambda: pool.ask(RUNS, "yearly") == [("skipped", None, "schedule")], worker.log)
    assert pool.ask("SELECT next_call > now() FROM procman.cron WHERE planned IS NOT NULL") == [True, True]
    assert "Cron yearly is skipped" in worker.log()


# -- runs that kill their workers --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["killer", "kills at the commit"])
def test_what_kills_its_workers_backs_off_and_is_done_when_it_can_be(
    pool: Pool, orders: Path, outside: None, name: str
) -> None:
    (orders / "kill").touch()
    course(pool, orders)
    cron.trigger(name)
    for _ in range(3):
        pool.workers[-1].process.wait(30)
        course(pool, orders)
    # The second time it was run at once; from then on it waits.
    until(lambda: pool.entry(name)["failure_count"] == 3, pool.logs)
    (orders / "kill").unlink()
    pool.await_rows("SELECT 1 FROM ran")
    assert len(pool.ask("SELECT 1 FROM ran")) == 1
    until(lambda: len(pool.ask(RUNS, name)) == 4, pool.logs)
    assert pool.ask(RUNS, name) == [("killed", "lost", "trigger")] * 3 + [("done", None, "trigger")]
    pids = pool.ask("SELECT pid FROM procman.cron_run WHERE outcome = 'killed' ORDER BY id")
    assert pids == [worker.pid for worker in pool.workers[:3]]
    assert (pool.entry(name)["failure_count"], pool.entry(name)["kills"]) == (0, 0)


def test_who_has_failed_for_a_week_is_deactivated_and_everybody_is_told(
    pool: Pool, orders: Path, outside: None
) -> None:
    (orders / "fail").touch()
    worker = course(pool, orders)
    cron.trigger("triggered")
    pool.await_rows("SELECT 1 FROM procman.cron_run WHERE outcome = 'failed'")
    pool.ask(
        "UPDATE procman.cron SET failure_count = 5, first_failure = now() - interval '8 days' WHERE name = 'triggered'"
    )
    told = worker.await_message(Deactivated)
    assert told.entry == "triggered"
    assert "is deactivated: failed 6 times since" in told.text
    worker.await_log("is deactivated: failed 6 times")
    assert "ERROR" in next(line for line in worker.log().splitlines() if "is deactivated" in line)
    (reason,) = pool.ask("SELECT reason FROM procman.cron_disabled WHERE name = 'triggered'")
    assert reason.startswith("failed 6 times since")
    number = len(pool.ask(RUNS, "triggered"))
    cron.trigger("killer")
    pool.await_rows("SELECT 1 FROM ran WHERE name = 'killer'")
    assert len(pool.ask(RUNS, "triggered")) == number


# -- portions ----------------------------------------------------------------------------------------------------


def test_a_run_for_each_portion_and_others_have_their_turn(pool: Pool, tmp_path: Path, outside: None) -> None:
    trace = tmp_path / "trace"
    pool.ask("UPDATE counter SET value = 20")
    pool.start("portions", TRACE=str(trace))
    with signaling.unit():
        cron.trigger("returns")
        cron.trigger("other", at=0.01)
    pool.await_rows("SELECT 1 FROM procman.cron_run WHERE name = 'returns' AND outcome = 'done'")
    lines = trace.read_text().split()
    assert lines.count("returns") == 20
    assert "other" in lines[:-1]  # it did not wait for all of them
    outcomes = pool.ask(RUNS, "returns")
    assert [outcome for outcome, _, _ in outcomes] == ["partial"] * 19 + ["done"]
    assert [cause for _, _, cause in outcomes] == ["trigger"] + ["portion"] * 19
    assert pool.ask("SELECT done, remaining FROM procman.cron_run WHERE name = 'returns' ORDER BY id LIMIT 1") == [
        (1, 19)
    ]


def test_several_portions_in_a_run_are_committed_one_by_one_under_the_claim(
    pool: Pool, tmp_path: Path, gate: Gate, outside: None
) -> None:
    trace = tmp_path / "trace"
    pool.ask("UPDATE counter SET value = 5")
    for _ in range(2):
        pool.start("portions", TRACE=str(trace), GATE=gate.path, HOLD_AT="3")
    cron.trigger("commits")
    with gate.held():
        assert pool.ask("SELECT value FROM counter") == [3]
        entry = pool.entry("commits")
        assert (entry["done"], entry["remaining"], entry["cause"]) == (1, 3, "portion")
        with closing(psycopg2.connect(pool.url)) as other, other.cursor() as cr:
            cr.execute("SELECT 1 FROM procman.cron WHERE name = 'commits' FOR NO KEY UPDATE SKIP LOCKED")
            assert cr.fetchall() == []  # it is held
    until(lambda: pool.ask(RUNS, "commits") == [("done", None, "trigger")], pool.logs)
    assert pool.ask("SELECT value FROM counter") == [0]
    assert trace.read_text().split() == ["commits"]


def test_a_failure_takes_back_the_last_portion_alone(pool: Pool, tmp_path: Path, outside: None) -> None:
    pool.ask("UPDATE counter SET value = 5")
    pool.start("portions", TRACE=str(tmp_path / "trace"), FAIL_AT="3").retire()
    pool.workers[0].wait()
    worker = pool.start("portions", TRACE=str(tmp_path / "trace"), FAIL_AT="3")
    cron.trigger("commits")
    pool.await_rows("SELECT 1 FROM procman.cron_run WHERE outcome = 'failed'")
    assert pool.ask("SELECT value FROM counter") == [3]
    # It is tried again for what is left: from 3 on.
    until(lambda: pool.ask("SELECT value FROM counter") == [0], worker.log)


def test_what_a_call_of_the_schedule_has_left_undone_does_not_wait_for_the_next_call(
    pool: Pool, tmp_path: Path, outside: None
) -> None:
    pool.ask("UPDATE counter SET value = 5")
    worker = pool.start("portions", TRACE=str(tmp_path / "trace"), FAIL_AT="3")
    # As if it had a schedule: the next time is far away.
    pool.ask(
        "UPDATE procman.cron SET schedule = 'CRON_TZ=UTC 0 0 1 1 *', next_call = now(), planned = now()"
        " WHERE name = 'commits'"
    )
    until(lambda: pool.ask("SELECT value FROM counter") == [0], worker.log)
    until(lambda: len(pool.ask(RUNS, "commits")) == 2, worker.log)
    assert pool.ask(RUNS, "commits") == [("failed", None, "schedule"), ("done", None, "portion")]
    assert pool.ask("SELECT next_call = planned FROM procman.cron WHERE name = 'commits'") == [True]


def test_killed_between_portions_the_rest_is_done_by_another_one(pool: Pool, tmp_path: Path, outside: None) -> None:
    pool.ask("UPDATE counter SET value = 5")
    first = pool.start("portions", TRACE=str(tmp_path / "trace"), KILL_AT="3")
    cron.trigger("commits")
    first.process.wait(30)
    assert pool.ask("SELECT value FROM counter") == [3]
    # For a few seconds the entry is kept for the one who was killed.
    second = pool.start("portions", TRACE=str(tmp_path / "trace"))
    until(lambda: pool.ask("SELECT value FROM counter") == [0], second.log)
    until(lambda: len(pool.ask(RUNS, "commits")) == 2, second.log)
    assert pool.ask(RUNS, "commits") == [("killed", "lost", "portion"), ("done", None, "portion")]


def test_who_says_that_there_is_more_and_does_nothing_is_not_run_without_end(
    pool: Pool, tmp_path: Path, outside: None
) -> None:
    trace = tmp_path / "trace"
    pool.start("portions", TRACE=str(trace))
    cron.trigger("says so and does nothing")
    until(lambda: pool.ask(RUNS, "says so and does nothing") == [("partial", None, "trigger")], pool.logs)
    cron.trigger("other")
    until(lambda: trace.exists() and "other" in trace.read_text(), pool.logs)
    assert trace.read_text().splitlines() == ["says so", "other"]


def test_called_otherwise_nothing_is_committed_and_nobody_told(pool: Pool, outside: None) -> None:
    with signaling.unit() as unit:
        with unit.cursor() as cr:
            cr.execute("INSERT INTO counter VALUES (5)")
        cron.progress(done=1, remaining=1)
        assert cron.commit(done=2) == TURN
        assert cron.current() is None
        unit.rollback()
    assert pool.ask("SELECT value FROM counter") == [0]
