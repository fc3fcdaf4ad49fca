"""What waits where, counted bit by bit."""

from __future__ import annotations

import pytest

from procman.core.channels import parse
from procman.jobs.census import Census, Waiting
from procman.jobs.scheduler import Job, Scheduler


def job(id, channel="root", database="a", created=0.0, eta=0.0, priority=10, state="pending"):  # noqa: A002
    return Job(priority, created or 1000.0 + id, id, database, id, eta, channel, state)


@pytest.fixture
def scheduler():
    return Scheduler(parse("root:4,root.mail:1"))


def counted(scheduler, now=0.0, **options):
    census = Census()
    census.go_on(scheduler.tree, now, **options)
    return census.waiting


def test_nothing_waits(scheduler):
    assert counted(scheduler) == {}


def test_jobs_are_counted_by_database_and_channel(scheduler):
    for each in (job(1), job(2), job(3, "root.mail"), job(1, database="b", created=5.0), job(4, "root.new.below")):
        scheduler.put(each)
    assert counted(scheduler) == {
        ("a", "root"): Waiting(2, 1001.0),
        ("a", "root.mail"): Waiting(1, 1003.0),
        ("a", "root.new.below"): Waiting(1, 1004.0),
        ("b", "root"): Waiting(1, 5.0),
    }


def test_the_oldest_is_so_by_its_age_and_not_by_its_priority_and_could_start(scheduler):
    for each in (job(1, priority=20, created=50.0), job(2, priority=0, created=60.0), job(3, eta=10.0, created=1.0)):
        scheduler.put(each)
    assert counted(scheduler, now=9.0) == {("a", "root"): Waiting(3, 50.0)}
    assert counted(scheduler, now=10.0) == {("a", "root"): Waiting(3, 1.0)}
    scheduler.remove("a", 1)
    scheduler.remove("a", 2)
    assert counted(scheduler, now=9.0) == {("a", "root"): Waiting(1, None)}


def test_what_runs_does_not_wait(scheduler):
    scheduler.put(job(1))
    scheduler.put(job(2, state="started"))
    assert scheduler.next(0.0)
    assert counted(scheduler) == {}


def test_it_is_done_in_portions_and_believed_when_all_were_seen(scheduler):
    for number in range(1, 11):
        scheduler.put(job(number, "root.mail" if number % 2 else "root", "ab"[number > 5]))
    census = Census()
    for _ in range(3):
        census.go_on(scheduler.tree, 0.0, 3)
        assert census.waiting == {}
    census.go_on(scheduler.tree, 0.0, 3)
    known = {
        ("a", "root"): Waiting(2, 1002.0), ("a", "root.mail"): Waiting(3, 1001.0),
        ("b", "root"): Waiting(3, 1006.0), ("b", "root.mail"): Waiting(2, 1007.0),
    }  # fmt: skip
    assert census.waiting == known
    for number in range(1, 11):
        scheduler.remove("ab"[number > 5], number)
    census.go_on(scheduler.tree, 0.0, 3)
    assert census.waiting == {}


def test_what_goes_while_it_is_being_counted_is_not_counted(scheduler):
    for number in range(1, 5):
        scheduler.put(job(number, f"root.of{number}"))
    census = Census()
    census.go_on(scheduler.tree, 0.0, 2)
    for number in range(1, 5):
        scheduler.remove("a", number)
    scheduler.put(job(9, "root.takes.a.number"))
    census.go_on(scheduler.tree, 0.0, 2)
    assert sum(each.jobs for each in census.waiting.values()) == 2
    scheduler.remove_database("a")
    census.go_on(scheduler.tree, 0.0, 2)
    assert census.waiting == {}
