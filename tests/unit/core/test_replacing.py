"""Workers that are replaced while they serve: soft limits, and the ways in which a reload may go."""

from __future__ import annotations

import pytest

from procman.core import effect as do
from procman.core import event as ev
from procman.core.reason import Reason
from procman.core.spec import Backoff, Reload
from tests.support.simulation import Kind, World, pool

NO_JITTER = Backoff(first=1.0, factor=2.0, most=8.0)


def serving(*specs):
    world = World(*specs)
    world.start()
    world.pass_time(10)
    return world


def wish(world, name, reason=Reason.MAX_REQUESTS):
    return world.send(ev.RecycleAsked(world.id_of(name), reason))


# -- soft limits ----------------------------------------------------------------------------------------


def test_a_soft_limit_replaces_before_it_retires():
    world = serving(pool("http", workers=2))
    world.slow.add("http")
    old = world.id_of("http.1")
    effects = wish(world, "http.1", Reason.MEMORY_SOFT)
    assert [(e.slot, e.generation) for e in world.of(do.Spawn, effects)] == [(1, 1)]
    assert not world.of(do.Retire, effects)
    assert world.pool("http").ready == 2

    successor = max(world.alive)
    effects = world.send(ev.WorkerReady(successor))
    assert world.of(do.Retire, effects) == [do.Retire(old, Reason.MEMORY_SOFT)]
    assert world.pool("http").exits[-1].reason is Reason.MEMORY_SOFT
    assert world.names() == ["http.1@1", "http.2@1"]


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_so_many_of_a_pool_at_a_time(at_once):
    world = serving(pool("http", workers=4, recycle_at_once=at_once))
    world.slow.add("http")
    for slot in (1, 2, 3, 4):
        wish(world, f"http.{slot}")
    for replaced in range(4):
        assert len(world.alive) == 4 + min(at_once, 4 - replaced)
        assert world.pool("http").ready == 4
        world.send(ev.WorkerReady(next(w for w in world.alive if world.arbiter.worker(w).ready_at is None)))
    assert len(world.of(do.Retire)) == 4
    assert world.names() == ["http.1@1", "http.2@1", "http.3@1", "http.4@1"]


def test_the_one_that_is_replaced_may_finish_its_unit_however_long_it_takes():
    world = serving(pool("http", stop_timeout=5.0))
    world.stubborn.add("http")
    old = world.id_of("http.1")
    world.unit_started[old] = world.now
    wish(world, "http.1")
    world.pass_time(1000)
    assert old in world.alive
    assert world.pool("http").ready == 1


def test_a_worker_asks_only_once():
    world = serving(pool("http"))
    wish(world, "http.1")
    old = world.id_of("http.1")
    world.slow.add("http")
    wish(world, "http.1")
    wish(world, "http.1", Reason.MAX_AGE)
    assert old in world.alive
    assert world.reports.count("recycling") == 2  # of two workers: the first one has gone


def test_without_a_replacement_it_serves_on_and_the_tries_come_ever_later():
    world = serving(pool("http", workers=2, backoff=NO_JITTER))
    old = world.id_of("http.1")
    world.stillborn.add("http")
    start = world.now
    effects = wish(world, "http.1")
    effects += world.pass_time(60)
    tries = len(world.of(do.Spawn, effects))
    assert 8 <= tries <= 14  # 1, 2, 4, then every 8 seconds, with jitter
    assert [r.event for r in world.of(do.Report, effects)].count("recycle_failed") == tries
    assert old in world.alive
    assert world.pool("http").state.value == "running"
    assert world.pool("http").ready == 2

    world.stillborn.clear()
    world.pass_time(8)
    assert old not in world.alive
    assert world.pool("http").ready == 2
    assert world.now > start


def test_one_that_can_not_be_replaced_does_not_keep_the_others_for_ever():
    """After each failure it is another one's turn."""
    world = serving(pool("http", workers=2, backoff=NO_JITTER))
    world.stillborn.add("http")
    wish(world, "http.1")
    wish(world, "http.2")
    world.pass_time(5)
    assert {r.slot for r in world.of(do.Report) if r.event == "recycle_failed"} == {1, 2}


def test_a_reload_replaces_them_anyway():
    world = serving(pool("http", workers=2))
    world.slow.add("http")
    wish(world, "http.1")
    world.slow.clear()
    world.send(ev.ReloadAsked("op", ("http",)))
    assert world.names() == ["http.1@2", "http.2@2"]
    world.pass_time(100)
    assert world.names() == ["http.1@2", "http.2@2"]


def test_a_wish_outlives_a_rejected_reload():
    world = serving(pool("http", workers=2))
    old = world.id_of("http.1")
    world.broken_imports.add("http")
    world.send(ev.ReloadAsked("op", ("http",)))
    wish(world, "http.1")
    world.pass_time(10)
    assert old not in world.alive
    assert world.names() == ["http.1@1", "http.2@1"]


def test_a_worker_that_dies_while_its_successor_starts_is_not_replaced_twice():
    world = serving(pool("http", workers=1))
    world.slow.add("http")
    wish(world, "http.1")
    world.exit(min(world.alive), -9)
    world.pass_time(1)
    assert len(world.alive) == 1
    world.send(ev.WorkerReady(max(world.alive)))
    assert world.pool("http").ready == 1


