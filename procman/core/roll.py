"""A reload: how it begins, and how it fails.

A reload is a `Roll` to the next generation: its template is built, one worker of it (the canary) must become
ready, then the others follow, a ``surge`` at a time; an old worker is retired when the new one in its
slot serves. If anything of the new generation fails before it serves everywhere, the roll is rejected and the
old generation, whose template is kept until then, goes on. A newer reload supersedes an unfinished one. Either way
those of the abandoned generation that serve already go only when others serve in their slots: no turn that a
reload can take costs capacity.

Pools whose workers can't stand beside their successors (no ``surge``) are rolled slot by slot, a worker ended before
the one in its place starts; they have nothing to fall back on.

What is done in between, and when it is over, is in `procman.core.plan`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from procman.core.effect import Concluded, Level, Outcome
from procman.core.reason import Reason
from procman.core.restart import Restarts
from procman.core.spec import Kind
from procman.core.worker import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from procman.core.effect import Effect
    from procman.core.pool import Pool
    from procman.core.spec import PoolSpec


@dataclass(slots=True)
class Roll:
    """A reload under way."""

    generation: int
    operation: str
    before: PoolSpec  # what the generation in force was started with
    target_before: int
    canary_ready: bool = False
    not_before: float = 0.0  # when it goes on, after the delay that a new worker has to serve


def begin(pool: Pool, operation: str, now: float) -> Iterator[Effect]:
    """Start to replace every worker by one of the next generation, which takes over a new spec if there is one."""
    if pool.successor is not None:
        pool.waiting_for_start.append(operation)  # it is replaced as a whole
        return
    before, target_before = _take_over_next_spec(pool)
    previous = max(pool.goal, max(pool.templates, default=0))
    if pool.spec.kind is Kind.POSTGRES or not pool.wanted:
        # A reload is about code: a database server has none of it, a stopped pool starts with the new one.
        pool.generation = previous + 1 if pool.spec.templated else pool.generation
        yield Concluded(operation, pool.name, Outcome.DONE)
        return
    if pool.roll is not None:
        yield Concluded(pool.roll.operation, pool.name, Outcome.SUPERSEDED, "a newer reload has begun")
        yield from _retire_abandoned(pool, pool.roll.generation, now)
    pool.parked = None
    pool.failure = ""
    pool.restarts = Restarts()
    yield from _take_back_tokens(pool, now)
    pool.roll = Roll(previous + 1, operation, before, target_before)
    if not pool.ready:
        # Nothing serves, so there is nothing to go back to: the next generation is the one in force.
        yield from _retire_abandoned(pool, pool.generation, now)
        pool.generation = pool.roll.generation
    pool.look_again()
    yield pool.report("reloading", f"Pool {pool.name} reloads: generation {pool.roll.generation}")


def reject(pool: Pool, why: str, traceback: str, now: float) -> Iterator[Effect]:
    """The next generation is no good: forget it, the one in force goes on with what it was started with."""
    if pool.roll is None:
        return
    roll, pool.roll = pool.roll, None
    if pool.generation != roll.generation:
        pool.spec, pool.target = roll.before, roll.target_before
        yield from _retire_abandoned(pool, roll.generation, now)
    pool.look_again()
    text = f"Pool {pool.name} keeps generation {pool.generation}, reload rejected: {why}"
    yield pool.report("reload_rejected", text, level=Level.ERROR)
    yield Concluded(roll.operation, pool.name, Outcome.FAILED, why, traceback)


def _take_over_next_spec(pool: Pool) -> tuple[PoolSpec, int]:
    """(spec, target) of the generation in force, to go back to."""
    back = (pool.spec, pool.target) if pool.roll is None else (pool.roll.before, pool.roll.target_before)
    if pool.next_spec is not None:
        if pool.next_spec.workers != pool.spec.workers:
            pool.target = pool.next_spec.workers
        if pool.next_spec.scaling is not None:
            pool.target = pool.next_spec.scaling.clamp(pool.target)
        pool.spec, pool.next_spec = pool.next_spec, None
        pool.look_again()
    return back


def _take_back_tokens(pool: Pool, now: float) -> Iterator[Effect]:
    """A reload replaces everybody: who starts to replace one of the same generation is not needed."""
    for worker in [one for one in pool.workers.values() if one.relieved and one.live] if pool.roster.relieved else ():
        pool.roster.relieve(worker, False)
        pool.wishes.append(worker.id)
        for other in pool.roster.in_slot(worker.slot):
            if other.coming and other.generation == worker.generation:
                yield from pool.retire(other, Reason.RELOAD, now, grace=pool.spec.stop_timeout)


def _retire_abandoned(pool: Pool, generation: int, now: float) -> Iterator[Effect]:
    """Those that do not serve yet go at once, or that serve beside another one; for the others see `plan`."""
    for worker in pool.of(generation):
        others = [one for one in pool.roster.in_slot(worker.slot) if one.generation != generation]
        if worker.coming or any(one.state is State.READY for one in others):
            yield from pool.retire(worker, Reason.RELOAD, now, grace=pool.spec.stop_timeout)
