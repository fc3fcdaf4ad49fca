"""Looks and what they lead to: each limit on its own, and what nobody may suffer from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from procman.core import effect as do
from procman.core import event as ev
from procman.core.limits import Act, cpu_tick, verdicts_on
from procman.core.reason import Reason
from procman.core.spec import HttpWork, LongpollingWork, PoolSpec
from procman.core.worker import State, Worker
from tests.support.simulation import Kind, Limits, World, pool, sample


def serving(*specs):
    world = World(*specs)
    world.start()
    world.effects.clear()
    return world


def ready(spec=None, **policy):
    worker = Worker(id=1, spec=spec or pool("w", **policy), slot=1, generation=1, spawned_at=0.0)
    worker.state = State.READY
    return worker


def weigh(worker, seen, now):
    """(act, reason, when to look again) of the hardest verdict."""
    verdicts = list(verdicts_on(worker, seen, now))
    worst = max(verdicts, key=lambda verdict: verdict.act)
    return worst.act, worst.reason, min(verdict.look_at for verdict in verdicts)


def idle(beat):
    return replace(sample(None), beat=beat)


# -- silence ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked_at", "beat", "now", "act", "look_at"),
    [
        (None, 100.0, 101.0, Act.WAIT, 150.0),  # just seen
        (None, 100.0, 150.0, Act.ASK, 160.0),  # silent for as long as nobody need care
        (None, 100.0, 146.0, Act.ASK, 156.0),  # with others, a little early
        (150.0, 100.0, 155.0, Act.WAIT, 160.0),  # it may take its time to answer
        (150.0, 150.1, 160.0, Act.WAIT, 200.1),  # it has answered
        (150.0, 100.0, 160.0, Act.CONDEMN, 160.0),  # it has not
        (5000.0, 100.0, 5001.0, Act.WAIT, 5010.0),  # the daemon was stopped for an hour, and asks before it judges
    ],
)
def test_a_silent_worker_is_asked_before_it_is_condemned(asked_at, beat, now, act, look_at):
    worker = ready(hang_timeout=60.0)
    worker.asked_at = asked_at
    assert weigh(worker, idle(beat), now) == (act, Reason.HANG, look_at)


def test_idle_workers_that_answer_live_for_ever_and_cost_a_question_in_a_minute():
    world = serving(
        pool("http", workers=50, hang_timeout=60.0),
        pool("cron", Kind.CRON, workers=10, hang_timeout=60.0),
        pool("jobs", Kind.JOBRUNNER, hang_timeout=60.0),
    )
    world.pass_time(3600)
    assert not world.of(do.Kill)
    assert not world.of(do.Dump)
    asked = len(world.of(do.Ping))
    assert 61 * 55 <= asked <= 61 * 75
    # All of a pool are looked at in one go: at most two turns of the loop for each question.
    assert len(world.of(do.Look)) <= 3 * 2 * 75


def test_workers_that_fell_silent_one_after_the_other_are_asked_together_in_the_end():
    world = serving(pool("http", workers=10, hang_timeout=60.0))
    for number, worker in enumerate(sorted(world.alive)):
        world.beats[worker] = world.now + number
    world.pass_time(1000)
    world.effects.clear()
    world.pass_time(600)
    assert len(world.of(do.Look)) <= 2 * 3 * 12


@pytest.mark.parametrize("limit", [0.5, 5.0, 60.0])
def test_a_worker_that_hangs_between_units_is_ended_with_its_stacks_within_the_limit(limit):
    world = serving(pool("http", workers=2, hang_timeout=limit))
    world.pass_time(3 * limit)
    world.hung.add("http")
    world.effects.clear()
    effects = world.pass_time(limit * 1.01)
    assert [type(e) for e in effects if isinstance(e, (do.Dump, do.Kill))][:2] == [do.Dump, do.Dump]
    assert [record.reason for record in world.pool("http").exits] == [Reason.HANG] * 2
    assert {"hung", "killing", "exited"} <= set(world.reports)


def test_without_a_limit_nobody_is_looked_at():
    world = serving(pool("http", workers=2, hang_timeout=None))
    world.hung.add("http")
    assert world.arbiter.deadline() is None
    world.pass_time(3600)
    assert not world.of(do.Look)


def test_a_worker_in_a_unit_is_not_asked_however_long_it_takes():
    world = serving(pool("http"))
    world.hung.add("http")
    world.unit_started[world.id_of("http.1")] = world.now
    world.pass_time(3600)
    assert not world.of(do.Ping)
    assert not world.of(do.Dump)


@pytest.mark.parametrize(
    "spec",
    [
        PoolSpec(name="poll", kind=Kind.LONGPOLLING, work=LongpollingWork(app=None, binds=()), hang_timeout=60.0),
        PoolSpec(name="http", kind=Kind.HTTP, work=HttpWork(app="a:b", binds=(), threads=4), hang_timeout=60.0),
    ],
)
def test_a_loop_that_goes_on_besides_the_units_has_to_answer_in_them_too(spec):
    worker = ready(spec)
    busy = replace(sample(100.0), beat=100.0)
    assert weigh(worker, busy, 150.0)[0] is Act.ASK
    worker.asked_at = 150.0
    assert weigh(worker, busy, 160.0)[:2] == (Act.CONDEMN, Reason.HANG)


def test_commands_and_the_database_server_have_no_channel_to_be_asked_over():
    world = serving(pool("command", Kind.EXEC), pool("db", Kind.POSTGRES))
    world.pass_time(3600)
    assert not world.of(do.Look)


def test_a_unit_that_begins_in_the_moment_of_the_question_is_an_answer():
    worker = ready()
    worker.asked_at = 150.0
    assert weigh(worker, replace(sample(150.5), beat=100.0), 160.0)[0] is Act.WAIT
    assert worker.asked_at is None


# -- CPU time of units ------------------------------------------------------------------------------------


def test_a_unit_that_burns_and_does_not_notice_is_interrupted_then_dumped_then_killed():
    world = serving(pool("http", limits=Limits(time_cpu=10.0), kill_timeout=2.0))
    world.stubborn.add("http")
    world.cpu_share = 1.0
    world.unit_started[world.id_of("http.1")] = world.now
    world.pass_time(9.9)
    assert not world.of(do.Interrupt)
    effects = world.pass_time(2.3)
    assert [e.reason for e in world.of(do.Interrupt)] == [Reason.CPU_TIME]
    kinds = [type(e) for e in effects if isinstance(e, (do.Interrupt, do.Dump, do.Kill))]
    assert kinds == [do.Interrupt, do.Dump, do.Kill]
    assert world.pool("http").exits[-1].reason is Reason.CPU_TIME


def test_a_unit_that_waits_has_all_the_time_in_the_world():
    world = serving(pool("http", limits=Limits(time_cpu=10.0)))
    world.cpu_share = 0.001
    world.unit_started[world.id_of("http.1")] = world.now
    world.pass_time(3600)
    assert not world.of(do.Interrupt)
    assert len(world.of(do.Look)) < 3600 / 6


def test_half_the_cpu_takes_twice_the_time_and_few_looks():
    world = serving(pool("http", limits=Limits(time_cpu=10.0)))
    world.cpu_share = 0.5
    world.unit_started[world.id_of("http.1")] = world.now
    world.pass_time(19.5)
    assert not world.of(do.Interrupt)
    world.pass_time(1.0)
    assert len(world.of(do.Interrupt)) == 1
    assert len(world.of(do.Look)) < 15


def test_the_real_time_limit_counts_beside_that_of_the_cpu():
    world = serving(pool("http", limits=Limits(time_cpu=10.0, time_real=15.0)))
    world.unit_started[world.id_of("http.1")] = world.now
    world.pass_time(15.1)
    assert [e.reason for e in world.of(do.Interrupt)] == [Reason.REAL_TIME]


@pytest.mark.parametrize(("limit", "tick"), [(0.1, 0.02), (1.0, 0.05), (10.0, 0.5), (60.0, 1.0), (3600.0, 1.0)])
def test_the_tick_is_a_share_of_the_limit_and_never_a_burden(limit, tick):
    assert cpu_tick(limit) == tick


@pytest.mark.parametrize("limits", [Limits(time_real=1.0), Limits(time_cpu=1.0)])
def test_a_unit_that_begins_after_a_long_idle_time_is_interrupted_as_soon(limits):
    world = serving(pool("http", limits=limits))
    world.cpu_share = 1.0
    for idle_for in (7.7, 100.3, 1000.9):
        world.pass_time(idle_for)
        world.effects.clear()
        world.unit_started[world.id_of("http.1")] = world.now
        world.pass_time(0.95)
        assert not world.of(do.Interrupt)
        world.pass_time(0.1)
        assert len(world.of(do.Interrupt)) == 1
        world.pass_time(0.1)


# -- units with limits of their own -------------------------------------------------------------------------


@pytest.mark.parametrize("hang_timeout", [None, 120.0])
@pytest.mark.parametrize("idle_for", [0.0, 7.7, 1000.9])
def test_a_unit_may_have_a_limit_of_its_own_where_its_pool_has_none(hang_timeout, idle_for):
    world = serving(pool("cron", Kind.CRON, hang_timeout=hang_timeout))
    worker = world.id_of("cron.1")
    world.send(ev.UnitBounded(worker, 5.0))
    world.pass_time(idle_for)
    world.unit_limit, world.unit_started[worker] = 5.0, world.now
    world.pass_time(4.95)
    assert not world.of(do.Interrupt)
    world.pass_time(0.1)
    assert [e.reason for e in world.of(do.Interrupt)] == [Reason.REAL_TIME]
    assert "limit 5 s" in next(report.text for report in world.of(do.Report) if report.event == "over_time")


def test_without_one_the_next_unit_takes_as_long_as_it_likes():
    world = serving(pool("cron", Kind.CRON))
    worker = world.id_of("cron.1")
    world.send(ev.UnitBounded(worker, 5.0))
    world.unit_started[worker] = world.now
    world.pass_time(500.0)
    assert not world.of(do.Interrupt)


@pytest.mark.parametrize(("of_pool", "of_unit", "limit"), [(5.0, 50.0, 5.0), (50.0, 5.0, 5.0)])
def test_of_both_limits_the_tighter_one_counts(of_pool, of_unit, limit):
    world = serving(pool("http", limits=Limits(time_real=of_pool)))
    worker = world.id_of("http.1")
    world.send(ev.UnitBounded(worker, of_unit))
    world.unit_limit, world.unit_started[worker] = of_unit, world.now
    world.pass_time(limit - 0.05)
    assert not world.of(do.Interrupt)
    world.pass_time(0.1)
    assert len(world.of(do.Interrupt)) == 1


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), 1e-9])
def test_a_limit_that_makes_no_sense_has_nobody_looked_at_without_end(seconds):
    world = serving(pool("cron", Kind.CRON))
    world.send(ev.UnitBounded(world.id_of("cron.1"), seconds))
    world.effects.clear()
    world.pass_time(10.0)
    assert len(world.of(do.Look)) <= 101


def test_everybody_is_told_of_an_entry_that_was_deactivated():
    world = serving(pool("cron", Kind.CRON))
    world.send(ev.EntryDeactivated(world.id_of("cron.1"), "report", "shop", "Cron report is given up"))
    (report,) = [report for report in world.of(do.Report) if report.event == "deactivated"]
    assert (report.level, report.worker, report.details) == (
        do.Level.ERROR,
        "cron.1",
        {"entry": "report", "database": "shop"},
    )


# -- samples of workers that have gone ---------------------------------------------------------------------


def test_a_sample_of_a_worker_or_pool_that_is_gone_changes_nothing():
    world = serving(pool("http"))
    assert world.send(ev.Sampled("http", ((4711, sample(1.0)),))) == []
    assert world.send(ev.Sampled("gone", ((1, sample(1.0)),))) == []
