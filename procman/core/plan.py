"""What a pool does next: the difference between what is wanted and what there is.

Rules of this file: `plan` may be called at any time, looks at one pool alone, and says nothing when all is as
wanted. It changes what there is only by what it says to be done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from procman.core import hooks
from procman.core.effect import Concluded, Look, Outcome, StartTemplate, StopTemplate
from procman.core.pool import SURGE, PoolState, Template, TemplateState
from procman.core.reason import Reason
from procman.core.spec import HookName
from procman.core.worker import State, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from procman.core.effect import Effect
    from procman.core.pool import Pool

# A template forks one after the other, and its channel holds some two hundred messages: more wait here.
MOST_FORKS_ASKED = 32


def plan(pool: Pool, now: float) -> Iterator[Effect]:
    """What to do now."""
    yield from _plan(pool, now)
    yield from hooks.settle(pool)


def _plan(pool: Pool, now: float) -> Iterator[Effect]:
    if not (pool.wanted and pool.released):
        yield from _wind_down(pool, now)
        return
    census = _census(pool)
    if pool.parked is None and not pool.closing and now >= pool.restarts.not_before:
        pool.restarts.not_before = 0.0
        yield from _start_templates(pool, now)
        yield from _spawn_missing(pool, census, now)
    if not pool.closing:
        yield from _retire_surplus(pool, census, now)
    yield from _conclude_roll(pool, now)
    yield from _stop_templates(pool)
    yield from _look_at_workers(pool, now)
    yield from _note_serving(pool)


# -- an end -----------------------------------------------------------------------------------------------


def _wind_down(pool: Pool, now: float) -> Iterator[Effect]:
    # Only units have limits of their own that bound a graceful stop.
    grace = pool.grace if pool.overlapping else pool.spec.stop_timeout
    for worker in list(pool.workers.values()):
        if worker.live:
            yield from pool.retire(worker, pool.leave_reason, now, grace=grace)
    yield from _look_at_workers(pool, now)
    if not pool.workers:
        for generation, template in pool.templates.items():
            if template.state is not TemplateState.STOPPING:
                template.state, template.deadline = TemplateState.STOPPING, None
                yield StopTemplate(pool.name, generation)
    if pool.empty and pool.state is PoolState.STOPPED:
        for operation in pool.waiting_for_stop:
            yield Concluded(operation, pool.name, Outcome.DONE)
        pool.waiting_for_stop.clear()


# -- templates --------------------------------------------------------------------------------------------


def _start_templates(pool: Pool, now: float) -> Iterator[Effect]:
    """A template for the goal, and one for the generation in force while it still has slots to fill."""
    for generation in dict.fromkeys((pool.generation, pool.goal)):
        spec = pool.spec_of(generation)
        if spec.templated and generation not in pool.templates:
            pool.templates[generation] = Template(TemplateState.STARTING, now, now + spec.start_timeout)
            yield StartTemplate(spec, generation)


def _stop_templates(pool: Pool) -> Iterator[Effect]:
    for generation, template in pool.templates.items():
        if generation not in (pool.generation, pool.goal) and template.state is not TemplateState.STOPPING:
            template.state, template.deadline = TemplateState.STOPPING, None
            yield StopTemplate(pool.name, generation)


# -- workers ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Census:
    """The workers of a pool, counted in one go."""

    at_goal: set[int]  # slots of those that serve, or are about to, in the generation that is to serve
    serving: set[int]  # slots of those among them that serve
    others: set[int]  # slots of those of other generations
    starting: int  # how many of the goal do not serve yet
    unborn: int  # how many a template has been asked for
    last: int  # the highest slot

    @property
    def settled(self) -> bool:
        """One generation, and no slot is left out."""
        return not self.others and len(self.at_goal) == self.last


def _census(pool: Pool) -> _Census:
    census, goal = _Census(set(), set(), set(), 0, 0, 0), pool.goal
    for worker in pool.workers.values():
        state = worker.state
        if worker.pid is None:
            census.unborn += 1
        if worker.live:
            census.last = max(census.last, worker.slot)
            if worker.generation == goal:
                census.at_goal.add(worker.slot)
                if state is State.READY:
                    census.serving.add(worker.slot)
                else:
                    census.starting += 1
            else:
                census.others.add(worker.slot)
    return census


def _spawn_missing(pool: Pool, census: _Census, now: float) -> Iterator[Effect]:
    asked = census.unborn
    missing = _missing(pool, census)
    if pool.restarts.probing:
        trying = {worker.generation for worker in pool.workers.values() if worker.coming}
        missing = [(generation, slot) for generation, slot in missing if generation not in trying][:1]
    for generation, slot in missing:
        spec = pool.spec_of(generation)
        if spec.templated:
            template = pool.templates.get(generation)
            if template is None or template.state is not TemplateState.READY or asked >= MOST_FORKS_ASKED:
                continue
            asked += 1
        worker = Worker(id=pool.serial(), spec=spec, slot=slot, generation=generation, spawned_at=now)
        pool.workers[worker.id] = worker
        yield from hooks.start(pool, worker, now)


def _missing(pool: Pool, census: _Census) -> list[tuple[int, int]]:
    """(generation, slot) of the workers to start now.

    A slot in which nobody serves is filled at once. One in which another generation serves gets its successor when
    there is room for one, and before the canary is ready there is room for the canary alone.
    """
    if census.settled and census.last >= pool.target and not pool.rolling:
        return []
    room = SURGE - census.starting
    if pool.rolling and pool.roll is not None and not pool.roll.canary_ready and census.at_goal:
        room = 0
    missing = []
    for slot in range(1, pool.target + 1):
        if slot in census.serving or not _vacant(pool, slot):
            continue
        come = slot in census.at_goal
        if not come and (room > 0 or not (pool.rolling or slot in census.others)):
            missing.append((pool.goal, slot))
            room -= pool.rolling or slot in census.others
        elif slot not in census.others and _falls_back(pool, slot):
            missing.append((pool.generation, slot))
    return missing


def _falls_back(pool: Pool, slot: int) -> bool:
    """An old worker died during a reload: until its successor serves, one of the generation in force does."""
    return pool.rolling and pool.overlapping and pool.roll is not None and slot <= pool.roll.target_before


def _vacant(pool: Pool, slot: int) -> bool:
    """Nothing stands in the way of a new worker in this slot, nor does anything clean up there."""
    return pool.overlapping or not (any(w.slot == slot for w in pool.workers.values()) or hooks.cleaning(pool, slot))


def _retire_surplus(pool: Pool, census: _Census, now: float) -> Iterator[Effect]:
    if not census.others and census.last <= pool.target:
        return
    grace = pool.spec.stop_timeout
    for worker in list(pool.workers.values()):
        if worker.live and worker.slot > pool.target:
            yield from pool.retire(worker, Reason.SCALE_DOWN, now, grace=grace)
    replaced = _replaced(pool)
    for worker in list(pool.workers.values()):
        if worker.live and worker.generation != pool.goal and worker.slot in replaced:
            yield from pool.retire(worker, Reason.RELOAD, now, grace=grace)


def _replaced(pool: Pool) -> set[int]:
    """The slots whose workers of other generations than the goal are to go now."""
    if pool.overlapping:
        return {w.slot for w in pool.of(pool.goal) if w.state is State.READY}
    if any(not w.live for w in pool.workers.values()) or any(w.coming for w in pool.of(pool.goal)):
        return set()  # one at a time
    others = {w.slot for w in pool.workers.values() if w.generation != pool.goal and w.live}
    return {min(others)} if others else set()


def _conclude_roll(pool: Pool, now: float) -> Iterator[Effect]:
    """The roll is over when every slot has a ready worker of the goal; old ones may still be draining."""
    if pool.roll is None:
        return
    template = pool.templates.get(pool.goal)
    if pool.spec.templated and pool.target == 0 and (template is None or template.state is not TemplateState.READY):
        return  # nobody would be there to show that the application can be imported
    if sum(w.state is State.READY for w in pool.of(pool.goal)) < pool.target:
        return
    operation, pool.generation, pool.roll = pool.roll.operation, pool.roll.generation, None
    yield pool.report("reloaded", f"Pool {pool.name} serves generation {pool.generation}")
    yield Concluded(operation, pool.name, Outcome.DONE)
    yield from hooks.run(pool, HookName.AFTER_RELOAD, now)


def _look_at_workers(pool: Pool, now: float) -> Iterator[Effect]:
    """Ask for a look at workers that may have passed a limit, no sooner than they can have."""
    due = []
    for worker in pool.workers.values():
        if worker.look_at is not None and worker.look_at > now and worker.state is State.READY:
            continue  # most workers, most of the time
        interval = worker.look_interval
        if interval is None:
            worker.look_at = None
        elif worker.look_at is not None and worker.look_at <= now:
            worker.look_at = now + interval
            due.append(worker.id)
        else:
            worker.look_at = min(now + interval, worker.look_at or now + interval)
    if due:
        # And with them at those whose turn is near: so that all are looked at together in the end.
        near = now + (pool.workers[due[0]].look_interval or 0.0) / 10
        looks = {worker.id: worker.look_at for worker in pool.workers.values() if worker.id not in due}
        yield Look(pool.name, (*due, *(worker for worker, at in looks.items() if at is not None and at <= near)))


def _note_serving(pool: Pool) -> Iterator[Effect]:
    if pool.serving and pool.roll is None:
        if not pool.served:
            pool.served = True
            yield pool.report("serving", f"Pool {pool.name} serves with {pool.target} workers")
        for operation in pool.waiting_for_start:
            yield Concluded(operation, pool.name, Outcome.DONE)
        pool.waiting_for_start.clear()
