"""The decider: events in, effects out, nothing else.

Rules of this file: it routes events to pools and knows what concerns more than one of them, which is the order
of starting and stopping, the shutdown, and a new configuration. Whatever concerns one pool is decided by that
pool, so that no pool can get into another's way.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from procman.core import event as ev
from procman.core import hooks, readiness
from procman.core.deaths import expire_templates, template_gone, template_hangs, template_lost, worker_gone
from procman.core.difference import Change, change
from procman.core.effect import Concluded, Forget, Leave, Level, Outcome, Report, Serving
from procman.core.limits import condemn, dump_or_kill, dumped, judge
from procman.core.plan import plan
from procman.core.pool import Pool
from procman.core.reason import Reason
from procman.core.snapshot import PoolSnapshot, Snapshot, WorkerSnapshot
from procman.core.waves import dependents
from procman.core.worker import Input, State, Worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from procman.core.effect import Effect
    from procman.core.event import Event
    from procman.core.sample import Sample
    from procman.core.spec import PoolSpec


class Arbiter:
    """The whole supervisor, without a process: `handle` an event, perform the effects, come back at `deadline`."""

    def __init__(self, specs: Iterable[PoolSpec]) -> None:
        self._last_id = 0
        self.pools: dict[str, Pool] = {spec.name: self._new_pool(spec) for spec in specs}
        self._workers: dict[int, Pool] = {}
        self._deadlines: dict[str, float] = {}
        self._shutdown: ev.Haste | None = None
        self._announced = False
        self._left = False
        self._exit_status = 0

    # -- the contract -------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What to do about an event that happened at ``now`` (seconds of any clock that never goes back)."""
        concerned = self._concerned(event, now)
        effects = list(self._react(event, now))
        # What one pool says may release or hold another (depends_on); twice as many rounds as pools is plenty.
        for _ in range(2 * len(self.pools) + 2):
            concerned |= self._release_and_hold()
            again = set()
            for name in [name for name in self.pools if name in concerned]:
                before = len(effects)
                effects.extend(self._plan(self.pools[name], now))
                if len(effects) > before:
                    again.add(name)
            whole = list(self._whole_daemon(now))
            effects.extend(whole)
            concerned = set(self.pools) if whole else again
            if not concerned:
                break
        return effects

    def deadline(self) -> float | None:
        """When `handle` wants to be called with a `Tick`, at the latest."""
        return min(self._deadlines.values(), default=None)

    def snapshot(self) -> Snapshot:
        """What there is now."""
        return Snapshot(state=self.state, pools=tuple(_pool_snapshot(pool) for pool in self.pools.values()))

    @property
    def state(self) -> str:
        """The state of the whole daemon, in a word."""
        return "stopping" if self._shutdown else "running" if self._announced else "starting"

    @property
    def stopping(self) -> bool:
        """A shutdown is under way."""
        return self._shutdown is not None

    def worker(self, worker_id: int) -> Worker | None:
        """The worker of that id, while it has not gone."""
        pool = self._workers.get(worker_id)
        return pool.workers.get(worker_id) if pool else None

    def next_id(self) -> int:
        """For a new worker; none is ever given twice."""
        self._last_id += 1
        return self._last_id

    def adopt(self, pool: Pool) -> None:
        """Take over a pool as it stands, workers and all, from the image of the daemon before this one."""
        self.pools[pool.name] = pool
        pool.count_anew()
        self._note(pool)

    # -- reactions ----------------------------------------------------------------------------------------

    def _concerned(self, event: Event, now: float) -> set[str]:
        """The pools that have to be planned anew for an event; with hundreds of pools, all would be too many."""
        match event:
            case ev.Tick():
                return {name for name, deadline in self._deadlines.items() if deadline <= now}
            case ev.ScaleAsked():
                return {event.pool}
            case _ if isinstance(event, ev.OfPool):
                return {event.pool}
            case ev.Begin() | ev.Configured() | ev.ShutdownAsked():
                return set(self.pools)
            case ev.ReloadAsked() | ev.StartAsked() | ev.StopAsked() | ev.RestartAsked():
                return set(event.pools)
            case _:
                pool = self._workers.get(event.worker)
                return {pool.name} if pool else set()

    def _plan(self, pool: Pool, now: float) -> Iterator[Effect]:
        yield from plan(pool, now)
        self._note(pool)

    def _note(self, pool: Pool) -> None:
        for worker in pool.roster.touched():
            self._workers[worker.id] = pool
        pool.roster.schedule()
        if (deadline := pool.deadline) is None:
            self._deadlines.pop(pool.name, None)
        else:
            self._deadlines[pool.name] = deadline

    def _react(self, event: Event, now: float) -> Iterator[Effect]:
        match event:
            case ev.Begin():
                for pool in self.pools.values():
                    pool.wanted = pool.spec.autostart
            case ev.Tick():
                yield from self._expire(now)
            case _ if isinstance(event, ev.OfPool):
                if (named := self.pools.get(event.pool)) is not None:
                    yield from self._of_pool(named, event, now)
            case ev.ReloadAsked() | ev.StartAsked() | ev.StopAsked() | ev.RestartAsked() | ev.ScaleAsked():
                yield from self._command(event, now)
            case ev.Configured():
                yield from self._configure(event, now)
            case ev.ShutdownAsked(haste):
                yield from self._shut_down(haste, now)
            case _:
                yield from self._worker(event, now)

    def _of_pool(
        self,
        pool: Pool,
        event: ev.OfPool,
        now: float,
    ) -> Iterator[Effect]:
        match event:
            case ev.TemplateReady(_, generation) if generation in pool.templates:
                pool.template_ready(generation)
            case ev.TemplateLost(_, generation) if generation in pool.templates:
                yield from template_lost(pool, generation)
            case ev.TemplateGone(_, generation, traceback, chance) if generation in pool.templates:
                yield from template_gone(pool, generation, traceback, now, chance)
            case ev.Sampled(_, samples):
                yield from self._judge(pool, samples, now)
            case ev.Measured(_, load):
                yield from pool.measured(load, now)
            case ev.HookEnded():
                yield from self._hook_ended(pool, event, now)

    def _judge(self, pool: Pool, samples: Iterable[tuple[int, Sample]], now: float) -> Iterator[Effect]:
        for worker_id, sample in samples:
            if (worker := pool.workers.get(worker_id)) is not None:
                pool.roster.touch(worker)
                yield from judge(pool, worker, sample, now)

    def _hook_ended(self, pool: Pool, event: ev.HookEnded, now: float) -> Iterator[Effect]:
        unborn = yield from hooks.ended(pool, event, now)
        if unborn is not None:
            self._workers.pop(unborn.id, None)
            yield from worker_gone(pool, unborn, None, now, chance=event.chance, oom=False)

    def _worker(self, event: Event, now: float) -> Iterator[Effect]:
        worker_id: int = event.worker  # type: ignore[union-attr]  # every event left has one
        pool = self._workers.get(worker_id)
        worker = pool.workers.get(worker_id) if pool else None
        if pool is None or worker is None:
            return
        pool.roster.touch(worker)
        match event:
            case ev.WorkerExited(_, status, chance, oom):
                del self._workers[worker_id]
                yield from worker_gone(pool, worker, status, now, chance=chance, oom=oom)
            case ev.WorkerLost():
                yield from condemn(pool, worker, Reason.LOST, now)
            case ev.KillAsked():
                yield from condemn(pool, worker, Reason.KILLED_BY_USER, now)
            case ev.RetireAsked(_, grace, signum):
                yield from pool.retire(worker, Reason.KILLED_BY_USER, now, grace=grace, signum=signum)
            case _:
                yield from self._worker_says(pool, worker, event, now)

    def _worker_says(self, pool: Pool, worker: Worker, event: Event, now: float) -> Iterator[Effect]:
        match event:
            case ev.WorkerSpawned(_, pid):
                pool.roster.spawned(worker, pid)
            case ev.CommandRuns():
                worker.command_runs(now)
            case ev.Probed(_, complaint):
                yield from readiness.answered(pool, worker, complaint, now)
            case ev.WorkerReady():
                yield from pool.worker_ready(worker, now)
            case ev.RecycleAsked(_, reason):
                yield from pool.wish(worker, reason)
            case ev.WorkerRetiring(_, reason):
                yield from pool.leaves(worker, reason, now)
            case ev.WorkerFailed(_, traceback):
                worker.failure = traceback
                text = f"Worker {worker.label} can't start:\n{traceback.rstrip()}"
                yield pool.report("boot_failed", text, Level.ERROR, worker=worker, details={"traceback": traceback})
            case ev.WorkerDumped(_, text):
                worker.stacks = text
                yield from dumped(pool, worker, now)
            case ev.UnitBounded() | ev.EntryDeactivated():
                yield from _unit_says(pool, worker, event)

    def _expire(self, now: float) -> Iterator[Effect]:
        for name in [name for name in self.pools if self._deadlines.get(name, inf) <= now]:
            pool = self.pools[name]
            for worker in pool.roster.due(now):
                if worker.ready_by is not None and worker.ready_by <= now:
                    yield from pool.worker_ready(worker, now)
                yield from readiness.due(worker, now)
                if worker.deadline is not None and worker.deadline <= now:
                    yield from self._expire_worker(pool, worker, now)
            yield from expire_templates(pool, now)
            yield from hooks.expire(pool, now)

    def _expire_worker(self, pool: Pool, worker: Worker, now: float) -> Iterator[Effect]:
        again = worker.state is State.KILLING
        if not pool.roster.move(worker, Input.EXPIRE, now):
            return
        yield from dump_or_kill(pool, worker)
        if again:
            text = f"Worker {worker.label} does not die of SIGKILL"
            yield pool.report("unkillable", text, Level.CRITICAL, worker=worker)
        if worker.pid is None and worker.spec.templated:
            yield from template_hangs(pool, worker.generation)

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
            elif pool.removed and isinstance(event, (ev.StartAsked, ev.RestartAsked, ev.ScaleAsked)):
                yield Concluded(event.operation, name, Outcome.FAILED, "the pool is no longer configured")
            else:
                yield from self._command_one(event, pool, now)

    def _command_one(
        self,
        event: ev.ReloadAsked | ev.StartAsked | ev.StopAsked | ev.RestartAsked | ev.ScaleAsked,
        pool: Pool,
        now: float,
    ) -> Iterator[Effect]:
        match event:
            case ev.ReloadAsked(operation):
                yield from hooks.reload(pool, operation, now)
            case ev.StartAsked(operation):
                yield from pool.start(operation)
            case ev.StopAsked(operation):
                yield from pool.stop(operation)
            case ev.RestartAsked(operation):
                yield from pool.restart(operation, now)
            case ev.ScaleAsked(operation, _, workers):
                yield from pool.scale(operation, workers, now)

    def _configure(self, event: ev.Configured, now: float) -> Iterator[Effect]:
        """Apply the difference, pool by pool.

        A pool that is to be replaced gets the name when the one before has gone; so does one that was taken out of the
        configuration and is put back before it has gone.
        """
        wanted = {spec.name: spec for spec in event.specs}
        if self._shutdown is not None:
            for name in wanted:
                yield Concluded(event.operation, name, Outcome.FAILED, "the daemon is stopping")
            return
        for name, pool in list(self.pools.items()):
            spec = wanted.pop(name, None)
            what = Change.REPLACE if spec is None else change(pool.spec, spec)
            if what is Change.REPLACE and not pool.removed:
                yield from pool.remove()
            if pool.removed:
                pool.successor = spec
            if spec is not None:
                yield from self._change(pool, spec, what, event, now)
        for spec in wanted.values():
            yield from self._add(spec, [event.operation])

    def _change(self, pool: Pool, spec: PoolSpec, what: Change, event: ev.Configured, now: float) -> Iterator[Effect]:
        pool.next_spec = None
        if what is Change.ROLLING:
            pool.next_spec = spec
        elif what is Change.LIVE and not pool.removed:
            yield from pool.adjust(spec)
        if what in (Change.ROLLING, Change.REPLACE) or pool.removed or event.unchanged:
            yield from hooks.reload(pool, event.operation, now)
        elif what is Change.LIVE and pool.active and not pool.serving:
            pool.waiting_for_start.append(event.operation)
        else:
            yield Concluded(event.operation, pool.name, Outcome.DONE, change=what)

    def _add(self, spec: PoolSpec, operations: list[str]) -> Iterator[Effect]:
        pool = self.pools[spec.name] = self._new_pool(spec)
        pool.wanted = spec.autostart
        yield pool.report("added", f"Pool {spec.name} is new")
        if pool.wanted:
            pool.waiting_for_start.extend(operations)
        else:
            for operation in operations:
                yield Concluded(operation, spec.name, Outcome.DONE)

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
            pool.hurried = haste is ev.Haste.NOW
            for worker in list(pool.workers.values()):
                yield from self._hasten(pool, worker, haste, now)

    def _hasten(self, pool: Pool, worker: Worker, haste: ev.Haste, now: float) -> Iterator[Effect]:
        if worker.state is State.PREPARING:
            yield from pool.retire(worker, Reason.SHUTDOWN, now, grace=None)
        elif haste is ev.Haste.NOW:
            if pool.roster.move(worker, Input.KILL, now, reason=worker.reason or Reason.SHUTDOWN):
                yield from dump_or_kill(pool, worker)
        elif haste is ev.Haste.BOUNDED and worker.state is State.DRAINING and worker.deadline is None:
            worker.deadline = now + pool.spec.stop_timeout
            pool.roster.touch(worker)

    # -- what concerns more than one pool -----------------------------------------------------------------

    def _release_and_hold(self) -> set[str]:
        """Start a pool when all it depends on serves; stop it, in a shutdown, when nothing depends on it.

        The names of those that this has changed.
        """
        changed = set()
        for name, pool in self.pools.items():
            if not pool.released and all(
                need not in self.pools or self.pools[need].served for need in pool.spec.depends_on
            ):
                pool.released = True
                changed.add(name)
        if self._shutdown is not None:
            changed |= self._stop_what_nobody_needs(self._shutdown)
        return changed

    def _stop_what_nobody_needs(self, haste: ev.Haste) -> set[str]:
        changed = set()
        needs = {name: pool.spec.depends_on for name, pool in self.pools.items()}
        for name, pool in self.pools.items():
            if pool.wanted and all(self.pools[other].empty for other in dependents(needs, name)):
                pool.wanted = False
                pool.leave_reason = Reason.SHUTDOWN
                pool.grace = None if haste is ev.Haste.GRACEFUL else pool.spec.stop_timeout
                changed.add(name)
        return changed

    def _whole_daemon(self, now: float) -> Iterator[Effect]:
        for pool in list(self.pools.values()):
            if pool.removed and pool.empty:
                yield from self._bury(pool)
            if pool.parked is not None and pool.spec.essential and self._shutdown is None:
                text = f"Pool {pool.name} is essential and parked: the daemon stops"
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

    def _bury(self, pool: Pool) -> Iterator[Effect]:
        """Nothing is left of a pool that was removed; another one may have been waiting for its name."""
        del self.pools[pool.name]
        self._deadlines.pop(pool.name, None)
        if pool.successor is not None and self._shutdown is None:
            yield from self._add(pool.successor, pool.waiting_for_start)
        yield Forget(pool.name)

    def _new_pool(self, spec: PoolSpec) -> Pool:
        return Pool(spec, self.next_id)


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
        exits=tuple(pool.exits.values()),
    )


def _unit_says(pool: Pool, worker: Worker, event: ev.UnitBounded | ev.EntryDeactivated) -> Iterator[Effect]:
    match event:
        case ev.UnitBounded(_, seconds):
            worker.bound(seconds)
        case ev.EntryDeactivated(_, entry, database, text):
            details = {"entry": entry, "database": database}
            yield pool.report("deactivated", text, Level.ERROR, worker=worker, details=details)
