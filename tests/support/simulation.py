"""A world without processes: performs the arbiter's effects at once, as obedient or as broken as a test wants."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from procman.core import effect as do
from procman.core import event as ev
from procman.core.arbiter import Arbiter
from procman.core.scaling import Load
from procman.core.spec import (
    CronWork,
    ExecWork,
    HttpWork,
    JobrunnerWork,
    Kind,
    Limits,
    PoolSpec,
    PostgresWork,
    Probe,
    ProbeKind,
)

WORK = {
    Kind.HTTP: HttpWork(app="demo:application", binds=()),
    Kind.CRON: CronWork(modules=("demo",)),
    Kind.JOBRUNNER: JobrunnerWork(),
    Kind.EXEC: ExecWork(command=("sleep", "1000"), start_seconds=1.0),
    Kind.POSTGRES: PostgresWork(data_dir="/d", socket_dir="/s"),
}


def pool(name, kind=Kind.HTTP, **policy):
    """A pool spec with little policy."""
    return PoolSpec(name=name, kind=kind, work=WORK[kind], **policy)


def probed(name, **policy):
    """An exec pool whose commands are asked whether they are ready, every second."""
    probe = Probe(kind=ProbeKind.HTTP, target=("http://127.0.0.1:1/",), interval=1.0)
    return PoolSpec(name=name, kind=Kind.EXEC, work=ExecWork(command=("serve",), ready=probe), **policy)


class World:
    """Obedient by default. Sets and dicts of names make parts of it misbehave.

    Every effect is remembered in ``effects``, every report in ``reports``, every end of an operation in
    ``concluded``. ``held`` workers say nothing by themselves: the test lets them act.
    """

    def __init__(self, *specs, seed=0.5):
        self.arbiter = Arbiter(specs)
        self.now = 100.0
        self.chance = seed
        self.effects = []
        self.alive = {}  # worker id -> Spawn
        self.templates = set()
        self.broken_imports = set()  # names of pools whose application can't be imported
        self.stillborn = set()  # names of pools whose workers die before they are ready
        self.slow = set()  # names of pools whose workers do not become ready by themselves
        self.stubborn = set()  # names of pools whose workers do not retire when asked
        self.undumpable = set()  # names of pools whose workers never show their stacks
        self.frozen = set()  # templates (pool, generation) that do not fork when asked
        self.unit_started = {}  # worker id -> when the unit that it is in has begun
        self.beats = {}  # worker id -> when it last showed that it is alive
        self.unit_limit = None  # seconds that each of these units may take
        self.cpu_share = 0.0  # how much of its time a unit spends on the CPU
        self.hung = set()  # names of pools whose workers do not answer when asked whether they are alive
        self.failing_hooks = set()  # names of hooks that fail
        self.hanging_hooks = set()  # names of hooks that run until they are ended
        self.hooks = {}  # id -> RunHook, of those that run
        self.not_answering = set()  # names of pools whose commands are not ready yet, when they are asked
        self.loads = {}  # pool -> what is measured of it: a function of whether its memory is asked for
        self.left = None
        self._queue = deque()

    def start(self):
        return self.send(ev.Begin())

    def send(self, event):
        """Give an event to the arbiter, and all that follows from it; the effects."""
        first = len(self.effects)
        self._queue.append(event)
        while self._queue:
            for effect in self.arbiter.handle(self._queue.popleft(), self.now):
                self.effects.append(effect)
                self._perform(effect)
        return self.effects[first:]

    def pass_time(self, seconds):
        """Let time pass, stopping at every deadline on the way; the effects."""
        first, end = len(self.effects), self.now + seconds
        while (deadline := self.arbiter.deadline()) is not None and deadline <= end:
            assert deadline > self.now - 1e-9, "a deadline that lies in the past would make the loop spin"
            stuck = deadline <= self.now
            self.now = max(self.now, deadline)
            before = len(self.effects)
            self.send(ev.Tick())
            assert not (stuck and len(self.effects) == before and self.arbiter.deadline() == deadline), "spinning"
        self.now = end
        return self.effects[first:]

    def end_hook(self, number, complaint=""):
        """A hook that runs ends; to be followed by something that is sent."""
        hook = self.hooks.pop(number)
        self._queue.append(ev.HookEnded(hook.spec.name, number, complaint, self.chance))

    def finish_hook(self, name, complaint=""):
        """One hook of that name ends by itself."""
        self.end_hook(next(number for number, run in self.hooks.items() if run.hook.value == name), complaint)
        return self.send(ev.Tick())

    def thaw(self):
        """Let the templates that do not fork do all that they were asked for."""
        self.frozen.clear()
        for worker, spawn in list(self.alive.items()):
            if self.arbiter.worker(worker).pid is None:
                self._perform(spawn)
        return self.send(ev.Tick())

    def kill(self, name, status=-9):
        """One worker of that name dies by itself."""
        worker = self.id_of(name)
        return self.exit(worker, status)

    def exit(self, worker, status=0):
        del self.alive[worker]
        return self.send(ev.WorkerExited(worker, status, self.chance))

    def id_of(self, name, generation=None):
        for worker, spawn in self.alive.items():
            if f"{spawn.spec.name}.{spawn.slot}" == name and generation in (None, spawn.generation):
                return worker
        raise LookupError(name)

    def names(self, generation=None):
        return sorted(
            f"{s.spec.name}.{s.slot}@{s.generation}" for s in self.alive.values() if generation in (None, s.generation)
        )

    def pool(self, name):
        return next(p for p in self.arbiter.snapshot().pools if p.name == name)

    def of(self, kind, effects=None):
        return [effect for effect in (self.effects if effects is None else effects) if isinstance(effect, kind)]

    @property
    def reports(self):
        return [report.event for report in self.of(do.Report)]

    @property
    def concluded(self):
        return [(end.operation, end.pool, end.outcome.value) for end in self.of(do.Concluded)]

    def _perform(self, effect):  # noqa: C901  one case for each effect
        match effect:
            case do.StartTemplate(spec, generation):
                self.templates.add((spec.name, generation))
                if spec.name in self.broken_imports:
                    self.templates.discard((spec.name, generation))
                    self._queue.append(ev.TemplateGone(spec.name, generation, "ImportError: broken", self.chance))
                else:
                    self._queue.append(ev.TemplateReady(spec.name, generation))
            case do.StopTemplate(name, generation):
                self.frozen.discard((name, generation))
                self.templates.discard((name, generation))
                self._queue.append(ev.TemplateGone(name, generation, "", self.chance))
            case do.Spawn(worker, spec, _, _):
                self.alive[worker] = effect
                self.beats[worker] = self.now
                if (spec.name, effect.generation) in self.frozen:
                    return
                self._queue.append(ev.WorkerSpawned(worker, 1000 + worker))
                if spec.name in self.stillborn:
                    self._queue.append(ev.WorkerFailed(worker, "RuntimeError: stillborn"))
                    self._end(worker, 3)
                elif spec.name not in self.slow:
                    self._queue.append(ev.CommandRuns(worker) if spec.kind is Kind.EXEC else ev.WorkerReady(worker))
            case do.Retire(worker, _):
                if worker in self.alive and self.alive[worker].spec.name not in self.stubborn:
                    self._end(worker, 0)
            case do.Interrupt(worker, reason):
                if worker in self.alive and self.alive[worker].spec.name not in self.stubborn:
                    self.unit_started.pop(worker, None)
                    self._queue.append(ev.WorkerRetiring(worker, reason))
                    self._end(worker, 0)
            case do.Dump(worker, _):
                if worker in self.alive and self.alive[worker].spec.name not in self.undumpable:
                    self._queue.append(ev.WorkerDumped(worker))
            case do.Kill(worker):
                if worker in self.alive:
                    self._end(worker, -9)
            case do.Look(name, workers):
                samples = [(each, self._sample(each)) for each in workers]
                self._queue.append(ev.Sampled(name, tuple(samples)))
            case do.Ping(worker):
                if worker in self.alive and self.alive[worker].spec.name not in self.hung:
                    self.beats[worker] = self.now
            case do.Ask(worker):
                if worker in self.alive:
                    refused = self.alive[worker].spec.name in self.not_answering
                    self._queue.append(ev.Probed(worker, "connection refused" if refused else ""))
            case do.RunHook():
                self.hooks[effect.id] = effect
                if effect.hook.value not in self.hanging_hooks:
                    self.end_hook(effect.id, "status 1" if effect.hook.value in self.failing_hooks else "")
            case do.EndHook(number):
                if number in self.hooks:
                    self.end_hook(number, "signal 9")
            case do.Measure(name, _, memory):
                load = self.loads[name](memory) if name in self.loads else Load(busy=0.0)
                self._queue.append(ev.Measured(name, load))
            case do.Leave(status):
                self.left = status

    def _sample(self, worker):
        started = self.unit_started.get(worker)
        cpu = None if started is None else (self.now - started) * self.cpu_share
        return replace(sample(started), beat=self.beats[worker], unit_cpu=cpu, unit_limit=self.unit_limit)

    def _end(self, worker, status):
        del self.alive[worker]
        self.unit_started.pop(worker, None)
        self._queue.append(ev.WorkerExited(worker, status, self.chance))


def sample(unit_started):
    """What a record says of a worker that is in a unit since then, or between units."""
    from procman.core.sample import Sample

    return Sample(
        pid=1,
        unit=None if unit_started is None else "GET /",
        unit_started=unit_started or 0.0,
        database="",
        user=0,
        queries=0,
        query_seconds=0.0,
        requests=0,
        errors=0,
        cache_hits=0,
        cache_misses=0,
        beat=0.0,
    )


__all__ = ["Kind", "Limits", "World", "pool", "probed", "sample"]
