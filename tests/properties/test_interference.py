"""Non-interference: what happens to one pool, and what is asked of it, changes nothing for another one."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from procman.core import effect as do
from procman.core import event as ev
from procman.core.reason import Reason
from procman.core.spec import HookName, Hooks, Limits, Reload, Scaling
from tests.support.simulation import Kind, World, pool

HOOKS = Hooks(**{hook.value: ("true",) for hook in HookName}, timeout=3.0)
FAULTS = ("broken_imports", "stillborn", "slow", "stubborn", "undumpable", "hung")


def one(name):
    """The pool that is looked at."""
    return pool(name, workers=3, stop_timeout=8.0, limits=Limits(time_real=20.0), reload=Reload(surge=2, delay=1.0))


OTHERS = (
    pool("command", Kind.EXEC, workers=2, stop_timeout=8.0, hooks=HOOKS),
    pool("scaled", workers=1, scaling=Scaling(least=1, most=5)),
    pool("cron", Kind.CRON, workers=2, stop_timeout=8.0),
)

actions = st.one_of(
    st.tuples(st.just("die"), st.integers(0, 9), st.sampled_from([0, 1, -9])),
    st.tuples(st.just("ask"), st.sampled_from([ev.ReloadAsked, ev.StartAsked, ev.StopAsked, ev.RestartAsked])),
    st.tuples(st.just("scale"), st.integers(0, 5)),
    st.tuples(st.just("fault"), st.sampled_from(FAULTS)),
    st.tuples(st.just("mend")),
    st.tuples(st.just("unit"), st.integers(0, 9)),
    st.tuples(st.just("ready"), st.integers(0, 9)),
    st.tuples(st.just("recycle"), st.integers(0, 9), st.sampled_from([Reason.MAX_AGE, Reason.MEMORY_SOFT])),
    st.tuples(st.just("kill"), st.integers(0, 9)),
)
steps = st.one_of(
    st.tuples(st.just("time"), st.floats(0.001, 60)),
    st.tuples(st.just("one"), actions),
    st.tuples(st.sampled_from([other.name for other in OTHERS]), actions),
)


def act(world, name, action, number):
    """Something happens to the pool of that name."""
    match action:
        case ("ask", command):
            world.send(command(f"op{number}", (name,)))
        case ("scale", workers):
            world.send(ev.ScaleAsked(f"op{number}", name, workers))
        case ("fault", fault):
            getattr(world, fault).add(name)
        case ("mend",):
            for fault in FAULTS:
                getattr(world, fault).discard(name)
        case (what, index, *more):
            mine = sorted(worker for worker, spawn in world.alive.items() if spawn.spec.name == name)
            if mine:
                to_worker(world, what, mine[index % len(mine)], *more)


def to_worker(world, what, worker, *more):
    """Something happens to a worker."""
    match what:
        case "die":
            world.exit(worker, *more)
        case "unit":
            world.unit_started[worker] = world.now
        case "ready":
            world.send(ev.WorkerReady(worker))
        case "recycle":
            world.send(ev.RecycleAsked(worker, *more))
        case "kill":
            world.send(ev.KillAsked(worker))


def story(world, name):
    """All that was done about a pool, and when: workers by their number in the pool, for ids are given to all pools."""
    numbers, told = {}, []
    for at, effect in world.history:
        if isinstance(effect, do.Spawn) and effect.spec.name == name:
            numbers[effect.worker] = len(numbers)
        if about(effect) == name or getattr(effect, "worker", None) in numbers:
            told.append((round(at, 6), type(effect).__name__, *plain(effect, numbers)))
    return told


def about(effect):
    pool = getattr(effect, "pool", None)
    return pool if pool is not None else getattr(getattr(effect, "spec", None), "name", None)


def plain(effect, numbers):
    assert is_dataclass(effect)
    for field in fields(effect):
        value = getattr(effect, field.name)
        if field.name in ("worker", "workers") and not isinstance(effect, do.Report | do.RunHook):
            value = [numbers.get(one) for one in (value if isinstance(value, tuple) else (value,))]
        if field.name in ("text", "pid", "id"):
            continue  # has the number of the process
        yield value


class Recorder(World):
    """Remembers when each effect was wanted."""

    def __init__(self, *specs):
        self.history = []
        super().__init__(*specs)

    def _perform(self, effect):
        self.history.append((self.now, effect))
        super()._perform(effect)


@given(history=st.lists(steps, max_size=40))
@settings(max_examples=150)
def test_taking_the_other_pools_out_of_a_trace_changes_nothing(history):
    crowded, alone = Recorder(one("one"), *OTHERS), Recorder(one("one"))
    for world in (crowded, alone):
        world.start()
    for number, (name, what) in enumerate(history):
        for world in (crowded, alone):
            if name == "time":
                world.pass_time(what)
            elif name in world.arbiter.pools:
                act(world, name, what, number)
    assert story(crowded, "one") == story(alone, "one")


@given(stop=st.sampled_from([ev.StopAsked, ev.RestartAsked, ev.ReloadAsked]), seconds=st.floats(0.1, 7.9))
def test_a_pool_that_takes_long_to_stop_delays_nobody(stop, seconds):
    world = Recorder(one("one"), *OTHERS)
    world.start()
    world.pass_time(100)
    world.stubborn.update({"command", "cron"})
    world.send(stop("op", ("command", "cron")))
    world.pass_time(seconds)
    effects = world.exit(world.id_of("one.2"), -9)
    assert [effect.slot for effect in world.of(do.Spawn, effects)] == [2]
    assert world.pool("one").ready == 3
