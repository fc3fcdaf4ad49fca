"""The arbiter against a world that does everything wrong, at random."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from procman.core import effect as do
from procman.core import event as ev
from procman.core.handover import Reader, Writer, dump, restore
from procman.core.reason import Reason
from procman.core.scaling import Load
from procman.core.spec import HookName, Hooks, Reload, Scaling
from procman.core.worker import State
from tests.support.simulation import Kind, Limits, World, pool, probed

POOLS = ("web", "jobs", "command", "asked", "hooked", "scaled", "db")
SOFT = (Reason.MEMORY_SOFT, Reason.MAX_REQUESTS, Reason.MAX_AGE)
HOOKS = Hooks(**{hook.value: ("true",) for hook in HookName}, timeout=3.0)
FAULTS = ("broken_imports", "stillborn", "slow", "stubborn", "undumpable", "not_answering", "hung")
# Why workers are killed though nobody wanted them to go.
LIMITS = (Reason.REAL_TIME, Reason.CPU_TIME, Reason.HANG)


# Somebody, or a new configuration, wants workers to go that serve.
ASKED_TO_GO = (ev.RestartAsked, ev.StopAsked, ev.RetireAsked, ev.WorkerRetiring, ev.Configured, ev.ShutdownAsked)


class Watched:
    """An arbiter that has to say for each worker who is told to go who serves instead."""

    def __init__(self, first):
        self.first = first

    def handle(self, event, now):
        before = {w.id for p in self.first.pools.values() for w in p.workers.values() if w.state is State.READY}
        effects = self.first.handle(event, now)
        if not isinstance(event, ASKED_TO_GO):
            for p in self.first.pools.values():
                if p.wanted and not p.removed:
                    self.check(p, [w for w in p.workers.values() if w.id in before and w.state is State.DRAINING])
        return effects

    def check(self, p, gone):
        gone = [w for w in gone if w.slot <= p.target]
        ready = {w.slot for w in p.workers.values() if w.state is State.READY and w.slot <= p.target}
        if p.overlapping:
            assert {w.slot for w in gone} <= ready, "somebody was told to go, and nobody serves instead"
        elif gone:
            assert p.target - len(ready) <= p.spec.reload.max_unavailable

    def __getattr__(self, name):
        return getattr(self.first, name)


class Twins(Watched):
    """An arbiter and what was restored of its dump: every event to both, and nothing may tell them apart."""

    def __init__(self, first):
        super().__init__(first)
        writer = Writer()
        data = json.loads(json.dumps([dump(first, writer), writer.specs]))
        self.second = restore(data[0], Reader(data[1]))

    def handle(self, event, now):
        effects = super().handle(event, now)
        assert self.second.handle(event, now) == effects
        assert self.second.deadline() == self.first.deadline()
        return effects

    def __getattr__(self, name):
        return getattr(self.second, name)


class Supervision(RuleBasedStateMachine):
    """Deaths, faults, reloads, commands and time in any order. What must hold is in the invariants."""

    @initialize(
        web=st.integers(1, 4),
        chance=st.floats(0, 0.99),
        policy=st.builds(
            Reload,
            surge=st.integers(0, 3),
            max_unavailable=st.integers(1, 2),
            canary=st.booleans(),
            delay=st.sampled_from([0.0, 3.0]),
        ),
        at_once=st.integers(1, 3),
    )
    def start(self, web, chance, policy, at_once):
        self.world = World(
            pool(
                "web",
                workers=web,
                depends_on=("db",),
                limits=Limits(time_real=20.0, time_cpu=15.0),
                hang_timeout=10.0,
                stop_timeout=5.0,
                reload=policy,
                recycle_at_once=at_once,
            ),
            pool("jobs", Kind.JOBRUNNER, workers=1, depends_on=("db",), stop_timeout=5.0),
            pool("command", Kind.EXEC, workers=2, stop_timeout=5.0, hooks=HOOKS),
            probed("asked", workers=2, stop_timeout=5.0),
            pool("hooked", workers=2, stop_timeout=5.0, hooks=HOOKS),
            pool("scaled", workers=1, scaling=Scaling(least=1, most=4), stop_timeout=5.0),
            pool("db", Kind.POSTGRES, stop_timeout=5.0),
            seed=chance,
        )
        self.world.arbiter = Watched(self.world.arbiter)
        self.load = Load(busy=0.0)
        self.world.loads["scaled"] = lambda memory: self.load
        self.operations = 0
        self.shutdown_at = None
        self.allowances = {}
        self.world.start()

    def operation(self):
        self.operations += 1
        return f"op{self.operations}"

    @rule(seconds=st.floats(0.001, 100))
    def time(self, seconds):
        self.world.pass_time(seconds)

    @rule(seconds=st.floats(1, 100_000))
    def sleep_through(self, seconds):
        """The machine was suspended, or the daemon stopped: it wakes late, and everything is due at once."""
        self.world.now += seconds
        if self.shutdown_at is not None:
            self.shutdown_at += seconds  # nobody could do anything meanwhile
        self.world.send(ev.Tick())

    @rule(busy=st.floats(0, 6), waiting=st.integers(0, 20))
    def work(self, busy, waiting):
        self.load = Load(busy=busy, waiting=waiting)

    @rule(share=st.sampled_from([0.0, 0.5, 1.0]))
    def compute(self, share):
        """Units spend so much of their time on the CPU."""
        self.world.cpu_share = share

    @rule(data=st.data(), reason=st.sampled_from(SOFT))
    def reach_a_soft_limit(self, data, reason):
        if self.world.alive:
            self.world.send(ev.RecycleAsked(data.draw(st.sampled_from(sorted(self.world.alive))), reason))

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

    @rule(name=st.sampled_from(("web", "command", "scaled")), workers=st.integers(0, 5))
    def scale(self, name, workers):
        self.world.send(ev.ScaleAsked(self.operation(), name, workers))

    @rule(
        changes=st.sampled_from(
            [
                {},
                {"workers": 0},
                {"workers": 3},
                {"nice": 1},
                {"nice": 2, "workers": 2},
                {"limits": Limits(time_real=7.0)},
                {"reload": Reload(surge=2), "recycle_at_once": 2},
            ]
        ),
        unchanged=st.booleans(),
    )
    def configure(self, changes, unchanged):
        specs = [replace(p.spec, **changes) if p.name == "web" else p.spec for p in self.world.arbiter.pools.values()]
        self.world.send(ev.Configured(tuple(specs), self.operation(), unchanged))

    @precondition(lambda self: self.shutdown_at is None)
    @rule(haste=st.sampled_from([ev.Haste.BOUNDED, ev.Haste.NOW]))
    def shut_down(self, haste):
        self.spawned_before = len(self.world.of(do.Spawn))
        self.shutdown_at = self.world.now
        self.world.send(ev.ShutdownAsked(haste))

    def prepared(self):
        """Those for whom a before_start ran: some of them never had a process."""
        return [run for run in self.world.of(do.RunHook) if run.hook is HookName.BEFORE_START]

    def allowance(self, p, what, now, used):
        """How much is allowed. When it becomes less, whatever was begun before may be ended."""
        before = self.allowances.get((p.name, what), now)
        self.allowances[p.name, what] = max(before, now) if used else now
        return self.allowances[p.name, what]

    @invariant()
    def never_more_processes_than_target_and_surge_live(self):
        for p in self.world.arbiter.pools.values():
            live = [w for w in p.workers.values() if w.live]
            goal = [w for w in live if w.generation == p.goal and not w.relieved]
            assert len({w.slot for w in goal}) == len(goal), "two workers of one generation in one slot"
            relieved = sum(w.relieved for w in live)
            tokens = self.allowance(p, "tokens", p.spec.recycle_at_once, relieved > 0)
            surge = self.allowance(p, "surge", max(p.spec.surge, tokens, 1), len(live) > p.target)
            if p.goal != p.generation:
                assert len([w for w in goal if w.coming]) <= max(surge, p.spec.reload.max_unavailable)
            if not p.closing:
                most = max(p.target, p.roll.target_before if p.roll else 0) + surge
                assert len(live) <= most, (p.name, [(w.slot, w.generation, w.state) for w in p.workers.values()])
            assert relieved <= tokens

    @invariant()
    def an_upgrade_changes_nothing(self):
        assert self.world.arbiter.snapshot() == self.world.arbiter.first.snapshot()

    @invariant()
    def a_pool_that_scales_itself_stays_within_its_bounds(self):
        assert 1 <= self.world.arbiter.pools["scaled"].target <= 4

    @invariant()
    def what_is_counted_is_what_there_is(self):
        for p in self.world.arbiter.pools.values():
            workers = list(p.workers.values())
            assert p.roster.ready == sum(w.state is State.READY for w in workers)
            assert p.roster.live == sum(w.live for w in workers)
            assert p.roster.unborn == sum(w.pid is None for w in workers)
            assert +p.roster.coming == Counter(w.generation for w in workers if w.coming)
            due = [at for w in workers for at in (w.deadline, w.look_at, w.ready_by, w.probe_at) if at is not None]
            assert p.roster.deadline == min(due, default=None)

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
        killed = [r for r in self.world.of(do.Report) if r.event == "killing" and r.reason in LIMITS]
        assert all(r.pid - 1000 in asked for r in killed)
        pinged = {ping.worker for ping in self.world.of(do.Ping)}
        assert all(r.pid - 1000 in pinged for r in killed if r.reason is Reason.HANG)

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
            self.world.pass_time(150)
            for worker in sorted(self.world.alive):
                self.world.send(ev.WorkerReady(worker))
            self.world.pass_time(150)
            for p in self.world.arbiter.snapshot().pools:
                assert p.ready == p.target, p
                assert p.state.value == "running", p


Supervision.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestSupervision = Supervision.TestCase


class Upgrades(Supervision):
    """The same, and the daemon is executed anew now and then."""

    @rule()
    def upgrade(self):
        """The daemon is executed anew: what the next image restores goes on beside what was, and both do the same."""
        self.world.arbiter = Twins(self.world.arbiter.first)


Upgrades.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestUpgrades = Upgrades.TestCase
