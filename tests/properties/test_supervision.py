"""The arbiter against a world that does everything wrong, at random."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from procman.core import effect as do
from procman.core import event as ev
from procman.core.handover import Reader, Writer, dump, restore
from procman.core.spec import HookName, Hooks
from tests.support.simulation import Kind, Limits, World, pool, probed

POOLS = ("web", "jobs", "command", "asked", "hooked", "db")
HOOKS = Hooks(**{hook.value: ("true",) for hook in HookName}, timeout=3.0)
FAULTS = ("broken_imports", "stillborn", "slow", "stubborn", "undumpable", "not_answering")


class Twins:
    """An arbiter and what was restored of its dump: every event to both, and nothing may tell them apart."""

    def __init__(self, first):
        self.first = first
        writer = Writer()
        data = json.loads(json.dumps([dump(first, writer), writer.specs]))
        self.second = restore(data[0], Reader(data[1]))

    def handle(self, event, now):
        effects = self.first.handle(event, now)
        assert self.second.handle(event, now) == effects
        assert self.second.deadline() == self.first.deadline()
        assert self.second.snapshot() == self.first.snapshot()
        return effects

    def __getattr__(self, name):
        return getattr(self.second, name)


class Supervision(RuleBasedStateMachine):
    """Deaths, faults, reloads, commands and time in any order. What must hold is in the invariants."""

    @initialize(web=st.integers(1, 4), chance=st.floats(0, 0.99))
    def start(self, web, chance):
        self.world = World(
            pool("web", workers=web, depends_on=("db",), limits=Limits(time_real=20.0), stop_timeout=5.0),
            pool("jobs", Kind.JOBRUNNER, workers=1, depends_on=("db",), stop_timeout=5.0),
            pool("command", Kind.EXEC, workers=2, stop_timeout=5.0, hooks=HOOKS),
            probed("asked", workers=2, stop_timeout=5.0),
            pool("hooked", workers=2, stop_timeout=5.0, hooks=HOOKS),
            pool("db", Kind.POSTGRES, stop_timeout=5.0),
            seed=chance,
        )
        self.operations = 0
        self.shutdown_at = None
        self.retired_by_us = {}
        self.world.start()

    def operation(self):
        self.operations += 1
        return f"op{self.operations}"

    @rule(seconds=st.floats(0.001, 100))
    def time(self, seconds):
        self.world.pass_time(seconds)

    @rule(data=st.data(), status=st.sampled_from([0, 1, -9, -11]))
    def death(self, data, status):
        if self.world.alive:
            self.world.exit(data.draw(st.sampled_from(sorted(self.world.alive))), status)

    @rule(name=st.sampled_from(("web",)), traceback=st.just("killed"))
    def template_death(self, name, traceback):
        for _, generation in sorted(t for t in self.world.templates if t[0] == name):
            self.world.templates.discard((name, generation))
            self.world.send(ev.TemplateGone(name, generation, traceback, 0.5))

    @rule(fault=st.sampled_from(FAULTS), name=st.sampled_from(POOLS))
    def break_something(self, fault, name):
        getattr(self.world, fault).add(name)

    @rule(hook=st.sampled_from(sorted(HookName)), fault=st.sampled_from(["failing_hooks", "hanging_hooks"]))
    def break_hook(self, hook, fault):
        getattr(self.world, fault).add(hook.value)

    @rule()
    def mend_hooks(self):
        self.world.failing_hooks.clear()
        self.world.hanging_hooks.clear()

    @rule(name=st.sampled_from(POOLS))
    def mend(self, name):
        for fault in FAULTS:
            getattr(self.world, fault).discard(name)

    @rule(data=st.data())
    def enter_unit(self, data):
        if self.world.alive:
            self.world.unit_started[data.draw(st.sampled_from(sorted(self.world.alive)))] = self.world.now

    @rule(data=st.data())
    def become_ready(self, data):
        if self.world.alive:
            self.world.send(ev.WorkerReady(data.draw(st.sampled_from(sorted(self.world.alive)))))

    @rule(names=st.sets(st.sampled_from(POOLS), min_size=1))
    def reload(self, names):
        self.world.send(ev.ReloadAsked(self.operation(), tuple(sorted(names))))

    @rule(name=st.sampled_from(POOLS), command=st.sampled_from([ev.StartAsked, ev.StopAsked, ev.RestartAsked]))
    def command(self, name, command):
        self.world.send(command(self.operation(), (name,)))

    @rule(name=st.sampled_from(("web", "command")), workers=st.integers(0, 5))
    def scale(self, name, workers):
        self.world.send(ev.ScaleAsked(self.operation(), name, workers))

    @rule(workers=st.integers(0, 4))
    def configure(self, workers):
        specs = [
            replace(p.spec, workers=workers) if p.name == "web" else p.spec for p in self.world.arbiter.pools.values()
        ]
        self.world.send(ev.Configured(tuple(specs), self.operation()))

    @precondition(lambda self: self.shutdown_at is None)
    @rule(haste=st.sampled_from([ev.Haste.BOUNDED, ev.Haste.NOW]))
    def shut_down(self, haste):
        self.spawned_before = len(self.world.of(do.Spawn))
        self.shutdown_at = self.world.now
        self.world.send(ev.ShutdownAsked(haste))

    def prepared(self):
        """Those for whom a before_start ran: some of them never had a process."""
        return [run for run in self.world.of(do.RunHook) if run.hook is HookName.BEFORE_START]

    @invariant()
    def never_more_processes_than_target_and_surge_live(self):
        for p in self.world.arbiter.pools.values():
            goal = [w for w in p.workers.values() if w.live and w.generation == p.goal]
            old = [w for w in p.workers.values() if w.live and w.generation != p.goal]
            assert len({w.slot for w in goal}) == len(goal), "two workers of one generation in one slot"
            starting = [w for w in goal if w.state.value == "starting"]
            if p.goal != p.generation:
                assert len(starting) <= max(p.spec.surge, 1)
            # Beside each other stand at most the full pool, its surge, and what starts in slots that are vacant.
            assert len(goal) + len(old) <= 2 * max(p.target, 1) + max(p.spec.surge, 1)

    @invariant()
    def one_exit_record_for_each_worker(self):
        exited = [r for r in self.world.of(do.Report) if r.event == "exited"]
        ended = [r.pid for r in exited if r.pid is not None]
        assert len(ended) == len(set(ended))
        workers = [w for p in self.world.arbiter.pools.values() for w in p.workers.values()]
        begun = [s for s in self.world.of(do.Spawn) if not s.spec.hooks.before_start] + self.prepared()
        assert len(begun) == len(exited) + len(workers)

    @invariant()
    def every_operation_ends_at_most_once_in_each_pool(self):
        ends = [(end.operation, end.pool) for end in self.world.of(do.Concluded)]
        assert len(ends) == len(set(ends))

    @invariant()
    def nothing_starts_after_a_shutdown(self):
        if self.shutdown_at is not None:
            assert len(self.world.of(do.Spawn)) == self.spawned_before

    @invariant()
    def a_shutdown_ends(self):
        if (
            self.shutdown_at is not None
            and self.world.now > self.shutdown_at + 3 * (5.0 + 2.0) + 5.0 + 2 * HOOKS.timeout
        ):
            assert self.world.left is not None

    @invariant()
    def no_process_starts_before_its_before_start_has_ended_well(self):
        prepared = {
            w.id for p in self.world.arbiter.pools.values() for w in p.workers.values() if w.state.value == "preparing"
        }
        assert not prepared & {spawn.worker for spawn in self.world.of(do.Spawn)}

    @invariant()
    def nothing_waits_for_a_hook_that_does_not_run(self):
        for p in self.world.arbiter.pools.values():
            assert set(p.hooks) == {number for number, run in self.world.hooks.items() if run.spec.name == p.name}

    @invariant()
    def nothing_is_killed_for_a_limit_before_its_stacks_were_asked_for(self):
        asked = {dump.worker for dump in self.world.of(do.Dump)}
        killed = [r for r in self.world.of(do.Report) if r.event == "killing" and r.reason.value == "real_time"]
        assert all(r.pid - 1000 in asked for r in killed)

    def teardown(self):
        if not hasattr(self, "world"):
            return
        if self.shutdown_at is None:
            # Whatever has happened: mended and given time and a word, everything serves.
            for name in POOLS:
                self.mend(name)
            self.mend_hooks()
            self.world.unit_started.clear()
            for name in POOLS:
                self.world.send(ev.StartAsked(self.operation(), (name,)))
            for worker in sorted(self.world.alive):
                self.world.send(ev.WorkerReady(worker))
            self.world.pass_time(300)
            for worker in sorted(self.world.alive):
                self.world.send(ev.WorkerReady(worker))
            self.world.pass_time(300)
            for p in self.world.arbiter.snapshot().pools:
                assert p.ready == p.target, p
                assert p.state.value == "running", p


Supervision.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestSupervision = Supervision.TestCase


class Upgrades(Supervision):
    """The same, and the daemon is executed anew now and then."""

    @rule()
    def upgrade(self):
        """The daemon is executed anew: what the next image restores goes on beside what was, and both do the same."""
        self.world.arbiter = Twins(getattr(self.world.arbiter, "first", self.world.arbiter))


Upgrades.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestUpgrades = Upgrades.TestCase


def test_a_pool_sees_nothing_of_the_others():
    """Non-interference: what happens to one pool changes no effect of another."""
    alone = World(pool("quiet", workers=2))
    alone.start()
    alone.pass_time(500)

    crowded = World(pool("quiet", workers=2), pool("noisy", workers=3))
    crowded.stillborn.add("noisy")
    crowded.start()
    for _ in range(50):
        crowded.send(ev.ReloadAsked("op", ("noisy",)))
        crowded.send(ev.RestartAsked("op", ("noisy",)))
        crowded.pass_time(10)

    def about_quiet(world):
        return [(type(e), e.slot) for e in world.of(do.Spawn) if e.spec.name == "quiet"] + [
            (r.event, r.worker) for r in world.of(do.Report) if r.pool == "quiet"
        ]

    assert about_quiet(alone) == about_quiet(crowded)
