"""A new configuration, pool by pool: nothing, live, rolling, or another pool."""

from __future__ import annotations

import dataclasses

import pytest

from procman.core import effect as do
from procman.core import event as ev
from procman.core.channels import Channel
from procman.core.difference import LIVE, ROLLING, Change, change, with_live_part
from procman.core.reason import Reason
from procman.core.spec import HttpWork, Limits, PoolSpec, Reload, Scaling, TcpAddress
from tests.support.simulation import Kind, World, pool


def serving(*specs):
    world = World(*specs)
    world.start()
    world.pass_time(10)
    return world


def configured(world, *specs, unchanged=False):
    return world.send(ev.Configured(specs, "op", unchanged))


def test_every_field_is_one_or_the_other():
    fields = {field.name for field in dataclasses.fields(PoolSpec)}
    assert fields == LIVE | ROLLING | {"name", "kind"}
    assert not LIVE & ROLLING


@pytest.mark.parametrize(
    ("after", "what"),
    [
        (pool("p"), Change.NOTHING),
        (pool("p", workers=2), Change.LIVE),
        (pool("p", limits=Limits(requests=5), reload=Reload(surge=2)), Change.LIVE),
        (pool("p", env=(("A", "1"),)), Change.ROLLING),
        (pool("p", workers=2, nice=1), Change.ROLLING),
        (pool("p", Kind.CRON), Change.REPLACE),
    ],
)
def test_what_it_takes(after, what):
    assert change(pool("p"), after) is what


def test_channels_of_a_job_runner_are_changed_live_and_nothing_else_of_its_work():
    before = pool("p", Kind.JOBRUNNER)
    other = dataclasses.replace(before.work, channels=(Channel(name="root", capacity=9),))
    after = dataclasses.replace(before, work=other)
    assert change(before, after) is Change.LIVE
    assert with_live_part(before, after) == after
    assert change(before, dataclasses.replace(after, work=dataclasses.replace(other, reserve=5))) is Change.ROLLING


def test_what_has_not_changed_is_left_alone_when_something_else_has():
    world = serving(pool("same", workers=2), pool("other"))
    effects = configured(world, pool("same", workers=2), pool("other", nice=1))
    assert not [e for e in effects if isinstance(e, do.Report) and e.pool == "same"]
    assert world.names() == ["other.1@2", "same.1@1", "same.2@1"]
    ends = {end.pool: (end.outcome.value, end.change) for end in world.of(do.Concluded, effects)}
    assert ends == {"same": ("done", Change.NOTHING), "other": ("done", None)}


def test_when_nothing_has_changed_it_is_about_the_code():
    world = serving(pool("http"), pool("command", Kind.EXEC))
    configured(world, pool("http"), pool("command", Kind.EXEC), unchanged=True)
    world.pass_time(10)
    assert world.names() == ["command.1@2", "http.1@2"]


def test_limits_are_changed_without_replacing_anybody():
    world = serving(pool("http", workers=2, limits=Limits(time_real=100.0)))
    spec = pool("http", workers=2, limits=Limits(time_real=5.0, requests=7))
    effects = configured(world, spec)
    assert world.of(do.Adjust, effects) == [do.Adjust(spec)]
    assert world.names() == ["http.1@1", "http.2@1"]
    # And they apply to those who are there, without waiting for what the limits were before.
    worker = world.id_of("http.1")
    world.unit_started[worker] = world.now
    assert [e.worker for e in world.of(do.Interrupt, world.pass_time(6))] == [worker]


def test_the_number_of_workers_is_changed_live_and_waited_for():
    world = serving(pool("http", workers=1))
    world.slow.add("http")
    configured(world, pool("http", workers=2))
    assert world.concluded == []
    assert world.names() == ["http.1@1", "http.2@1"]
    world.send(ev.WorkerReady(world.id_of("http.2")))
    assert world.concluded == [("op", "http", "done")]


def test_a_number_that_was_asked_for_stays_when_the_file_does_not_change_it():
    world = serving(pool("http", workers=1))
    world.send(ev.ScaleAsked("scale", "http", 3))
    configured(world, pool("http", workers=1, kill_timeout=1.0))
    assert world.pool("http").target == 3


def test_a_pool_begins_to_scale_itself_live():
    world = serving(pool("http", workers=6))
    configured(world, pool("http", workers=2, scaling=Scaling(least=2, most=4)))
    assert world.pool("http").target == 2
    assert world.of(do.Measure)


def test_a_wish_that_the_new_limits_do_not_share_is_forgotten():
    world = serving(pool("http", workers=1, limits=Limits(requests=5), recycle_at_once=1))
    world.stillborn.add("http")
    world.send(ev.RecycleAsked(world.id_of("http.1"), Reason.MAX_REQUESTS))
    configured(world, pool("http", workers=1, limits=Limits(requests=500)))
    world.stillborn.clear()
    effects = world.pass_time(100)
    assert world.of(do.Retire, effects) == []


def test_a_change_of_another_kind_while_a_reload_is_under_way_supersedes_it():
    world = serving(pool("http", workers=1))
    world.slow.add("http")
    configured(world, pool("http", nice=1))
    world.slow.clear()
    world.send(ev.Configured((pool("http", nice=1, workers=2),), "live"))
    world.send(ev.WorkerReady(world.id_of("http.1", 2)))
    assert world.names() == ["http.1@2", "http.2@2"]
    assert sorted(world.concluded) == [("live", "http", "done"), ("op", "http", "done")]


def test_a_rejected_reload_keeps_what_was_changed_live_meanwhile():
    world = serving(pool("http", workers=1))
    world.slow.add("http")
    configured(world, pool("http", nice=1))
    world.send(ev.Configured((pool("http", nice=1, workers=2, limits=Limits(requests=9)),), "live"))
    world.exit(world.id_of("http.1", 2), 1)
    world.slow.clear()
    world.pass_time(100)
    assert world.pool("http").target == 2
    assert world.arbiter.pools["http"].spec == pool("http", workers=2, limits=Limits(requests=9))


def test_another_address_is_a_reload():
    def at(port):
        return HttpWork(app="demo:application", binds=(TcpAddress(host="127.0.0.1", port=port),))

    before = dataclasses.replace(pool("http"), work=at(1))
    assert change(before, dataclasses.replace(before, work=at(2))) is Change.ROLLING