def test_where_two_can_not_stand_side_by_side_the_old_one_goes_first():
    world = serving(pool("jobs", Kind.JOBRUNNER, reload=Reload(surge=0)))
    old = world.id_of("jobs.1")
    effects = wish(world, "jobs.1", Reason.MAX_AGE)
    order = [type(e) for e in effects if isinstance(e, (do.Retire, do.Spawn))]
    assert order == [do.Retire, do.Spawn]
    assert old not in world.alive
    assert world.pool("jobs").ready == 1


# -- reload = { … } -------------------------------------------------------------------------------------


def starting(world):
    return [w for w in world.alive if world.arbiter.worker(w).ready_at is None]


def test_surge_is_how_many_start_at_a_time_after_the_canary():
    world = serving(pool("http", workers=6, reload=Reload(surge=3)))
    world.slow.add("http")
    world.send(ev.ReloadAsked("op", ("http",)))
    assert len(starting(world)) == 1
    world.send(ev.WorkerReady(starting(world)[0]))
    assert len(starting(world)) == 3
    assert world.pool("http").ready == 6


def test_without_a_canary_they_start_at_once():
    world = serving(pool("http", workers=6, reload=Reload(surge=3, canary=False)))
    world.slow.add("http")
    world.send(ev.ReloadAsked("op", ("http",)))
    assert len(starting(world)) == 3


def test_no_surge_is_in_place_and_so_many_may_be_missing():
    world = serving(pool("http", workers=6, reload=Reload(surge=0, max_unavailable=2)))
    world.slow.add("http")
    world.send(ev.ReloadAsked("op", ("http",)))
    assert world.pool("http").ready == 5  # the canary's place
    assert len(world.alive) == 6
    world.send(ev.WorkerReady(starting(world)[0]))
    assert world.pool("http").ready == 4
    assert len(world.alive) == 6
    while starting(world):
        world.send(ev.WorkerReady(starting(world)[0]))
        assert len(world.alive) == 6
    assert world.concluded == [("op", "http", "done")]


def test_a_command_may_have_a_surge():
    world = serving(pool("command", Kind.EXEC, workers=2, reload=Reload(surge=1)))
    world.send(ev.ReloadAsked("op", ("command",)))
    assert len(world.alive) == 3
    world.pass_time(10)
    assert world.names() == ["command.1@2", "command.2@2"]


def test_the_delay_is_served_before_the_next_one_starts():
    world = serving(pool("http", workers=3, reload=Reload(delay=10.0)))
    world.send(ev.ReloadAsked("op", ("http",)))
    assert world.names(2) == ["http.1@2"]
    assert len(world.names(1)) == 3  # nobody goes before the canary has shown what it is worth
    world.pass_time(9.9)
    assert world.names(2) == ["http.1@2"]
    world.pass_time(0.2)
    assert world.names() == ["http.1@2", "http.2@1", "http.2@2", "http.3@1"]
    world.pass_time(20)
    assert world.concluded == [("op", "http", "done")]


def test_a_canary_that_dies_within_the_delay_rejects_the_reload():
    world = serving(pool("http", workers=3, reload=Reload(delay=10.0)))
    world.send(ev.ReloadAsked("op", ("http",)))
    world.pass_time(5)
    world.exit(world.id_of("http.1", 2), -11)
    assert world.concluded == [("op", "http", "failed")]
    assert "died after 5.0 s" in world.of(do.Concluded)[0].reason
    assert world.names() == ["http.1@1", "http.2@1", "http.3@1"]
    assert world.pool("http").ready == 3


def test_a_reload_that_is_superseded_within_the_delay_leaves_no_third_worker_in_a_slot():
    world = serving(pool("http", workers=2, reload=Reload(delay=10.0)))
    world.send(ev.ReloadAsked("first", ("http",)))
    assert world.names() == ["http.1@1", "http.1@2", "http.2@1"]
    world.send(ev.ReloadAsked("second", ("http",)))
    assert world.names() == ["http.1@1", "http.1@3", "http.2@1"]
    world.pass_time(30)
    assert world.names() == ["http.1@3", "http.2@3"]


@pytest.mark.parametrize("canary", [True, False])
@pytest.mark.parametrize(("surge", "workers"), [(1, 2), (1, 4), (2, 4), (3, 2)])
def test_reloads_in_one_instant_leave_no_more_workers_than_target_and_surge(canary, surge, workers):
    policy = Reload(surge=surge, max_unavailable=2, canary=canary, delay=3.0)
    world = serving(pool("http", workers=workers, recycle_at_once=2, reload=policy))
    for seconds in (0.0, 4.0):  # the second time within another roll, that has begun to serve
        world.pass_time(seconds)
        for number in range(3):
            world.send(ev.ReloadAsked(f"op{seconds}{number}", ("http",)))
            assert len(world.names()) <= workers + surge
    world.pass_time(60)
    assert len(world.names()) == world.pool("http").ready == workers


def test_the_next_successor_waits_for_the_end_of_one_that_is_given_up():
    world = serving(pool("http", workers=2, start_timeout=20.0, backoff=NO_JITTER))
    world.slow.add("http")
    wish(world, "http.1")
    world.pass_time(20)
    assert world.names() == ["http.1@1", "http.2@1"]
    assert world.reports[-1] == "recycle_failed"
    world.slow.clear()
    world.pass_time(100)
    assert world.names() == ["http.1@1", "http.2@1"]
    assert world.pool("http").ready == 2
