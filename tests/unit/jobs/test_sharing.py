"""Channels that databases share, and requests that jobs share."""

from __future__ import annotations

import pytest

from procman.core.channels import Channel, parse
from procman.jobs.scheduler import ENQUEUED, FAILED, PENDING, STARTED, Job, Scheduler


def job(number, database="a", channel="root", *, priority=10, state=PENDING, batch=0, eta=0.0):
    return Job(priority, float(number), number, database, number, eta, channel, state, batch)


def queue(channels, *jobs):
    scheduler = Scheduler(parse(channels) if isinstance(channels, str) else {each.name: each for each in channels})
    for each in jobs:
        scheduler.put(each)
    return scheduler


def start(scheduler, now=100.0):
    """All that can start now: the databases, in this order."""
    started = []
    while chosen := scheduler.next(now):
        started.append(chosen)
    return started


def databases(started):
    return "".join(each.database for each in started)


def done(scheduler, chosen):
    scheduler.put(chosen._replace(state="done"))


def test_a_channel_that_goes_and_comes_again_with_the_same_job():
    scheduler = queue("root:4", job(1, channel="root.a"), job(9, channel="root.b", priority=20))
    assert scheduler.deadline(100.0) is None  # it has looked at both
    for _ in range(3):
        scheduler.remove("a", 1)
        scheduler.put(job(1, channel="root.a"))
        scheduler.deadline(100.0)
    assert [each.id for each in start(scheduler)] == [1, 9]


class TestFair:
    def test_by_turns_and_on_from_the_last_one_served(self):
        scheduler = queue("root:3:fair", *(job(number, "a") for number in (1, 2)), *(job(n, "b") for n in (3, 4)))
        started = start(scheduler)
        assert databases(started) == "aba"
        done(scheduler, started[0])
        assert databases(start(scheduler)) == "b"

    def test_who_has_more_gets_what_is_left(self):
        assert databases(start(queue("root:3:fair", job(1, "a"), *(job(number, "b") for number in (2, 3, 4))))) == "abb"

    def test_never_more_than_the_channel_has(self):
        jobs = [job(number, database) for number in range(4) for database in "ab"]
        assert len(start(queue("root:3:fair", *jobs))) == 3

    def test_a_backlog_starves_nobody(self):
        scheduler = queue("root:2:fair", *(job(number, "a", priority=0) for number in range(1000)))
        running = start(scheduler)
        scheduler.put(job(5000, "b", priority=50))
        done(scheduler, running[0])
        assert databases(start(scheduler)) == "b"

    def test_long_jobs_of_one_do_not_take_the_slots_of_the_other(self):
        """It is slots that are shared: by mere turns the long ones would have all of them sooner or later."""
        long = [job(number, "a") for number in range(100)]
        short = [job(number, "b") for number in range(100)]
        scheduler = queue("root:4:fair", *long, *short)
        start(scheduler)
        for _ in range(50):
            running = [each for each in map(scheduler.get, "b" * 100, range(100)) if each and each.state == ENQUEUED]
            assert len(running) == 2
            done(scheduler, running[0])
            start(scheduler)

    def test_weights_count_slots(self):
        channel = Channel(name="root", capacity=8, fair=True, weights=(("big_*", 3),))
        scheduler = queue([channel], *(job(n, name) for n in range(20) for name in ("big_one", "small")))
        names = [each.database for each in start(scheduler)]
        assert (names.count("big_one"), names.count("small")) == (6, 2)

    def test_weights_count_turns_where_there_is_one_slot(self):
        channel = Channel(name="root", capacity=1, fair=True, weights=(("a", 3),))
        scheduler = queue([channel], *(job(number, name) for number in range(40) for name in "ab"))
        served = ""
        for _ in range(40):
            (chosen,) = start(scheduler)
            served += chosen.database
            done(scheduler, chosen)
        assert served.count("a") == 30
        assert "bb" not in served

    def test_who_had_nothing_has_not_saved_up_turns(self):
        scheduler = queue("root:1:fair", *(job(number, "a") for number in range(100)))
        for _ in range(50):
            (chosen,) = start(scheduler)
            done(scheduler, chosen)
        for number in range(100):
            scheduler.put(job(number, "b"))
        served = ""
        for _ in range(10):
            (chosen,) = start(scheduler)
            served += chosen.database
            done(scheduler, chosen)
        assert served in ("ab" * 5, "ba" * 5)

    def test_order_within_a_database_is_as_ever(self):
        jobs = [job(1, "a", priority=20), job(2, "a", priority=5), job(3, "a")]
        assert [each.id for each in start(queue("root:3:fair", *jobs))] == [2, 3, 1]

    def test_channels_below_keep_their_limits_for_all_together(self):
        jobs = [job(number, name, "root.mail") for number in range(5) for name in "ab"]
        others = [job(10 + number, name) for number in range(5) for name in "ab"]
        started = start(queue("root:4:fair,mail:1", *jobs, *others))
        assert [each.channel for each in started].count("root.mail") == 1
        assert databases(started).count("a") == 2

    def test_a_shared_channel_beside_others(self):
        jobs = [job(number, "a", "root.mail") for number in range(3)] + [job(9, "b", "root.mail"), job(10, "c")]
        started = start(queue("root:4,mail:2:fair", *jobs))
        assert [(each.database, each.channel) for each in started] == [
            ("a", "root.mail"), ("b", "root.mail"), ("c", "root"),
        ]  # fmt: skip

    def test_a_failed_job_holds_up_its_own_database_only(self):
        scheduler = queue(
            "root:4,s:1:sequential:fair",
            job(1, "a", "root.s", state=FAILED),
            job(2, "a", "root.s"),
            job(3, "b", "root.s"),
        )
        assert [each.id for each in start(scheduler)] == [3]

    def test_it_can_be_switched_on_and_off_while_jobs_wait_and_run(self):
        scheduler = queue("root:2", *(job(number, "a") for number in range(4)), *(job(9 + n, "b") for n in range(4)))
        running = start(scheduler)
        scheduler.configure(parse("root:3:fair"))
        assert scheduler.figures()["root"].running == 2
        assert databases(start(scheduler)) == "b"
        scheduler.configure(parse("root:4"))
        assert databases(start(scheduler)) == "a"
        done(scheduler, running[0])
        assert scheduler.figures()["root"][:2] == (3, 4)


