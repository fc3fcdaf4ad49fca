"""One pool: what it is told, and what there is of it.

Rules of this file and its siblings: a pool sees nothing of other pools, so no command and no crash of one can delay
another. Commands and events only change what there is; `procman.core.plan` compares that with what is wanted and
says what to do next; `procman.core.deaths` says what follows from the end of a worker or of a template, and
`procman.core.roll` what a reload is.

A worker that has reached a soft limit is replaced as in a reload, by one of its own generation, as soon as it is
its turn: `recycle_at_once` of a pool at a time.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from procman.core import hooks
from procman.core.difference import with_live_part
from procman.core.effect import Adjust, Concluded, Level, Outcome, Report, Retire
from procman.core.reason import Reason
from procman.core.restart import Restarts
from procman.core.roster import Roster, Survey
from procman.core.scaling import Scaler
from procman.core.spec import HookName
from procman.core.worker import Input, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from procman.core.effect import Effect
    from procman.core.hooks import Run
    from procman.core.roll import Roll
    from procman.core.scaling import Load
    from procman.core.spec import PoolSpec
    from procman.core.worker import ExitRecord, Worker


EXITS_KEPT = 5  # of each slot


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
    """The process that imports the application for one generation. ``failure``: why it was ended, if it was."""

    state: TemplateState
    started_at: float
    deadline: float | None
    failure: str = ""


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
    successor: PoolSpec | None = None  # takes the name when this pool, which was removed, has gone
    closing: bool = False  # the daemon stops: nothing is started any more
    workers: dict[int, Worker] = field(default_factory=dict)
    templates: dict[int, Template] = field(default_factory=dict)
    restarts: Restarts = field(default_factory=Restarts)
    exits: dict[int, ExitRecord] = field(default_factory=dict)  # by the id of the worker, the last of each slot
    next_spec: PoolSpec | None = None
    waiting_for_stop: list[str] = field(default_factory=list)
    waiting_for_start: list[str] = field(default_factory=list)
    hooks: dict[int, Run] = field(default_factory=dict)  # those that run
    hurried: bool = False  # no hook is waited for any more
    wishes: deque[int] = field(default_factory=deque)  # ids of workers that would like to be replaced
    recycle_failures: int = 0  # in a row
    recycle_not_before: float = 0.0
    scaler: Scaler = field(default_factory=Scaler)
    roster: Roster = field(init=False)
    survey: Survey = field(init=False)
    exits_of_slot: defaultdict[int, deque[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.target = self.spec.workers
        self.count_anew()

    def count_anew(self) -> None:
        """Derive what is derived from the workers."""
        self.roster = Roster(self.workers)
        self.exits_of_slot = defaultdict(deque)
        for worker_id, record in self.exits.items():
            self.exits_of_slot[record.slot].append(worker_id)
        self.look_again()

    def look_again(self) -> None:
        """What is wanted has changed: look at every slot again."""
        self.survey = Survey()
        self.roster.changed.update(range(1, self.target + 1), self.roster.slots())

    # -- what there is ------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def goal(self) -> int:
        """The generation that is to serve."""
        return self.roll.generation if self.roll else self.generation

    @property
    def rolling(self) -> bool:
        """A reload is under way, and there is a generation to go back to."""
        return self.goal != self.generation

    @property
    def paused(self) -> bool:
        """A reload waits: the workers it has started have to serve for a while before it goes on."""
        return self.rolling and self.roll is not None and self.roll.not_before > 0

    @property
    def awaits_canary(self) -> bool:
        """One worker of the next generation has to show what it is worth before the others follow."""
        return self.rolling and self.roll is not None and self.spec.reload.canary and not self.roll.canary_ready

    @property
    def scales(self) -> bool:
        """It scales itself, and now: in a reload there are others to compare with, and some of them only start."""
        return self.spec.scaling is not None and self.active and self.roll is None and not self.closing

    @property
    def overlapping(self) -> bool:
        """A worker and its successor can serve side by side."""
        return self.spec.surge > 0

    @property
    def active(self) -> bool:
        return self.wanted and self.released and self.parked is None

    def of(self, generation: int) -> list[Worker]:
        """Workers of one generation that serve or are about to."""
        return [w for w in self.workers.values() if w.generation == generation and w.live]

    def spec_of(self, generation: int) -> PoolSpec:
        """What workers of this generation are started with."""
        return self.roll.before if self.roll is not None and generation != self.roll.generation else self.spec

    def specs(self) -> Iterator[PoolSpec]:
        """Everything that a worker of this pool may yet be started with: what must stay open for it."""
        yield self.spec
        if self.roll is not None:
            yield self.roll.before
        for later in (self.next_spec, self.successor):
            if later is not None:
                yield later

    @property
    def ready(self) -> int:
        """Workers that serve now, of whatever generation."""
        return self.roster.ready

    @property
    def serving(self) -> bool:
        """As many workers as are wanted are ready."""
        return self.active and self.ready >= self.target

    @property
    def empty(self) -> bool:
        return not self.workers and not self.templates and not self.hooks

    @property
    def state(self) -> PoolState:
        if self.parked is not None:
            return PoolState.PARKED
        if not self.wanted:
            return PoolState.STOPPED if self.empty else PoolState.STOPPING
        if not self.released:
            return PoolState.WAITING
        if self.roll is not None or hooks.reload_under_way(self) is not None:
            return PoolState.RELOADING
        return PoolState.RUNNING if self.served else PoolState.STARTING

    @property
    def deadline(self) -> float | None:
        """The first time at which something has to be looked at."""
        times = [self.roster.deadline]
        times += [template.deadline for template in self.templates.values()]
        times += [run.deadline for run in self.hooks.values()]
        if self.active and not self.closing:
            times.append(self.restarts.not_before or None)
            if self.roll is not None:
                times.append(self.roll.not_before or None)
            elif self.wishes:
                times.append(self.recycle_not_before or None)
            times.append(self.scaler.measure_at if self.scales else None)
        return min((at for at in times if at is not None), default=None)

    # -- commands -----------------------------------------------------------------------------------------

    def start(self, operation: str) -> Iterator[Effect]:
        """Have the pool run; also takes a parked one out of the car park."""
        for stop in self.waiting_for_stop:
            yield Concluded(stop, self.name, Outcome.SUPERSEDED, "the pool was started again before it had stopped")
        self.waiting_for_stop.clear()
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
        yield from self.start(operation)
        for worker in list(self.workers.values()):
            if worker.live:
                yield from self.retire(worker, Reason.RELOAD, now, grace=self.spec.stop_timeout)

    def scale(self, operation: str, workers: int, now: float) -> Iterator[Effect]:
        """Want another number of workers; within its bounds, if the pool scales itself, which goes on from there."""
        self.target = workers if self.spec.scaling is None else self.spec.scaling.clamp(workers)
        self.scaler.rest(now)
        self.look_again()
        if self.roll is not None:
            self.roll.target_before = self.target
        if self.wanted and self.parked is None:
            self.waiting_for_start.append(operation)
        else:
            yield Concluded(operation, self.name, Outcome.DONE)  # for when it is started

    def adjust(self, spec: PoolSpec) -> Iterator[Effect]:
        """Take over what can be changed live, and have the workers go by it that there are."""
        fewer_or_more = spec.workers != self.spec.workers
        self.spec = spec
        if fewer_or_more:
            self.target = spec.workers
        if spec.scaling is not None:
            self.target = spec.scaling.clamp(self.target)
        if self.roll is not None:
            self.roll.before = with_live_part(self.roll.before, spec)
            self.roll.target_before = self.target
        for worker in self.workers.values():
            worker.spec = with_live_part(worker.spec, spec)
            if not worker.relieved:
                worker.wish = None  # it asks again if by the limits that it has now there is a reason to
            self.roster.touch(worker)
        self.wishes.clear()
        self.look_again()
        yield Adjust(spec)
        yield self.report("adjusted", f"Pool {self.name} goes on with other settings")

    def remove(self) -> Iterator[Effect]:
        """It is in the configuration no more: stop, for good."""
        self.removed = True
        self.leave_reason, self.grace = Reason.SCALE_DOWN, self.spec.stop_timeout
        self.wanted = self.served = False
        self.parked = self.next_spec = None
        yield self.report("removed", f"Pool {self.name} is no longer configured")
        yield from self.give_up_operations("the pool is no longer configured")

    def give_up_operations(self, why: str) -> Iterator[Effect]:
        """Nobody shall wait for what will not happen any more."""
        yield from hooks.give_up_reload(self, Outcome.FAILED, why)
        if self.roll is not None:
            yield Concluded(self.roll.operation, self.name, Outcome.FAILED, why, self.failure)
            self.generation, self.roll = self.roll.generation, None
            self.look_again()
        for operation in self.waiting_for_start:
            yield Concluded(operation, self.name, Outcome.FAILED, why, self.failure)
        self.waiting_for_start.clear()

    # -- what happens -------------------------------------------------------------------------------------

    def template_ready(self, generation: int) -> None:
        """A template has imported the application."""
        template = self.templates[generation]
        if template.state is TemplateState.STARTING:
            template.state, template.deadline = TemplateState.READY, None

    def worker_ready(self, worker: Worker, now: float) -> Iterator[Effect]:
        """A worker serves."""
        if not self.roster.move(worker, Input.READY, now):
            return
        self.restarts.probing = False
        if self.roll is not None and worker.generation == self.roll.generation:
            self.roll.canary_ready = True
            self.roll.not_before = now + self.spec.reload.delay
        worker.failure = ""
        yield self.report("ready", f"Worker {worker.label} alive", worker=worker)
        yield from hooks.run(self, HookName.AFTER_START, now, worker)

    def retire(
        self, worker: Worker, reason: Reason, now: float, *, grace: float | None, signum: int | None = None
    ) -> Iterator[Effect]:
        """Ask one worker to go."""
        before = worker.state
        if self.roster.move(worker, Input.RETIRE, now, reason=reason, grace=grace):
            if before is State.READY and hooks.parts(self, worker):
                yield hooks.part(self, worker, reason, signum, now)
            elif before is not State.PREPARING:
                yield Retire(worker.id, reason, signum)
            yield self.report("retiring", f"Worker {worker.label} retires: {reason}", worker=worker, reason=reason)

    def measured(self, load: Load, now: float) -> Iterator[Effect]:
        """Want as many workers as the load wants."""
        if self.spec.scaling is None or not self.scales:
            return
        before = self.target
        self.target = self.scaler.target(self.spec.scaling, load, target=before, ready=self.ready, now=now)
        if self.target != before:
            self.look_again()
            text = f"Pool {self.name} scales from {before} to {self.target} workers: {load.busy:.1f} were busy"
            text += f", {load.waiting} connections waited" if load.waiting else ""
            busy = round(load.busy, 2)
            details = {"from": before, "to": self.target, "busy": busy, "waiting": load.waiting}
            yield self.report("scaled", text, details=details)

    def gone(self, worker: Worker, record: ExitRecord) -> None:
        """A worker is no more; its record is kept until as many others have gone from the same slot."""
        self.roster.remove(worker)
        self.exits[worker.id] = record
        of_slot = self.exits_of_slot[worker.slot]
        of_slot.append(worker.id)
        if len(of_slot) > EXITS_KEPT:
            del self.exits[of_slot.popleft()]

    def leaves(self, worker: Worker, reason: Reason, now: float) -> Iterator[Effect]:
        """A worker goes by itself."""
        if self.roster.move(worker, Input.RETIRE, now, reason=reason, grace=self.spec.stop_timeout):
            yield self.report("retiring", f"Worker {worker.label} retires: {reason}", worker=worker, reason=reason)

    def wish(self, worker: Worker, reason: Reason) -> Iterator[Effect]:
        """A worker has reached a soft limit and would like to be replaced."""
        if worker.wish is None and worker.state is State.READY and worker.dumpable:
            worker.wish = reason
            self.wishes.append(worker.id)
            text = f"Worker {worker.label} is to be replaced: {reason}"
            yield self.report("recycling", text, worker=worker, reason=reason)

    # -- words --------------------------------------------------------------------------------------------

    def report(
        self,
        event: str,
        text: str,
        level: Level = Level.INFO,
        *,
        worker: Worker | None = None,
        reason: Reason | None = None,
        details: Mapping[str, object] | None = None,
    ) -> Report:
        """A report about this pool, or about one of its workers."""
        return Report(
            event=event,
            text=text,
            level=level,
            pool=self.name,
            worker=worker.name if worker else None,
            slot=worker.slot if worker else None,
            generation=worker.generation if worker else self.goal,
            pid=worker.pid if worker else None,
            reason=reason,
            details=details or {},
        )


def describe_status(status: int | None) -> str:
    """An exit status for people."""
    if status is None:
        return "never started"
    return f"status {status}" if status >= 0 else f"signal {-status}"
