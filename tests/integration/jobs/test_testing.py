"""What applications have for their own tests: jobs run within the transaction of the test."""

from __future__ import annotations

import pytest

import procman
from procman import signaling
from procman.jobs import testing
from tests.support import jobs as functions

pytest_plugins = ["procman.jobs.fixtures"]

note = functions.note


@pytest.fixture
def unit(database, procman_unit):
    assert procman_unit.database == database
    return procman_unit


def effects():
    with procman.cursor() as cr:
        cr.execute("SELECT value FROM effect ORDER BY id")
        return [value for (value,) in cr.fetchall()]


def test_run_and_seen_in_the_transaction_and_by_nobody_else(unit, truth):
    note.delay("a")
    (job,) = testing.run_jobs()
    assert (job.state, job.result, job.retry) == ("done", "noted a", 1)
    assert effects() == ["a"]
    assert truth.states() == {}
    assert truth.effects() == []


def test_nothing_remains(database, truth):
    with testing.rolled_back():
        note.delay("a")
        testing.run_jobs()
    assert signaling.current() is None
    assert truth.states() == {}


def test_by_priority_and_then_by_age(unit):
    note.delay("a")
    note.options(priority=1).delay("b")
    note.delay("c")
    testing.run_jobs()
    assert effects() == ["b", "a", "c"]


def test_what_jobs_enqueue_and_let_go_is_run_too(unit):
    procman.chain(functions.enqueue_a_note.prepare("a"), note.prepare("b")).delay()
    assert len(testing.run_jobs()) == 3
    assert sorted(effects()) == ["a", "b"]
    graph = procman.chain(functions.give_back.prepare(5), functions.add_up.prepare()).delay()
    testing.run_jobs()
    assert procman.jobs.get(graph.uuids[1]).result == 5


def test_later_is_later_unless_it_is_said_otherwise(unit):
    note.at(3600).delay("later")
    assert testing.run_jobs() == []
    assert [job.state for job in testing.run_jobs(future=True)] == ["done"]


def test_the_exception_of_a_job_is_the_test_s(unit):
    functions.fail.delay("a")
    with pytest.raises(ValueError, match="no"):
        testing.run_jobs()
    assert effects() == []
    functions.fail.delay("b")
    note.delay("c")
    failed, done = testing.run_jobs(catch=True)
    assert (failed.state, failed.exc_name, done.state) == ("failed", "builtins.ValueError", "done")
    assert effects() == ["c"]


def test_another_try(unit):
    functions.again.delay(seconds=60)
    (job,) = testing.run_jobs()
    assert (job.state, job.retry, job.exc_message) == ("pending", 1, "not yet")
    with pytest.raises(procman.jobs.FailedJobError, match=r"Max\. retries"):
        testing.run_jobs(future=True)


def test_jobs_without_end(unit):
    functions.again.options(retries=0).delay()
    with pytest.raises(AssertionError, match="5 jobs have been run, and there are still others"):
        testing.run_jobs(future=True, most=5)


def test_progress(unit):
    functions.tell_progress.delay(1, 2, "half", "")
    testing.run_jobs()
    with procman.cursor() as cr:
        cr.execute("SELECT done, total FROM procman.job_progress")
        assert cr.fetchall() == [(1, 2)]


def test_what_is_enqueued(unit):
    assert testing.enqueued() == []
    note.delay("a")
    functions.described.delay("b", size=(3))
    assert [job.args for job in testing.enqueued()] == [["a"], ["b"]]
    assert [job.kwargs for job in testing.enqueued(functions.described)] == [{"size": 3}]
    assert testing.assert_enqueued(functions.described, value="b", size=3).description == "b of 3"
    assert testing.assert_enqueued(note, "a").state == "pending"
    with pytest.raises(AssertionError, match=r"^note\('b'\) is not enqueued; there are: note\('a'\)$"):
        testing.assert_enqueued(note, "b")
    with pytest.raises(AssertionError, match=r"^fail\('b'\) is not enqueued; there is no job of this function$"):
        testing.assert_enqueued(functions.fail, "b")
    testing.run_jobs()
    assert testing.enqueued() == []


def test_outside_of_a_unit(database):
    with pytest.raises(RuntimeError, match=r"run_jobs\(\) works in the unit of a test"):
        testing.run_jobs()
