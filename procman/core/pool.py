"""What one pool wants: arithmetic on its workers, its templates and its generation.

Rules of this file: a pool sees nothing of other pools, so no command and no crash of one can delay another.
`Pool.plan` compares what is wanted with what there is and says what to do next; it may be called at any time
and says nothing when all is as wanted. Events only change what there is.

A reload is a `Roll` to the next generation: its template is built, one worker of it (the canary) must become
ready, then the others follow, at most `SURGE` at a time; an old worker is retired when the new one in its
slot serves. If anything of the new generation fails before it serves everywhere, the roll is rejected and the
old generation, whose template is kept until then, goes on. A newer reload supersedes an unfinished one.

Pools whose workers can't stand beside their successors (``exec``: it binds its own ports) are rolled slot by
slot, each worker ended before the next one starts; they have nothing to fall back on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

from procman.core.effect import (
    Concluded,
    Level,
    Look,
    Outcome,
    Report,
    Retire,
    Spawn,
    StartTemplate,
    StopTemplate,
)
from procman.core.reason import Reason
from procman.core.restart import Restarts
from procman.core.spec import ExecWork, Kind
from procman.core.worker import ExitRecord, Input, State, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from procman.core.effect import Effect
    from procman.core.spec import PoolSpec

SURGE = 1  # workers of the next generation that may be starting beside a full pool
EXITS_KEPT = 10


class PoolState(Enum):
    STOPPED = "stopped"
    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    RELOADING = "reloading"
    PARKED = "parked"
    STOPPING = "stopping"


class TemplateState(Enum):
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"


@dataclass(slots=True)
class Template:
    """The process that imports the application for one generation."""

    state: TemplateState
    started_at: float
    deadline: float | None
    timed_out: bool = False


@dataclass(slots=True)
class Roll:
    """A reload under way."""

    generation: int
    operation: str
    before: PoolSpec  # what the generation in force was started with
    canary_ready: bool = False


@dataclass(eq=False)
class Pool:
    spec: PoolSpec
    serial: Callable[[], int]
    wanted: bool = False
    released: bool = False
    grace: float | None = None
    leave_reason: Reason = Reason.SHUTDOWN
    target: int = 0
    generation: int = 1
    roll: Roll | None = None
    served: bool = False
    parked: str | None = None
    failure: str = ""
    removed: bool = False
    closing: bool = False  # the daemon stops: nothing is started any more
    spawns: int = 0
    workers: dict[int, Worker] = field(default_factory=dict)
    templates: dict[int, Template] = field(default_factory=dict)
    restarts: Restarts = field(default_factory=Restarts)
    exits: list[ExitRecord] = field(default_factory=list)
    next_spec: PoolSpec | None = None
    waiting_for_stop: list[str] = field(default_factory=list)
    waiting_for_start: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.target = self.spec.workers

    # -- what there is ------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def goal(self) -> int:
        """The generation that is to serve."""
        return self.roll.generation if self.roll else self.generation

    @property
    def overlapping(self) -> bool:
        """A worker and its successor can serve side by side."""
        return self.spec.kind not in (Kind.EXEC, Kind.POSTGRES)

    @property
    def active(self) -> bool:
        return self.wanted and self.released and self.parked is None

    def of(self, generation: int, *, live: bool = True) -> list[Worker]:
        """Workers of one generation, those that serve or are about to unless told otherwise."""
        return [w for w in self.workers.values() if w.generation == generation and (w.live or not live)]

    @property
    def ready(self) -> int:
        """Workers that serve now, of whatever generation."""
        return sum(w.state is State.READY for w in self.workers.values())

    @property
    def serving(self) -> bool:
        """As many workers of the generation in force as are wanted are ready."""
        return self.active and self.ready >= self.target

    @property
    def empty(self) -> bool:
        return not self.workers and not self.templates

    @property
    def state(self) -> PoolState:
        if self.parked is not None:
            return PoolState.PARKED
        if not self.wanted:
            return PoolState.STOPPED if self.empty else PoolState.STOPPING
        if not self.released:
            return PoolState.WAITING
        if self.roll is not None:
            return PoolState.RELOADING
        return PoolState.RUNNING if self.served else PoolState.STARTING

    def deadlines(self) -> Iterator[float]:
        """Every time at which something has to be looked at."""
        for worker in self.workers.values():
            if worker.deadline is not None:
                yield worker.deadline
            if worker.look_at is not None:
                yield worker.look_at
            if worker.ready_by is not None:
                yield worker.ready_by
        for template in self.templates.values():
            if template.deadline is not None:
                yield template.deadline
        if self.active and not self.closing and self.restarts.not_before:
            yield self.restarts.not_before

    # -- what is wanted next ------------------------------------------------------------------------------

    def plan(self, now: float) -> Iterator[Effect]:
        """What to do about the difference between what is wanted and what there is."""
        if not (self.wanted and self.released):
            yield from self._wind_down(now)
            return
        if self.parked is None and not self.closing and now >= self.restarts.not_before:
            self.restarts.not_before = 0.0
            yield from self._start_templates(now)
            yield from self._spawn_missing(now)
        yield from self._retire_surplus(now)
        yield from self._conclude_roll()
        yield from self._stop_templates()
        yield from self._look_at_units(now)
        yield from self._note_serving()

    def _wind_down(self, now: float) -> Iterator[Effect]:
        # Only units have limits of their own that bound a graceful stop.
        grace = self.grace if self.overlapping else self.spec.stop_timeout
        for worker in list(self.workers.values()):
            if worker.live:
                yield from self.retire(worker, self.leave_reason, now, grace=grace)
        yield from self._look_at_units(now)
        if not self.workers:
            for generation, template in self.templates.items():
                if template.state is not TemplateState.STOPPING:
                    template.state = TemplateState.STOPPING
                    yield StopTemplate(self.name, generation)
        if self.empty and self.state is PoolState.STOPPED:
            for operation in self.waiting_for_stop:
                yield Concluded(operation, self.name, Outcome.DONE)
            self.waiting_for_stop.clear()

    def _start_templates(self, now: float) -> Iterator[Effect]:
        """A template for the goal, and one for the generation in force while it still has slots to fill."""
        if not self.spec.templated:
            return
        for generation in {self.generation, self.goal}:
            if generation not in self.templates:
                self.templates[generation] = Template(TemplateState.STARTING, now, now + self.spec.start_timeout)
                yield StartTemplate(self._spec_of(generation), generation)

    def _spawn_missing(self, now: float) -> Iterator[Effect]:
        for generation, slot in self._missing():
            if not self.spec.templated or self._template_ready(generation):
                self.spawns += 1
                spec = self._spec_of(generation)
                worker = Worker(
                    id=self.serial(),
                    spec=spec,
                    slot=slot,
                    generation=generation,
                    spawned_at=now,
                    deadline=now + spec.start_timeout,
                )
                self.workers[worker.id] = worker
                yield Spawn(worker.id, spec, slot, generation)

    def _spec_of(self, generation: int) -> PoolSpec:
        return self.roll.before if self.roll is not None and generation != self.roll.generation else self.spec

    def _template_ready(self, generation: int) -> bool:
        template = self.templates.get(generation)
        return template is not None and template.state is TemplateState.READY

    def _missing(self) -> list[tuple[int, int]]:
        """(generation, slot) of the workers to start now."""
        slots = range(1, self.target + 1)
        taken = {w.slot for w in self.of(self.goal)}
        if self.goal == self.generation:
            return [(self.goal, slot) for slot in slots if slot not in taken and self._vacant(slot)]
        missing = []
        old = {w.slot for w in self.of(self.generation)}
        starting = sum(w.state is State.STARTING for w in self.of(self.goal))
        room = SURGE - starting
        canary_ready = self.roll is not None and self.roll.canary_ready
        for slot in slots:
            if slot in taken:
                continue
            if room > 0 and (canary_ready or not taken) and self._vacant(slot):
                missing.append((self.goal, slot))
                room -= 1
            elif slot not in old and self.overlapping:
                # A worker of the old generation died meanwhile: until its successor comes, an old one serves.
                missing.append((self.generation, slot))
        return missing

    def _vacant(self, slot: int) -> bool:
        """Nothing stands in the way of a new worker in this slot."""
        return self.overlapping or not any(w.slot == slot for w in self.workers.values())

    def _retire_surplus(self, now: float) -> Iterator[Effect]:
        grace = self.spec.stop_timeout
        for worker in list(self.workers.values()):
            if worker.live and worker.slot > self.target:
                yield from self.retire(worker, Reason.SCALE_DOWN, now, grace=grace)
        if self.overlapping:
            replaced = {w.slot for w in self.of(self.goal) if w.state is State.READY}
        elif any(not w.live for w in self.workers.values()) or any(
            w.state is State.STARTING for w in self.of(self.goal)
        ):
            replaced = set()  # one at a time
        else:
            replaced = {w.slot for w in self.workers.values() if w.generation != self.goal and w.live}
            replaced = {min(replaced)} if replaced else replaced
        for worker in list(self.workers.values()):
            if worker.live and worker.generation != self.goal and worker.slot in replaced:
                yield from self.retire(worker, Reason.RELOAD, now, grace=grace)

    def _conclude_roll(self) -> Iterator[Effect]:
        """The roll is over when every slot has a ready worker of the goal; old ones may still be draining."""
        if self.roll is None or (self.target == 0 and self.spec.templated and not self._template_ready(self.goal)):
            return
        if sum(w.state is State.READY for w in self.of(self.goal)) < self.target:
            return
        operation, self.generation, self.roll = self.roll.operation, self.roll.generation, None
        yield self.report("reloaded", f"Pool {self.name} serves generation {self.generation}")
        yield Concluded(operation, self.name, Outcome.DONE)

    def _stop_templates(self) -> Iterator[Effect]:
        for generation, template in self.templates.items():
            if generation not in (self.generation, self.goal) and template.state is not TemplateState.STOPPING:
                template.state = TemplateState.STOPPING
                template.deadline = None
                yield StopTemplate(self.name, generation)

    def _look_at_units(self, now: float) -> Iterator[Effect]:
        """Ask for a look at workers whose unit may have passed ``time_real``, no sooner than it can have."""
        limit = self.spec.limits.time_real
        for worker in self.workers.values():
            if limit is None or worker.state not in (State.READY, State.DRAINING):
                worker.look_at = None
            elif worker.look_at is None:
                worker.look_at = now + limit
            elif worker.look_at <= now:
                worker.look_at = now + limit
                yield Look(worker.id)

    def _note_serving(self) -> Iterator[Effect]:
        if self.serving and self.roll is None:
            if not self.served:
                self.served = True
                yield self.report("serving", f"Pool {self.name} serves with {self.target} workers")
            for operation in self.waiting_for_start:
                yield Concluded(operation, self.name, Outcome.DONE)
            self.waiting_for_start.clear()

    # -- what happens -------------------------------------------------------------------------------------

    def worker_ready(self, worker: Worker, now: float) -> Iterator[Effect]:
        """A worker serves."""
        if not worker.move(Input.READY, now):
            return
        if self.roll is not None and worker.generation == self.roll.generation:
            self.roll.canary_ready = True
        yield self.report("ready", f"Worker {worker.label} alive", worker=worker)

    def retire(self, worker: Worker, reason: Reason, now: float, *, grace: float | None) -> Iterator[Effect]:
        """Ask one worker to go."""
        if worker.move(Input.RETIRE, now, reason=reason, grace=grace):
            yield Retire(worker.id, reason)
            yield self.report("retiring", f"Worker {worker.label} retires: {reason}", worker=worker, reason=reason)

    def start(self, operation: str) -> None:
        """Have the pool run; also takes a parked one out of the car park."""
        self.wanted = True
        self.parked = None
        self.restarts = Restarts()
        self.waiting_for_start.append(operation)

    def stop(self, operation: str) -> Iterator[Effect]:
        """Have every worker finish its unit and go, and start no more."""
        yield from self.give_up_operations("the pool was stopped")
        self.wanted = self.served = False
        self.parked = None
        self.leave_reason, self.grace = Reason.SHUTDOWN, self.spec.stop_timeout
        self.waiting_for_stop.append(operation)

    def restart(self, operation: str, now: float) -> Iterator[Effect]:
        """Replace every worker, without new code."""
        self.start(operation)
        for worker in list(self.workers.values()):
            if worker.live:
                yield from self.retire(worker, Reason.RELOAD, now, grace=self.spec.stop_timeout)

    def scale(self, operation: str, workers: int) -> None:
        """Want another number of workers."""
        self.target = workers
        self.waiting_for_start.append(operation)

    def give_up_operations(self, why: str) -> Iterator[Effect]:
        """Nobody shall wait for what will not happen any more."""
        if self.roll is not None:
            yield Concluded(self.roll.operation, self.name, Outcome.FAILED, why)
            self.generation, self.roll = self.roll.generation, None
        for operation in self.waiting_for_start:
            yield Concluded(operation, self.name, Outcome.FAILED, why)
        self.waiting_for_start.clear()

    def begin_reload(self, operation: str, now: float) -> Iterator[Effect]:
        """Start to replace every worker by one of the next generation, which takes over a new spec if there is one."""
        before = self.spec if self.roll is None else self.roll.before
        if self.next_spec is not None:
            if self.next_spec.workers != self.spec.workers:
                self.target = self.next_spec.workers
            self.spec, self.next_spec = self.next_spec, None
        if self.spec.kind is Kind.POSTGRES or not self.wanted:
            # A reload is about code: a database server has none of it, a stopped pool starts with the new one.
            yield Concluded(operation, self.name, Outcome.DONE)
            return
        previous = max(self.goal, max(self.templates, default=0))
        if self.roll is not None:
            yield Concluded(self.roll.operation, self.name, Outcome.SUPERSEDED, "a newer reload has begun")
            yield from self._retire_generation(self.roll.generation, now)
        self.parked = None
        self.restarts = Restarts()
        self.roll = Roll(previous + 1, operation, before)
        if not self.ready:
            # Nothing serves, so there is nothing to go back to: the next generation is the one in force.
            self.generation = self.roll.generation
        yield self.report("reloading", f"Pool {self.name} reloads: generation {self.roll.generation}")

    def reject_roll(self, why: str, traceback: str, now: float) -> Iterator[Effect]:
        """The next generation is no good: forget it, the one in force goes on with what it was started with."""
        if self.roll is None:
            return
        roll, self.roll = self.roll, None
        if self.generation != roll.generation:
            yield from self._retire_generation(roll.generation, now)
            if self.spec.workers != roll.before.workers:
                self.target = roll.before.workers
            self.spec = roll.before
        yield self.report(
            "reload_rejected",
            f"Pool {self.name} keeps generation {self.generation}, reload rejected: {why}",
            level=Level.ERROR,
        )
        yield Concluded(roll.operation, self.name, Outcome.FAILED, why, traceback)

    def _retire_generation(self, generation: int, now: float) -> Iterator[Effect]:
        for worker in self.of(generation):
            yield from self.retire(worker, Reason.RELOAD, now, grace=self.spec.stop_timeout)

    def park(self, why: str) -> Iterator[Effect]:
        """Stop restarting until told."""
        self.parked = why
        yield self.report("parked", f"Pool {self.name} is parked: {why}", level=Level.CRITICAL)
        for operation in self.waiting_for_start:
            yield Concluded(operation, self.name, Outcome.FAILED, f"parked: {why}", self.failure)
        self.waiting_for_start.clear()

    def died_young(self, now: float, *, started: float, chance: float) -> Iterator[Effect]:
        """Something of this pool died before it had lived: wait longer, or give up."""
        self.restarts.died_young(self.spec.backoff, now, started=started, chance=chance)
        if self.parked is None and self.restarts.exhausted(self.spec.max_restarts, self.spec.restart_window, now):
            last = self.failure.strip().splitlines()[-1:] or ["it died at once"]
            yield from self.park(f"failed {len(self.restarts.recent)} times in a row, last: {last[0]}")
        elif self.parked is None and self.restarts.not_before > now:
            wait = self.restarts.not_before - now
            yield self.report("backoff", f"Pool {self.name} waits {wait:.1f} s before it starts again", Level.WARNING)

    def template_ready(self, generation: int) -> None:
        """A template has imported the application."""
        template = self.templates[generation]
        if template.state is TemplateState.STARTING:
            template.state, template.deadline = TemplateState.READY, None

    def expire_templates(self, now: float) -> Iterator[Effect]:
        """End a template that takes too long to import."""
        for generation, template in self.templates.items():
            if template.deadline is not None and template.deadline <= now:
                template.deadline, template.timed_out = None, True
                yield StopTemplate(self.name, generation)

    def template_gone(self, generation: int, traceback: str, now: float, chance: float) -> Iterator[Effect]:
        """A template has ended: as asked, or because it can't import, or it was killed."""
        template = self.templates.pop(generation)
        if template.state is TemplateState.STOPPING:
            return
        if template.timed_out:
            traceback = f"the application was not imported within {self.spec.start_timeout:g} s"
        self.failure = traceback
        yield self.report(
            "template_failed",
            f"Template {self.name}@{generation} is gone:\n{traceback.rstrip()}",
            level=Level.ERROR,
            details={"traceback": traceback},
        )
        young = template.state is TemplateState.STARTING or now - template.started_at < self.spec.backoff.lived
        if self.roll is not None and generation == self.roll.generation:
            in_force = generation == self.generation
            yield from self.reject_roll("the application can't be imported", traceback, now)
            if not in_force:
                return
        if young:
            yield from self.died_young(now, started=template.started_at, chance=chance)

    def exited(self, worker: Worker, status: int | None, now: float, *, chance: float, oom: bool) -> Iterator[Effect]:
        """A worker is gone: its exit record, and what follows for the pool."""
        before = worker.state
        worker.move(Input.EXITED, now)
        del self.workers[worker.id]
        reason = worker.final_reason(status, oom=oom)
        record = ExitRecord(
            worker=worker.name,
            slot=worker.slot,
            generation=worker.generation,
            pid=worker.pid,
            reason=reason,
            status=status,
            lived=worker.lived(now),
            at=now,
        )
        self.exits = [*self.exits, record][-EXITS_KEPT:]
        asked = before is State.DRAINING
        yield self.report(
            "exited",
            f"Worker {worker.label} exited: {reason}, {describe_status(status)}, after {now - worker.spawned_at:.1f} s",
            level=Level.INFO if asked else Level.WARNING,
            worker=worker,
            reason=reason,
            details={"status": status, "lived": record.lived},
        )
        yield from self._consequences(worker, before, now, chance)

    def _consequences(self, worker: Worker, before: State, now: float, chance: float) -> Iterator[Effect]:
        if before is State.DRAINING or not self.wanted or self.closing:
            return
        if self.roll is not None and worker.generation == self.roll.generation and worker.ready_at is None:
            why = worker.failure.strip().rpartition("\n")[2] or describe_status(None)
            yield from self.reject_roll(f"a new worker did not become ready: {why}", worker.failure, now)
            if worker.generation != self.generation:
                return
        if worker.lived(now) >= self.spec.backoff.lived:
            self.restarts.lived()
        else:
            self.failure = worker.failure
            yield from self.died_young(now, started=worker.spawned_at, chance=chance)

    # -- words --------------------------------------------------------------------------------------------

    def report(
        self,
        event: str,
        text: str,
        level: Level = Level.INFO,
        *,
        worker: Worker | None = None,
        reason: Reason | None = None,
        details: dict[str, object] | None = None,
    ) -> Report:
        """A report about this pool, or about one of its workers."""
        report = Report(
            event=event,
            text=text,
            level=level,
            pool=self.name,
            generation=self.goal,
            reason=reason,
            details=details or {},
        )
        if worker is None:
            return report
        return replace(report, worker=worker.name, slot=worker.slot, generation=worker.generation, pid=worker.pid)


def ready_by(spec: PoolSpec, now: float) -> float | None:
    """When a command that runs since now counts as ready by having lived; None when it says so itself."""
    if isinstance(spec.work, ExecWork) and not spec.work.notify:
        return now + spec.work.start_seconds
    return None


def describe_status(status: int | None) -> str:
    """An exit status for people."""
    if status is None:
        return "never started"
    return f"status {status}" if status >= 0 else f"signal {-status}"