class TestLimitPerDatabase:
    def test_in_the_order_of_all(self):
        jobs = [job(number, "a") for number in range(4)] + [job(9, "b")]
        assert databases(start(queue("root:4:per_database=2", *jobs))) == "aab"

    @pytest.mark.parametrize(("most", "started"), [(0, ""), (1, "a"), (3, "aaa")])
    def test_of_one_database(self, most, started):
        channel = Channel(name="root", capacity=4, per_database=(("a", most), ("*", 9)))
        assert databases(start(queue([channel], *(job(number) for number in range(4))))) == started

    def test_the_first_pattern_counts(self):
        channel = Channel(name="root", capacity=9, per_database=(("*", 1), ("prod_*", 5)))
        assert len(start(queue([channel], *(job(number, "prod_x") for number in range(4))))) == 1

    def test_a_slot_that_gets_free_is_used(self):
        scheduler = queue("root:4:per_database=1", job(1), job(2))
        (first,) = start(scheduler)
        done(scheduler, first)
        assert [each.id for each in start(scheduler)] == [2]


def batch(scheduler, now=100.0, **most):
    return [each.id for each in scheduler.next_batch(now, **most)]


class TestBatches:
    def test_jobs_that_ask_for_it_share_a_request_and_a_slot(self):
        scheduler = queue("root:1", *(job(number, batch=3) for number in range(5)))
        assert batch(scheduler) == [0, 1, 2]
        assert scheduler.figures()["root"] == (1, 2, 0)
        assert batch(scheduler) == []

    def test_the_slot_is_free_when_the_last_one_has_ended(self):
        scheduler = queue("root:1", *(job(number, batch=2) for number in range(3)))
        batch(scheduler)
        scheduler.put(job(0, state="done"))
        assert batch(scheduler) == []
        scheduler.put(job(1, state=FAILED))
        assert batch(scheduler) == [2]

    def test_one_that_goes_back_waits_for_a_slot_of_its_own(self):
        scheduler = queue("root:1", *(job(number, batch=2) for number in range(2)))
        batch(scheduler)
        scheduler.put(job(0, batch=2))
        assert batch(scheduler) == []
        scheduler.put(job(1, state="done"))
        assert batch(scheduler) == [0]

    def test_what_is_read_of_them_meanwhile_changes_nothing(self):
        scheduler = queue("root:2", *(job(number, batch=3) for number in range(3)))
        batch(scheduler)
        for number in range(3):
            scheduler.put(job(number, state=STARTED))
        assert scheduler.figures()["root"].running == 1
        scheduler.configure(parse("root:2:fair"))
        assert scheduler.figures()["root"].running == 1

    @pytest.mark.parametrize(
        "other",
        [
            job(1, batch=0),
            job(1, batch=1),
            job(1, "b", batch=5),
            job(1, priority=11, batch=5),
            job(1, channel="root.x", batch=5),
            job(1, batch=5, state=STARTED),
            job(1, batch=5, eta=200.0),
        ],
        ids=["asks not", "asks for one", "database", "priority", "channel", "runs", "time"],
    )
    def test_who_is_not_taken_along(self, other):
        assert batch(queue("root:4", job(0, batch=5), other)) == [0]

    def test_the_smallest_wish_counts(self):
        jobs = [job(0, batch=9), job(1, batch=9), job(2, batch=3), job(3, batch=9)]
        assert batch(queue("root:4", *jobs)) == [0, 1, 2]
        assert batch(queue("root:4", *jobs), most=2) == [0, 1]
        assert batch(queue("root:4", *jobs), most=1) == [0]

    @pytest.mark.parametrize("channels", ["root:1:sequential", "root:4:throttle=1"])
    def test_none_where_each_start_counts(self, channels):
        assert batch(queue(channels, *(job(number, batch=5) for number in range(5)))) == [0]

    def test_never_ahead_of_what_is_more_urgent(self):
        jobs = [job(0, channel="root.x", batch=5, priority=5), job(1, channel="root.x", batch=5), job(2, priority=7)]
        scheduler = queue("root:1", *jobs)
        assert batch(scheduler) == [0]

    def test_a_turn_of_a_database_is_as_long_as_its_batch(self):
        scheduler = queue("root:1:fair", *(job(number, name, batch=3) for number in range(30) for name in "ab"))
        served = []
        for _ in range(4):
            chosen = scheduler.next_batch(100.0)
            served.append((chosen[0].database, len(chosen)))
            for each in chosen:
                done(scheduler, each)
        assert served == [("a", 3), ("b", 3), ("a", 3), ("b", 3)]

    def test_more_than_the_most_there_can_be(self):
        scheduler = queue("root:1", *(job(number, batch=10**6) for number in range(2000)))
        assert len(scheduler.next_batch(100.0)) == 1023
