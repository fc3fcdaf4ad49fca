"""Hooks: commands of the pool that run at a moment of a worker's life, or of a reload.

Rules of this file: a hook never holds up anything but what it was put before, and that no longer than its timeout.

=============  ==========================================  ======================================================
hook           runs                                        when it fails
=============  ==========================================  ======================================================
before_start   for each worker, before its process starts  the worker does not start: ``boot_failed``, a young death
after_start    for each worker, when it is ready           reported
before_stop    for each worker that served and is asked    reported; the worker is asked to go all the same
               to go, before it is asked
after_stop     for each worker that had a process, when    reported
               that is gone; until it has ended a pool
               whose workers can't stand beside their
               successors starts none in the slot
before_reload  for the pool, before anything is done       the reload is rejected
after_reload   for the pool, when the new generation       reported
               serves
=============  ==========================================  ======================================================

So start and stop are those of a worker, as in systemd's ExecStartPre= to ExecStopPost= and Circus's before_spawn; what
is to happen once for a whole pool belongs into a pool of its own that this one depends on. A drain's deadline includes
before_stop. What was put before something that does not happen any more is killed, and in a hurry (a second SIGTERM)
everything is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from procman.core import roll
from procman.core.effect import Concluded, EndHook, Level, Outcome, Report, Retire, RunHook, Spawn
from procman.core.spec import HookName
from procman.core.worker import FORK_PATIENCE, Input, State, Worker

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from procman.core.effect import Effect
    from procman.core.event import HookEnded
    from procman.core.pool import Pool
    from procman.core.reason import Reason
    from procman.core.spec import PoolSpec


@dataclass(slots=True)
class Run:
    """A hook that runs; of a worker if it has a slot.

    ``operation`` is the reload that it decides about, ``complaint`` why it was ended, if it was.
    """

    hook: HookName
    deadline: float | None
    timeout: float
    worker: int | None = None
    slot: int | None = None
    operation: str = ""
    complaint: str = ""

    def label(self, pool: str) -> str:
        """How log lines call it."""
        return f"{self.hook.value} of {pool}" + (f".{self.slot}" if self.slot is not None else "")


# -- beginning --------------------------------------------------------------------------------------------


def run(
    pool: Pool, hook: HookName, now: float, worker: Worker | None = None, *, reason: Reason | None = None
) -> Iterator[Effect]:
    """Run the hook, if there is one."""
    spec = pool.spec if worker is None else worker.spec
    if spec.hooks.command(hook) and not pool.hurried:
        yield _begin(pool, hook, spec, now, worker, reason=reason)


def _begin(
    pool: Pool,
    hook: HookName,
    spec: PoolSpec,
    now: float,
    worker: Worker | None = None,
    *,
    operation: str = "",
    reason: Reason | None = None,
) -> RunHook:
    number = pool.serial()
    timeout = spec.hooks.timeout
    if worker is None:
        pool.hooks[number] = Run(hook, now + timeout, timeout, operation=operation)
        return RunHook(id=number, hook=hook, spec=spec, generation=pool.goal)
    pool.hooks[number] = Run(hook, now + timeout, timeout, worker.id, worker.slot)
    return RunHook(
        id=number,
        hook=hook,
        spec=spec,
        generation=worker.generation,
        worker=worker.name,
        slot=worker.slot,
        pid=worker.pid,
        reason=reason,
    )


def worker(number: int, spec: PoolSpec, slot: int, generation: int, now: float) -> Worker:
    """A worker that is to be started."""
    state = State.PREPARING if spec.hooks.before_start else State.STARTING
    return Worker(id=number, spec=spec, slot=slot, generation=generation, spawned_at=now, state=state)


def start(pool: Pool, worker: Worker, now: float) -> Iterator[Effect]:
    """Start a worker, after its before_start."""
    if worker.state is State.PREPARING:
        yield _begin(pool, HookName.BEFORE_START, worker.spec, now, worker)
    else:
        yield _spawn(worker, now)


def _spawn(worker: Worker, now: float) -> Spawn:
    spec = worker.spec
    worker.spawned_at = now
    worker.deadline = now + (min(spec.start_timeout, FORK_PATIENCE) if spec.templated else spec.start_timeout)
    return Spawn(worker.id, spec, worker.slot, worker.generation)


def parts(pool: Pool, worker: Worker) -> bool:
    """The worker is asked to go only after its before_stop."""
    return bool(worker.spec.hooks.before_stop) and not pool.hurried


def part(pool: Pool, worker: Worker, reason: Reason, signum: int | None, now: float) -> Effect:
    """Begin to ask a worker to go, by this signal if one is given: run its before_stop."""
    worker.parting = (reason, signum)
    return _begin(pool, HookName.BEFORE_STOP, worker.spec, now, worker, reason=reason)


def reload(pool: Pool, operation: str, now: float) -> Iterator[Effect]:
    """Begin a reload, after the before_reload of the configuration that it is to bring into force."""
    yield from give_up_reload(pool, Outcome.SUPERSEDED, "a newer reload has begun")
    spec = pool.next_spec or pool.spec
    if spec.hooks.before_reload and pool.wanted and pool.successor is None:
        yield _begin(pool, HookName.BEFORE_RELOAD, spec, now, operation=operation)
    else:
        yield from roll.begin(pool, operation, now)


# -- ends -------------------------------------------------------------------------------------------------


def ended(pool: Pool, event: HookEnded, now: float) -> Generator[Effect, None, Worker | None]:
    """A hook has ended; the worker that is gone by that, without ever having had a process."""
    done = pool.hooks.pop(event.hook, None)
    if done is None:
        return None
    if done.slot is not None:
        pool.roster.changed.add(done.slot)
    complaint = done.complaint or event.complaint
    worker = None if done.worker is None else pool.workers.get(done.worker)
    yield _told(pool, done, worker, complaint)
    match done.hook:
        case HookName.BEFORE_START if worker is not None:
            return (yield from _prepared(pool, worker, complaint, now))
        case HookName.BEFORE_STOP if worker is not None:
            yield from _parted(worker)
        case HookName.BEFORE_RELOAD if done.operation:
            yield from _reload_decided(pool, done.operation, complaint, now)
    return None


def _told(pool: Pool, done: Run, worker: Worker | None, complaint: str) -> Report:
    details: dict[str, object] = {"hook": done.hook.value}
    label = done.label(pool.name)
    if complaint:
        text = f"Hook {label} has failed: {complaint}"
        return pool.report("hook_failure", text, Level.WARNING, worker=worker, details=details)
    return pool.report("hook_success", f"Hook {label} is done", Level.DEBUG, worker=worker, details=details)


def _prepared(pool: Pool, worker: Worker, complaint: str, now: float) -> Generator[Effect, None, Worker | None]:
    if complaint and worker.state is State.PREPARING:
        worker.failure = f"before_start: {complaint}"
        return worker
    if not pool.roster.move(worker, Input.PREPARED, now):
        return worker  # it was told to go meanwhile
    yield _spawn(worker, now)
    return None


def _parted(worker: Worker) -> Iterator[Effect]:
    parting, worker.parting = worker.parting, None
    if parting is not None and worker.state is State.DRAINING:
        yield Retire(worker.id, *parting)


def _reload_decided(pool: Pool, operation: str, complaint: str, now: float) -> Iterator[Effect]:
    if not complaint:
        yield from roll.begin(pool, operation, now)
        return
    pool.next_spec = None
    text = f"Pool {pool.name} keeps generation {pool.goal}, reload rejected: before_reload: {complaint}"
    yield pool.report("reload_rejected", text, Level.ERROR)
    yield Concluded(operation, pool.name, Outcome.FAILED, f"before_reload: {complaint}")


def reload_under_way(pool: Pool) -> str | None:
    """The operation of a reload whose before_reload runs."""
    return next((run.operation for run in pool.hooks.values() if run.operation), None)


def give_up_reload(pool: Pool, outcome: Outcome, why: str) -> Iterator[Effect]:
    """A reload whose before_reload runs will not come to anything."""
    for number, one in pool.hooks.items():
        if one.operation:
            yield Concluded(one.operation, pool.name, outcome, why)
            one.operation = ""
            yield _end(number, one, why)


def expire(pool: Pool, now: float) -> Iterator[Effect]:
    """End the hooks that take too long."""
    for number, one in pool.hooks.items():
        if one.deadline is not None and one.deadline <= now:
            yield _end(number, one, f"not done within {one.timeout:g} s")


def settle(pool: Pool) -> Iterator[Effect]:
    """End the hooks that stand before something which does not happen any more; in a hurry, all of them."""
    for number, one in pool.hooks.items():
        if one.deadline is None:
            continue  # has been ended
        worker = None if one.worker is None else pool.workers.get(one.worker)
        state = None if worker is None else worker.state
        if pool.hurried:
            yield _end(number, one, "the daemon stops at once")
        elif one.hook is HookName.BEFORE_START and state is not State.PREPARING:
            yield _end(number, one, "the worker is to go")
        elif one.hook is HookName.BEFORE_STOP and state is not State.DRAINING:
            yield _end(number, one, "the worker does not wait for it any more")


def _end(number: int, one: Run, why: str) -> EndHook:
    one.deadline, one.complaint = None, one.complaint or why
    return EndHook(number)


def cleaning(pool: Pool, slot: int) -> bool:
    """The after_stop of a worker of this slot runs."""
    return any(one.hook is HookName.AFTER_STOP and one.slot == slot for one in pool.hooks.values())
