"""The decider: events in, effects out, nothing else.

Rules of this file: it routes events to pools and knows what concerns more than one of them, which is the order
of starting and stopping, the shutdown, and a new configuration. Whatever concerns one pool is decided by that
pool, so that no pool can get into another's way.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from procman.core import event as ev
from procman.core.effect import Concluded, Dump, Forget, Interrupt, Kill, Leave, Level, Outcome, Report, Serving
from procman.core.pool import Pool, ready_by
from procman.core.reason import Reason
from procman.core.snapshot import PoolSnapshot, Snapshot, WorkerSnapshot
from procman.core.waves import dependents
from procman.core.worker import Input, State, Worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from procman.core.effect import Effect
    from procman.core.event import Event
    from procman.core.spec import PoolSpec


class Arbiter:
    """The whole supervisor, without a process: `handle` an event, perform the effects, come back at `deadline`."""

    def __init__(self, specs: Iterable[PoolSpec]) -> None:
        self._serial = count(1)
        self.pools: dict[str, Pool] = {spec.name: self._new_pool(spec) for spec in specs}
        self._workers: dict[int, Pool] = {}
        self._shutdown: ev.Haste | None = None
        self._announced = False
        self._left = False
        self._exit_status = 0

    # -- the contract -------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What to do about an event that happened at ``now`` (seconds of any clock that never goes back)."""
        effects = list(self._react(event, now))
        # What one pool says may release or hold another (depends_on); twice as many rounds as pools is plenty.
        for _ in range(2 * len(self.pools) + 2):
            before = len(effects)
            self._release_and_hold()
            for pool in list(self.pools.values()):
                effects.extend(self._index(pool, pool.plan(now)))
            effects.extend(self._whole_daemon(now))
            if len(effects) == before:
                break
        return effects

    def deadline(self) -> float | None:
        """When `handle` wants to be called with a `Tick`, at the latest."""
        return min((when for pool in self.pools.values() for when in pool.deadlines()), default=None)

    def snapshot(self) -> Snapshot:
        """What there is now."""
        state = "stopping" if self._shutdown else "running" if self._announced else "starting"
        return Snapshot(state=state, pools=tuple(_pool_snapshot(pool) for pool in self.pools.values()))

    @property
    def stopping(self) -> bool:
        """A shutdown is under way."""
        return self._shutdown is not None

    def worker(self, worker_id: int) -> Worker | None:
        """The worker of that id, while it has not gone."""
        pool = self._workers.get(worker_id)
        return pool.workers.get(worker_id) if pool else None

    # -- reactions ----------------------------------------------------------------------------------------

    def _react(self, event: Event, now: float) -> Iterator[Effect]:
        match event:
            case ev.Begin():
                for pool in self.pools.values():
                    pool.wanted = pool.spec.autostart
            case ev.Tick():
                yield from self._expire(now)
            case ev.TemplateReady() | ev.TemplateGone():
                yield from self._template(event, now)
            case ev.ReloadAsked() | ev.StartAsked() | ev.StopAsked() | ev.RestartAsked() | ev.ScaleAsked():
                yield from self._command(event, now)
            case ev.Configured(specs):
                yield from self._configure(specs)
            case ev.ShutdownAsked(haste):
                yield from self._shut_down(haste, now)
            case _:
                yield from self._worker(event, now)

    def _template(self, event: ev.TemplateReady | ev.TemplateGone, now: float) -> Iterator[Effect]:
        pool = self.pools.get(event.pool)
        if pool is None or event.generation not in pool.templates:
            return
        match event:
            case ev.TemplateReady(_, generation):
                pool.template_ready(generation)
            case ev.TemplateGone(_, generation, traceback, chance):
                yield from pool.template_gone(generation, traceback, now, chance)

    def _worker(self, event: Event, now: float) -> Iterator[Effect]:
        worker_id: int = event.worker  # type: ignore[union-attr]  # every event left has one
        pool = self._workers.get(worker_id)
        worker = pool.workers.get(worker_id) if pool else None
        if pool is None or worker is None:
            return
        match event:
            case ev.WorkerExited(_, status, chance, oom):
                del self._workers[worker_id]
                yield from pool.exited(worker, status, now, chance=chance, oom=oom)
            case ev.Sampled(_, sample):
                yield from self._judge(pool, worker, sample.unit_started if sample.unit is not None else None, now)
            case ev.KillAsked():
                yield from self._condemn(pool, worker, Reason.KILLED_BY_USER, now)
            case _:
                yield from self._worker_says(pool, worker, event, now)

    def _worker_says(self, pool: Pool, worker: Worker, event: Event, now: float) -> Iterator[Effect]:
        match event:
            case ev.WorkerSpawned(_, pid):
                worker.pid = pid
            case ev.CommandRuns():
                if worker.state is State.STARTING:
                    worker.ready_by = ready_by(worker.spec, now)
            case ev.WorkerReady():
                yield from pool.worker_ready(worker, now)
            case ev.WorkerRetiring(_, reason):
                if worker.move(Input.RETIRE, now, reason=reason, grace=pool.spec.stop_timeout):
                    text = f"Worker {worker.label} retires: {reason}"
                    yield pool.report("retiring", text, worker=worker, reason=reason)
            case ev.WorkerFailed(_, traceback):
                worker.failure = traceback
                text = f"Worker {worker.label} can't start:\n{traceback.rstrip()}"
                yield pool.report("boot_failed", text, Level.ERROR, worker=worker, details={"traceback": traceback})
            case ev.WorkerDumped():
                if worker.move(Input.DUMPED, now):
                    yield from self._dump_or_kill(pool, worker)

    def _judge(self, pool: Pool, worker: Worker, unit_started: float | None, now: float) -> Iterator[Effect]:
        """Is the worker's unit past ``time_real``? First it is asked to end, then the stacks, then SIGKILL."""
        limit = worker.spec.limits.time_real
        if limit is None or worker.state not in (State.READY, State.DRAINING):
            return
        if unit_started is None or now < unit_started + limit:
            worker.look_at = (now if unit_started is None else unit_started) + limit
        elif worker.interrupted_unit == unit_started:
            yield from self._condemn(pool, worker, Reason.REAL_TIME, now)
        else:
            worker.interrupted_unit = unit_started
            worker.look_at = now + worker.spec.kill_timeout
            text = f"Worker {worker.label} is in one unit for {now - unit_started:.1f} s, limit {limit:g} s"
            yield pool.report("over_time", text, Level.WARNING, worker=worker, reason=Reason.REAL_TIME)
            yield Interrupt(worker.id, Reason.REAL_TIME)

    def _condemn(self, pool: Pool, worker: Worker, reason: Reason, now: float) -> Iterator[Effect]:
        if worker.move(Input.CONDEMN, now, reason=reason):
            yield from self._dump_or_kill(pool, worker)

    def _dump_or_kill(self, pool: Pool, worker: Worker) -> Iterator[Effect]:
        reason = worker.reason or Reason.KILLED_BY_USER
        if worker.state is State.DUMPING:
            yield Dump(worker.id, reason)
        else:
            text = f"Worker {worker.label} is killed: {reason}"
            yield pool.report("killing", text, Level.WARNING, worker=worker, reason=reason)
            yield Kill(worker.id)

    def _expire(self, now: float) -> Iterator[Effect]:
        for pool in self.pools.values():
            for worker in list(pool.workers.values()):
                if worker.ready_by is not None and worker.ready_by <= now:
                    yield from pool.worker_ready(worker, now)
                if worker.deadline is not None and worker.deadline <= now:
                    again = worker.state is State.KILLING
                    if worker.move(Input.EXPIRE, now):
                        yield from self._dump_or_kill(pool, worker)
                        if again:
                            text = f"Worker {worker.label} does not die of SIGKILL"
                            yield pool.report("unkillable", text, Level.CRITICAL, worker=worker)
            yield from pool.expire_templates(now)

    # -- commands -----------------------------------------------------------------------------------------

    def _command(
        self,
        event: ev.ReloadAsked | ev.StartAsked | ev.StopAsked | ev.RestartAsked | ev.ScaleAsked,
        now: float,
    ) -> Iterator[Effect]:
        names = (event.pool,) if isinstance(event, ev.ScaleAsked) else event.pools
        for name in names:
            pool = self.pools.get(name)
            if pool is None or self._shutdown is not None:
                why = "the daemon is stopping" if pool else f"no pool is called {name}"
                yield Concluded(event.operation, name, Outcome.FAILED, why)
                continue
            match event:
                case ev.ReloadAsked(operation):
                    yield from pool.begin_reload(operation, now)
                case ev.StartAsked(operation):
                    pool.start(operation)
                case ev.StopAsked(operation):
                    yield from pool.stop(operation)
                case ev.RestartAsked(operation):
                    yield from pool.restart(operation, now)
                case ev.ScaleAsked(operation, _, workers):
                    pool.scale(operation, workers)

    def _configure(self, specs: Iterable[PoolSpec]) -> Iterator[Effect]:
        """Take over a new configuration: changed pools get their new spec with the reload that follows."""
        wanted = {spec.name: spec for spec in specs}
        for name, pool in self.pools.items():
            if name not in wanted and not pool.removed:
                pool.removed = True
                pool.leave_reason, pool.wanted = Reason.SCALE_DOWN, False
                yield pool.report("removed", f"Pool {name} is no longer configured")
        for name, spec in wanted.items():
            if name not in self.pools:
                pool = self.pools[name] = self._new_pool(spec)
                pool.wanted = spec.autostart
                yield pool.report("added", f"Pool {name} is new")
            elif self.pools[name].spec != spec:
                self.pools[name].next_spec = spec

    def _shut_down(self, haste: ev.Haste, now: float) -> Iterator[Effect]:
        order = list(ev.Haste)
        if self._shutdown is not None and order.index(haste) <= order.index(self._shutdown):
            return
        self._shutdown = haste
        yield Report(event="stopping", text=f"Stopping ({haste.value})")
        for pool in self.pools.values():
            pool.closing = True
            yield from pool.give_up_operations("the daemon is stopping")
            if haste is not ev.Haste.GRACEFUL:
                pool.grace = pool.spec.stop_timeout
            for worker in list(pool.workers.values()):
                if haste is ev.Haste.NOW:
                    if worker.state is not State.KILLING:
                        worker.state, worker.deadline = State.KILLING, now + pool.spec.kill_timeout
                        worker.reason = worker.reason or Reason.SHUTDOWN
                        yield Kill(worker.id)
                elif worker.state is State.DRAINING and haste is ev.Haste.BOUNDED and worker.deadline is None:
                    worker.deadline = now + pool.spec.stop_timeout

    # -- what concerns more than one pool -----------------------------------------------------------------

    def _release_and_hold(self) -> None:
        """Start a pool when all it depends on serves; stop it, in a shutdown, when nothing depends on it."""
        needs = {name: pool.spec.depends_on for name, pool in self.pools.items()}
        for name, pool in self.pools.items():
            if not pool.released:
                pool.released = all(need not in self.pools or self.pools[need].served for need in needs[name])
            if self._shutdown is None or not pool.wanted:
                continue
            if all(self.pools[other].empty for other in dependents(needs, name)):
                pool.wanted = False
                pool.leave_reason = Reason.SHUTDOWN
                pool.grace = None if self._shutdown is ev.Haste.GRACEFUL else pool.spec.stop_timeout

    def _whole_daemon(self, now: float) -> Iterator[Effect]:
        for name, pool in list(self.pools.items()):
            if pool.removed and pool.empty:
                del self.pools[name]
                yield Forget(name)
            if pool.parked is not None and pool.spec.essential and self._shutdown is None:
                text = f"Pool {name} is essential and parked: the daemon stops"
                yield pool.report("essential_failed", text, Level.CRITICAL)
                self._exit_status = 1
                yield from self._shut_down(ev.Haste.BOUNDED, now)
        if self._shutdown is not None:
            if not self._left and all(pool.empty for pool in self.pools.values()):
                self._left = True
                yield Leave(self._exit_status)
        elif not self._announced and all(pool.served for pool in self.pools.values() if pool.wanted):
            self._announced = True
            yield Serving()

    def _index(self, pool: Pool, effects: Iterator[Effect]) -> Iterator[Effect]:
        yield from effects
        for worker_id in pool.workers:
            self._workers.setdefault(worker_id, pool)

    def _new_pool(self, spec: PoolSpec) -> Pool:
        return Pool(spec, self._serial.__next__)


def _pool_snapshot(pool: Pool) -> PoolSnapshot:
    workers = sorted(pool.workers.values(), key=lambda worker: (worker.slot, worker.generation, worker.id))
    return PoolSnapshot(
        name=pool.name,
        kind=pool.spec.kind.value,
        state=pool.state,
        generation=pool.generation,
        target=pool.target if pool.wanted else 0,
        ready=pool.ready,
        parked=pool.parked,
        operation=pool.roll.operation if pool.roll else None,
        workers=tuple(
            WorkerSnapshot(
                id=worker.id,
                name=worker.name,
                slot=worker.slot,
                generation=worker.generation,
                pid=worker.pid,
                state=worker.state,
                spawned_at=worker.spawned_at,
            )
            for worker in workers
        ),
        exits=tuple(pool.exits),
    )
