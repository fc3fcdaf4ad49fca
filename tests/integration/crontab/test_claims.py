"""The claims of several workers on a real PostgreSQL against a model: any order of steps, and death at any of them.

A worker is a context of its own and its connections here; dying is hanging up. What hypothesis decides is who does what
next; what it can't decide, the order of two messages within the server, is in the tests with processes.
"""

from __future__ import annotations

import contextvars
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

import procman
from procman import signaling
from procman.core.spec import DatabaseSpec
from procman.crontab import Cron, execute, registration, triggers
from procman.crontab.history import Who
from procman.db.connection import connect, database_name

if TYPE_CHECKING:
    from collections.abc import Callable

ENTRIES = ("scheduled", "triggered", "other")
ENDS = ("done", "failed", "partial", "portion", "lost once")
DEATHS = ("before the work", "after the work", "before the commit", "after the commit", "after a portion")
WORKERS = 3


class Death(BaseException):
    """kill -9, as far as the database can tell."""


class Worker:
    numbers = itertools.count(1000)

    def __init__(self, machine: Claims) -> None:
        self.machine = machine
        self.context = contextvars.Context()
        self.connection = connect(machine.url)
        self.pid = next(Worker.numbers)
        who = Who(f"cron.{self.pid}", "here", self.pid)
        entries = machine.cron.entries
        self.post = execute.Post(machine.database, entries, who, 1000, self.connection.cursor, [])
        self.run: execute.Run | None = None
        self.tries = 0

    @property
    def entry(self) -> str | None:
        return None if self.run is None else self.run.entry.name

    def do(self, call: Callable[..., Any], *values: Any) -> Any:
        return self.context.run(call, *values)

    def claim(self) -> bool:
        """Whether there was anything to claim; afterwards `run` is set, unless it was only put off."""
        found = self.do(execute.claim, self.post)
        if not isinstance(found, execute.Run):
            return False
        name = found.entry.name
        assert name not in self.machine.held(), f"{name} is claimed twice"
        if self.do(found.open):
            self.run = found
        else:
            self.machine.put_off[name] += 1
        return True

    def finish(self, how: str) -> None:
        assert self.run is not None
        self.machine.orders[self.run.entry.name] = (self, how)
        self.tries = 0
        self.do(self.run.perform, lambda: True)
        self.run = None

    def die(self) -> None:
        """Hang up without a word."""
        unit = self.do(signaling.current)
        if unit is not None and unit.opened:
            unit.connection().close()
        self.do(signaling.roll_back_leftover)
        self.connection.close()


