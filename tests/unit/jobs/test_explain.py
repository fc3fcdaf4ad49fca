"""What the scheduler says a job waits for."""

from __future__ import annotations

import pytest

from procman.core.channels import parse
from procman.jobs.explain import Behind, DatabaseFull, Full, HeldUp, NotDue, Other, Paused, Throttled
from procman.jobs.scheduler import FAILED, PENDING, STARTED, Job, Scheduler


def job(number, channel="root", *, database="one", priority=10, eta=0.0, state=PENDING):
    return Job(priority, float(number), number, database, number, eta, channel, state)


@pytest.fixture
def queue():
    def make(channels, *jobs):
        scheduler = Scheduler(parse(channels))
        for each in jobs:
            scheduler.put(each)
        return scheduler

    return make


def obstacles(scheduler, key, *, database="one", now=100.0):
    return list(scheduler.explain(database, key, now).obstacles)


def test_a_job_that_nothing_holds_up(queue):
    explained = queue("root:1", job(1), job(2)).explain("one", 1, 100.0)
    assert (explained.job.id, explained.obstacles, explained.ahead, explained.lines()) == (1, (), 0, [])


def test_a_job_that_is_not_known_and_one_that_runs(queue):
    scheduler = queue("root:1", job(1, state=STARTED))
    assert scheduler.explain("one", 2, 100.0) is None
    assert scheduler.explain("two", 1, 100.0) is None
    assert scheduler.explain("one", 1, 100.0).job.state == STARTED


def test_its_time(queue):
    scheduler = queue("root:1", job(1, eta=130.0))
    assert obstacles(scheduler, 1) == [NotDue(30.0)]
    assert scheduler.explain("one", 1, 100.0).lines() == ["not before its time, in 30.0 s"]
    assert obstacles(scheduler, 1, now=130.0) == []


def test_paused_by_configuration_and_by_hand_here_and_above(queue):
    scheduler = queue("root:1,a:2:paused", job(1, "root.a.x"))
    assert obstacles(scheduler, 1) == [Paused("root.a")]
    scheduler.pause("root")
    assert obstacles(scheduler, 1) == [Paused("root.a"), Paused("root")]
    scheduler.resume("a")
    assert obstacles(scheduler, 1) == [Paused("root")]


def test_full_names_who_runs_below_too_and_in_other_databases(queue):
    running = [job(1, "root.a", state=STARTED), job(2, "root.a.x", database="two", state=STARTED)]
    scheduler = queue("root:4,a:2", *running, job(3, "root.b", state=STARTED), job(4, "root.a"))
    assert obstacles(scheduler, 4) == [Full("root.a", 2, 2, (Other("one", 1), Other("two", 2)))]
    assert scheduler.explain("one", 4, 100.0).lines() == ["channel root.a is full: 2 of 2 run (1 of one, 2 of two)"]


def test_throttled(queue):
    scheduler = queue("root:4,a:2:throttle=5", job(1, "root.a"), job(2, "root.a"))
    assert scheduler.next(100.0).id == 1
    assert obstacles(scheduler, 2, now=102.0) == [Throttled("root.a", 3.0)]
    assert obstacles(scheduler, 2, now=105.0) == []


def test_a_sequence_held_up_by_a_failed_job(queue):
    scheduler = queue("root:4,s:1:sequential", job(1, "root.s", state=FAILED), job(2, "root.s"))
    assert obstacles(scheduler, 2) == [HeldUp("root.s", (Other("one", 1),))]
    scheduler.remove("one", 1)
    assert obstacles(scheduler, 2) == []


def test_a_sequence_that_waits_for_the_time_of_an_earlier_job(queue):
    scheduler = queue("root:4,s:1:sequential", job(1, "root.s", eta=150.0), job(2, "root.s"), job(3, "root.s"))
    assert obstacles(scheduler, 2) == [Behind("root.s", Other("one", 1), 50.0)]
    explained = scheduler.explain("one", 3, 100.0)
    assert explained.obstacles == (Behind("root.s", Other("one", 1), 50.0),)
    assert explained.ahead == 1


def test_how_many_are_before_it(queue):
    scheduler = queue(
        "root:1",
        job(1),
        job(2, "root.a", eta=50.0),
        job(3, database="two"),
        job(4, eta=500.0),
        job(5),
        job(6, priority=20),
    )
    explained = scheduler.explain("one", 5, 100.0)
    assert (explained.ahead, explained.ahead_in_all, explained.by_turns) == (2, 3, False)
    assert explained.lines() == ["2 in its channel and 3 in all are before it"]


def test_a_shared_channel_has_an_order_for_each_database(queue):
    scheduler = queue("root:1:fair", job(1), job(2, database="two"), job(3), job(4))
    explained = scheduler.explain("one", 4, 100.0)
    assert (explained.ahead, explained.ahead_in_all, explained.by_turns) == (2, 3, True)


def test_a_database_that_has_its_share(queue):
    scheduler = queue("root:4:per_database=1", job(1, state=STARTED), job(2))
    assert obstacles(scheduler, 2) == [DatabaseFull("root", "one", 1, 1)]


def test_keys_of_another_kind(queue):
    scheduler = queue("root:1")
    scheduler.put(Job(10, 1.0, 7, "one", "4b0e", 0.0, "root", STARTED))
    scheduler.put(Job(10, 1.0, 8, "one", "77aa", 0.0, "root", PENDING))
    assert obstacles(scheduler, "77aa") == [Full("root", 1, 1, (Other("one", "4b0e"),))]
