"""Ten thousand workers in five pools, simulated: what an event costs does not grow with the number of workers."""

from __future__ import annotations

import time
from random import Random

from procman.core import effect as do
from procman.core import event as ev
from procman.core.reason import Reason
from procman.core.spec import Reload
from tests.support.simulation import Kind, Limits, World, pool

SIZES = {"web": 4000, "cron": 3000, "command": 2000, "longer": 900, "small": 100}
# Seconds of CPU, of which a tenth is used; one look at every worker for each event would take an hour.
SECONDS = 60.0


def many():
    kinds = {"cron": Kind.CRON, "command": Kind.EXEC}
    more = {"command": {"reload": Reload(max_unavailable=50)}, "web": {"depends_on": ("small",)}}
    limits = Limits(time_real=100.0)
    return World(
        *(
            pool(name, kinds.get(name, Kind.HTTP), workers=size, limits=limits, **more.get(name, {}))
            for name, size in SIZES.items()
        )
    )


def test_ten_thousand_workers_live_die_and_are_replaced_in_seconds():
    world, random, began = many(), Random(7), time.process_time()

    def ready():
        return {p.name: p.ready for p in world.arbiter.snapshot().pools}

    world.start()
    world.pass_time(10)
    assert ready() == SIZES

    for _ in range(3000):
        world.exit(random.choice(list(world.alive)), random.choice([0, 1, -9, -11]))
        world.pass_time(0.01)
    world.pass_time(40)
    assert ready() == SIZES

    for worker in random.sample(list(world.alive), 2000):
        world.send(ev.RecycleAsked(worker, Reason.MAX_REQUESTS))
    world.pass_time(10)
    assert world.pool("web").ready == SIZES["web"]

    for name in SIZES:
        world.send(ev.ReloadAsked("reload", (name,)))
    world.pass_time(100)  # commands are rolled fifty at a time, and each has to live for a second
    assert {end for end in world.concluded if end[0] == "reload"} == {("reload", name, "done") for name in SIZES}
    assert ready() == SIZES

    world.send(ev.ScaleAsked("scale", "web", 10))
    world.pass_time(10)
    assert world.pool("web").ready == 10

    world.send(ev.ShutdownAsked(ev.Haste.BOUNDED))
    world.pass_time(100)
    assert world.left == 0
    assert len(world.of(do.Spawn)) == world.reports.count("exited")
    assert time.process_time() - began < SECONDS
