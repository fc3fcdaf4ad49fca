"""What one image of the daemon leaves to the next: all of it, and understood by other versions."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace

import pytest

from procman.core import effect as do
from procman.core import event as ev
from procman.core import handover
from procman.core.arbiter import Arbiter
from procman.core.handover import ARBITER, DERIVED, Reader, Unreadable, Writer, dump, restore
from procman.core.pool import Pool
from procman.core.spec import Hooks
from procman.core.worker import State
from tests.support.simulation import Kind, World, pool


def through_json(arbiter):
    writer = Writer()
    return json.loads(json.dumps({"arbiter": dump(arbiter, writer), "specs": writer.specs}))


def again(arbiter):
    data = through_json(arbiter)
    return restore(data["arbiter"], Reader(data["specs"]))


@pytest.fixture
def world():
    """A world in which much has happened: a reload that is half way, a parked pool, exits, a stopped pool."""
    world = World(
        pool("web", workers=3, hooks=Hooks(after_stop=("clean",), timeout=900)),
        pool("sick", workers=2),
        pool("cmd", Kind.EXEC, workers=2),
        pool("off"),
    )
    world.hanging_hooks.add("after_stop")
    world.stillborn.add("sick")
    world.start()
    world.send(ev.StopAsked("stop-1", ("off",)))
    world.pass_time(300)
    world.send(ev.ScaleAsked("scale-2", "web", 4))
    world.kill("web.1")
    world.slow.add("web")
    world.send(ev.ReloadAsked("reload-3", ("web",)))
    world.pass_time(0.5)
    return world


def test_everything_is_there_again(world):
    restored = again(world.arbiter)
    assert restored.snapshot() == world.arbiter.snapshot()
    assert restored.deadline() == world.arbiter.deadline()
    assert restored.pools["web"].roll == world.arbiter.pools["web"].roll
    assert restored.pools["sick"].parked == world.arbiter.pools["sick"].parked is not None
    assert through_json(restored) == through_json(world.arbiter)


def test_it_goes_on_where_it_was(world):
    world.arbiter = again(world.arbiter)
    before = {spawn.worker for spawn in world.of(do.Spawn)}
    world.slow.clear()
    for worker in list(world.alive):
        world.send(ev.WorkerReady(worker))
    assert ("reload-3", "web", "done") in world.concluded
    assert world.names(2).count("web.1@2") == 1
    new = {spawn.worker for spawn in world.of(do.Spawn)} - before
    assert min(new) > max(before), "the id of a worker was given twice"


def test_every_field_is_handed_over_or_named_as_left_out():
    assert set(vars(Arbiter(()))) == {*ARBITER, "pools", *DERIVED[Arbiter]}
    for kind, left_out in DERIVED.items():
        if is_dataclass(kind):
            assert {field.name for field in fields(kind)} >= set(left_out)
    written = Writer().write(World(pool("web")).arbiter.pools["web"])
    assert set(written) == {field.name for field in fields(Pool)} - set(DERIVED[Pool])


def test_whatever_holds_mutable_state_is_written_field_by_field(world):
    """A structure that is added to a pool or a worker, and not to the hand-over, would be decoded as frozen values."""

    def structures(value):
        if isinstance(value, dict):
            for item in value.values():
                yield from structures(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                yield from structures(item)
        elif is_dataclass(value) and not value.__dataclass_params__.frozen:
            yield type(value)
            for field in fields(value):
                if field.name not in handover.DERIVED.get(type(value), {}):
                    yield from structures(getattr(value, field.name))

    assert set(structures(list(world.arbiter.pools.values()))) == set(handover._STRUCTURES)


def test_a_specification_is_written_once(world):
    data = through_json(world.arbiter)
    assert len(data["specs"]) == 4
    restored = again(world.arbiter)
    workers = [worker.spec for worker in restored.pools["web"].workers.values()]
    assert all(spec is workers[0] for spec in workers)


def test_what_is_unknown_is_ignored_and_what_is_missing_has_its_default(world):
    data = through_json(world.arbiter)
    data["arbiter"]["mood"] = "good"
    web = data["arbiter"]["pools"][0]
    web["horoscope"] = {"is": "Something"}
    web["roll"]["phase"] = 3
    del web["grace"], web["restarts"]["probing"]
    for _, worker in web["workers"]:
        worker["shoe_size"] = 43
        del worker["look_at"]
    data["specs"][0]["colour"] = "blue"
    data["specs"][0]["limits"]["memory_dream"] = 1
    del data["specs"][0]["kill_timeout"]
    del data["arbiter"]["_announced"]
    restored = restore(data["arbiter"], Reader(data["specs"]))
    assert restored.pools["web"].grace is None
    assert restored.pools["web"].spec == replace(world.arbiter.pools["web"].spec, kill_timeout=2.0)
    assert {w.pid for w in restored.pools["web"].workers.values()} == {
        w.pid for w in world.arbiter.pools["web"].workers.values()
    }


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data["arbiter"]["pools"][0].pop("spec"), "without its specification"),
        (lambda data: data["arbiter"]["pools"][0].update(spec=99), "no specification 99"),
        (lambda data: data["arbiter"]["pools"][0].update(workers=7), "Pool.workers: expected a list"),
        (lambda data: data["arbiter"]["pools"][0].update(target="many"), "Pool.target: int: expected int, got 'many'"),
        (lambda data: data["arbiter"]["pools"][0]["roll"].pop("operation"), "Roll: operation is missing"),
        (
            lambda data: data["arbiter"]["pools"][0]["workers"][0][1].update(state="dancing"),
            "'dancing' is not a valid State",
        ),
        (lambda data: data["specs"][0].update(kind="quantum"), "'quantum' is not a valid Kind"),
        (lambda data: data["arbiter"]["pools"].__setitem__(0, []), "Pool: expected an object"),
    ],
)
def test_what_can_not_be_understood_is_an_error_that_says_where(world, spoil, said):
    data = through_json(world.arbiter)
    spoil(data)
    with pytest.raises(Unreadable) as error:
        restore(data["arbiter"], Reader(data["specs"]))
    assert said in str(error.value)


def test_a_shutdown_under_way_goes_on():
    web = pool("web", workers=3, hooks=Hooks(after_stop=("clean",), timeout=900))
    world = World(web, pool("sick", workers=2), pool("cmd", Kind.EXEC, workers=2), pool("off"))
    world.start()
    world.stubborn.add("web")
    world.send(ev.ShutdownAsked(ev.Haste.BOUNDED))
    world.arbiter = again(world.arbiter)
    assert world.arbiter.stopping
    world.pass_time(100)
    assert world.left == 0
    assert all(w.state is State.GONE for p in world.arbiter.pools.values() for w in p.workers.values())
