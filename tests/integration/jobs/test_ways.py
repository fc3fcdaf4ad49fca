"""Whatever is done to jobs that wait for each other: nobody waits for ever, and every try is kept."""

from __future__ import annotations

import graphlib

import psycopg2
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

import procman
from procman import signaling
from procman.core.spec import DatabaseSpec
from procman.db.connection import database_name
from procman.jobs import states, steering
from procman.jobs.states import Failure
from tests.support import jobs as functions

_ROWS = """
SELECT job.id, job.uuid::text AS uuid, job.state, job.date_started, job.attempt,
    coalesce(array_agg(edge.parent) FILTER (WHERE edge.parent IS NOT NULL), '{}') AS parents,
    (SELECT count(*) FROM procman.job_attempt WHERE job_id = job.id) AS kept
FROM procman.job AS job LEFT JOIN procman.job_dependency AS edge ON edge.child = job.id
GROUP BY job.id ORDER BY job.id
"""

MOST_JOBS = 12


class Ways(RuleBasedStateMachine):
    """Jobs are moved by what moves them in life, and the rows are looked at after each step.

    ``tidy``: whether the runner has looked at everything since the last step.
    """

    url = ""

    def __init__(self):
        super().__init__()
        signaling.configure(DatabaseSpec(url=self.url))
        self.connection = signaling.connect(database_name(self.url))
        self.cr = self.connection.cursor()
        self.cr.execute("TRUNCATE procman.job CASCADE")
        self.attempts = {}
        self.tidy = True

    def teardown(self):
        self.connection.close()

    def rows(self):
        self.cr.execute(_ROWS)
        names = [column.name for column in self.cr.description]
        return [dict(zip(names, row, strict=True)) for row in self.cr.fetchall()]

    def of(self, data, *among):
        """One of the jobs in such a state; None if there is none."""
        rows = [row for row in self.rows() if row["state"] in among]
        return data.draw(st.sampled_from(rows)) if rows else None

    # -- what happens --------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.rows()) < MOST_JOBS)
    @rule(shape=st.sampled_from(["chain", "group", "diamond", "keyed", "keyed later", "keyed twice"]))
    def enqueue(self, shape):
        a, b, c, d = [functions.note.prepare(name) for name in "abcd"]
        k, other = [functions.note.options(identity_key=key).prepare("k") for key in ("k", "l")]
        graph = {
            "chain": lambda: procman.chain(a, b, c),
            "group": lambda: procman.chain(procman.group(a, b), c),
            "diamond": lambda: procman.chain(a, procman.group(b, c), d),
            "keyed": lambda: procman.chain(k, b),
            "keyed later": lambda: procman.chain(a, k, other),
            "keyed twice": lambda: procman.chain(a, other, k),
        }[shape]()
        graph.delay()

    @precondition(lambda self: 0 < len(self.rows()) < MOST_JOBS)
    @rule(data=st.data(), key=st.sampled_from([None, "k"]))
    def enqueue_after(self, data, key):
        if row := self.of(data, "wait_dependencies", "pending", "enqueued", "started", "failed", "done"):
            functions.note.options(after=row["uuid"], identity_key=key).delay("after")

    @rule(data=st.data())
    def begin(self, data):
        if row := self.of(data, "pending"):
            self.cr.execute("UPDATE procman.job SET state = 'enqueued' WHERE id = %s", (row["id"],))
            self.attempts[row["id"]] = states.start(self.cr, row["uuid"], "http.1", 1)

    @rule(data=st.data(), how=st.sampled_from(["finish", "fail", "postpone", "rescue"]))
    def end(self, data, how):
        row = self.of(data, "started")
        if row is None:
            return
        attempt = self.attempts[row["id"]]
        failure = Failure("E", "message", None)
        if how == "finish":
            assert states.finish(self.cr, attempt, seconds=0.0, result=None)
        elif how == "fail":
            assert states.fail(self.cr, attempt, failure, seconds=0.0)
        elif how == "postpone":
            assert states.postpone(self.cr, attempt, failure, wait=0.0)
        else:
            assert len(states.rescue(self.cr, [(attempt.id, attempt.date_started)])) == 1
        self.tidy = False

    @rule(data=st.data())
    def cancel(self, data):
        if row := self.of(data, "wait_dependencies", "pending", "enqueued", "started", "failed", "done"):
            moved = steering.cancel(self.cr, [row["uuid"]], running=True)
            assert bool(moved) == (row["state"] != "done")

    @rule(data=st.data())
    def requeue(self, data):
        if row := self.of(data, "failed", "cancelled", "done"):
            steering.requeue(self.cr, [row["uuid"]], done=True)
            self.tidy = False

    @rule()
    def release(self):
        steering.release_all(self.cr)
        self.tidy = True

    # -- what holds ----------------------------------------------------------------------------------------

    @invariant()
    def nobody_waits_for_nothing(self):
        if not self.tidy:
            return
        rows = self.rows()
        state = {row["id"]: row["state"] for row in rows}
        for row in rows:
            if row["state"] == "wait_dependencies":
                assert any(state[parent] not in ("done", "cancelled") for parent in row["parents"]), row
                assert all(state[parent] != "cancelled" for parent in row["parents"]), row

    @invariant()
    def nobody_waits_for_himself(self):
        graphlib.TopologicalSorter({row["id"]: row["parents"] for row in self.rows()}).prepare()

    @invariant()
    def of_equal_jobs_one_waits(self):
        self.cr.execute("SELECT count(*) FROM procman.job WHERE waiting_key = 'k'")
        assert self.cr.fetchone()[0] <= 1

    @invariant()
    def every_try_that_is_over_is_in_the_history(self):
        self.cr.execute(
            "SELECT count(*) FILTER (WHERE n <> attempt) FROM (SELECT job.attempt, count(h.number) AS n "
            "FROM procman.job AS job LEFT JOIN procman.job_history AS h ON h.job_id = job.id GROUP BY job.id) AS tries"
        )
        assert self.cr.fetchone()[0] == 0


@pytest.mark.timeout(300)
def test_ways(jobs_url):
    machine = type("WaysHere", (Ways,), {"url": jobs_url})
    options = settings(
        max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    run_state_machine_as_test(machine, settings=options)


def test_a_child_never_begins_before_its_parents_are_done(database, truth):
    """Said by the table itself: no statement of ours makes a child pending whose parent is not done."""
    a, b = procman.chain(functions.note.prepare("a"), functions.note.prepare("b")).delay().uuids
    with signaling.lend(database) as connection, connection.cursor() as cr:
        assert steering.release_all(cr) == []
        assert steering.requeue(cr, [a, b], done=True) == []
        with pytest.raises(psycopg2.errors.ForeignKeyViolation):
            cr.execute("DELETE FROM procman.job WHERE uuid = %s", (a,))
    assert [truth.job(uuid)["state"] for uuid in (a, b)] == ["pending", "wait_dependencies"]