class Claims(RuleBasedStateMachine):
    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.database = database_name(self.url)
        self.cron = Cron()
        self.orders: dict[str, tuple[Worker, str]] = {}
        self.put_off: Counter[str] = Counter()
        self.deaths: Counter[str] = Counter()
        self.triggered: list[tuple[str, Any]] = []
        self.cron("0 0 1 1 *", name="scheduled", misfire="all")(lambda: self.work("scheduled"))
        for name in ("triggered", "other"):
            self.cron("never", name=name, priority=5)(lambda name=name: self.work(name))
        signaling.configure(DatabaseSpec(url=self.url, connections=20))
        self.truth = signaling.connect(self.database)
        for table in ("cron", "cron_run", "cron_attempt", "cron_trigger", "cron_disabled"):
            self.ask(f"TRUNCATE procman.{table}")
        self.ask("DROP TABLE IF EXISTS effect; CREATE TABLE effect (name text, number bigint)")
        with self.truth.cursor() as cursor:
            registration.register(cursor, self.cron, application="app", database=self.database)
        self.workers = [Worker(self) for _ in range(WORKERS)]

    def teardown(self) -> None:
        for worker in self.workers:
            worker.die()
        signaling.configure(None)
        self.truth.close()

    def ask(self, statement: str, *values: Any) -> list[Any]:
        with self.truth.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def held(self) -> set[str]:
        return {worker.entry for worker in self.workers if worker.entry is not None}

    # -- what the functions do -----------------------------------------------------------------------------

    def work(self, name: str) -> None:
        worker, how = self.orders[name]
        worker.tries += 1
        if how == "before the work":
            raise Death
        with procman.cursor() as cr:
            cr.execute("INSERT INTO effect SELECT name, runs + 1 FROM procman.cron WHERE name = %s", (name,))
        unit = signaling.current()
        assert unit is not None
        if how == "after the work":
            raise Death
        if how == "before the commit":
            unit.before_commit(_die)
        if how == "after the commit":
            unit.after_commit(lambda: _die(None))
        if how == "failed":
            raise LookupError("on purpose")
        if how == "partial":
            self.cron.progress(done=1, remaining=1)
        if how == "lost once" and worker.tries == 1:
            with procman.cursor() as cr:
                cr.execute("DO $$ BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = '40001'; END $$")
        if how in ("portion", "after a portion"):
            with procman.cursor() as cr:
                cr.execute(
                    "DELETE FROM effect USING procman.cron"
                    " WHERE effect.name = %s AND cron.name = effect.name AND number = runs + 1",
                    (name,),
                )
            self.cron.commit(done=1, remaining=1)
            if how == "after a portion":
                raise Death
            with procman.cursor() as cr:
                cr.execute("INSERT INTO effect SELECT name, runs + 1 FROM procman.cron WHERE name = %s", (name,))
            self.cron.progress(remaining=0)

    # -- steps ---------------------------------------------------------------------------------------------

    @rule(number=st.integers(0, WORKERS - 1))
    def claim(self, number: int) -> None:
        worker = self.workers[number]
        if worker.run is None and not worker.claim():
            held = list(self.held())
            due = self.ask("SELECT name FROM procman.cron WHERE next_call <= now() AND name <> ALL (%s)", held)
            assert due == [], "what is due and free was not found"

    @precondition(lambda self: self.held())
    @rule(number=st.integers(0, WORKERS - 1), how=st.sampled_from(ENDS))
    def finish(self, number: int, how: str) -> None:
        worker = self.workers[number]
        if worker.run is not None:
            worker.finish(how)

    @precondition(lambda self: self.held())
    @rule(number=st.integers(0, WORKERS - 1), when=st.sampled_from(DEATHS))
    def die(self, number: int, when: str) -> None:
        worker = self.workers[number]
        if worker.run is None:
            return
        name = worker.run.entry.name
        try:
            worker.finish(when)
        except Death:
            pass
        else:
            raise AssertionError("it has survived")
        if when != "after the commit":
            self.deaths[name] += 1
        worker.die()
        self.workers[number] = Worker(self)

    @rule(name=st.sampled_from(ENTRIES))
    def trigger(self, name: str) -> None:
        self.ask("INSERT INTO procman.cron_trigger (name, at) VALUES (%s, clock_timestamp())", name)
        self.triggered.append((name, self.ask("SELECT clock_timestamp()")[0][0]))

    @rule(number=st.integers(0, WORKERS - 1))
    def move_triggers(self, number: int) -> None:
        with self.workers[number].connection.cursor() as cursor:
            triggers.move(cursor)

    @rule()
    def let_time_pass(self) -> None:
        """What waits for its time is due, unless it is being run."""
        self.ask(
            "UPDATE procman.cron SET next_call = clock_timestamp(),"
            " planned = CASE cause WHEN 'schedule' THEN least(planned, clock_timestamp()) ELSE planned END"
            " WHERE name IN (SELECT name FROM procman.cron WHERE next_call > now() FOR NO KEY UPDATE SKIP LOCKED)"
        )

    # -- what must hold ------------------------------------------------------------------------------------

    @invariant()
    def an_effect_for_each_run_that_is_recorded_and_no_other(self) -> None:
        effects = Counter(self.ask("SELECT name, number FROM effect"))
        runs = Counter(self.ask("SELECT name, number FROM procman.cron_run WHERE outcome IN ('done', 'partial')"))
        assert effects == runs
        assert set(effects.values()) <= {1}

    @precondition(lambda self: not self.held())
    @rule()
    def nothing_is_lost(self) -> None:
        """With nobody in the way, one worker does all there is, and the history tells all that has happened."""
        worker = self.workers[0]
        for _ in range(200):
            self.move_triggers(0)
            self.ask(
                "UPDATE procman.cron SET next_call = clock_timestamp() WHERE next_call > now()"
                " AND (cause <> 'schedule' OR kills > 0)"
            )
            if not worker.claim():
                break
            if worker.run is not None:
                worker.finish("done")
        else:
            raise AssertionError("it does not end")
        assert self.ask("SELECT name FROM procman.cron_trigger") == []
        for name, at in self.triggered:
            query = "SELECT count(*) FROM procman.cron_run WHERE name = %s AND outcome = 'done' AND began >= %s"
            served = self.ask(query, name, at)
            assert served[0][0] > 0, f"{name} was triggered at {at} and not run since"
        self.triggered.clear()
        killed = self.ask("SELECT name, count(*)::int FROM procman.cron_run WHERE outcome = 'killed' GROUP BY name")
        assert Counter(dict(killed)) == self.deaths


def _die(cursor: object) -> None:
    raise Death


def test_no_order_of_steps_and_no_death_loses_or_doubles_a_run(database_url: str) -> None:
    signaling.configure(DatabaseSpec(url=database_url))
    signaling.connect(database_name(database_url)).close()
    signaling.configure(None)
    machine = type("ClaimsHere", (Claims,), {"url": database_url})
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=40, deadline=None))
