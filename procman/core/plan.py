"""What a pool does next: the difference between what is wanted and what there is.

Rules of this file: `plan` may be called at any time, looks at one pool alone, and says nothing when all is as
wanted. It changes what there is only by what it says to be done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from procman.core import hooks
from procman.core.effect import Concluded, Look, Measure, Outcome, StartTemplate, StopTemplate
from procman.core.pool import PoolState, Template, TemplateState
from procman.core.reason import Reason
from procman.core.scaling import MEASURE_EVERY
from procman.core.spec import HookName, Kind
from procman.core.worker import State

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
    if pool.roll is not None and now >= pool.roll.not_before:
        pool.roll.not_before = 0.0
    _hand_out_tokens(pool, now)
    _survey(pool)
    if pool.parked is None and not pool.closing and now >= pool.restarts.not_before:
        pool.restarts.not_before = 0.0
        yield from _start_templates(pool, now)
        yield from _spawn_missing(pool, now)
    if not pool.closing:
        yield from _retire_surplus(pool, now)
    yield from _conclude_roll(pool, now)
    yield from _stop_templates(pool)
    yield from _look_at_workers(pool, now)
    yield from _measure(pool, now)
    yield from _note_serving(pool)


# -- an end -----------------------------------------------------------------------------------------------


def _wind_down(pool: Pool, now: float) -> Iterator[Effect]:
    # Only units have limits of their own that bound a graceful stop.
    grace = pool.grace if pool.spec.kind not in (Kind.EXEC, Kind.POSTGRES) else pool.spec.stop_timeout
    if pool.roster.live:
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


# -- slots ------------------------------------------------------------------------------------------------


def _survey(pool: Pool) -> None:
    """Find out what has to be done about every slot in which something has changed."""
    while pool.roster.changed:
        slot = pool.roster.changed.pop()
        pool.survey.forget(slot)
        _survey_slot(pool, slot)


def _survey_slot(pool: Pool, slot: int) -> None:
    survey, there = pool.survey, pool.roster.in_slot(slot)
    live = [worker for worker in there if worker.live]
    current = [worker for worker in live if worker.generation == pool.goal and not worker.relieved]
    if slot > pool.target:
        if live:
            survey.leaving.add(slot)
    elif any(worker.state is State.READY for worker in current):
        survey.served.add(slot)
        if len(current) < len(live):
            survey.leaving.add(slot)
    elif current:
        if len(current) == len(live):
            survey.uncovered.add(slot)
    elif live:
        # Of a successor that is being killed its end will tell when the next one may try.
        if pool.roll is not None or all(one.live or one.ready_at is not None for one in there):
            survey.outdated.add(slot)
    elif pool.overlapping or not (there or hooks.cleaning(pool, slot)):
        survey.vacant.add(slot)


def _hand_out_tokens(pool: Pool, now: float) -> None:
    """Say to those who have reached a soft limit that it is their turn, in the order in which they have asked."""
    if not pool.wishes or pool.roll is not None or pool.closing or now < pool.recycle_not_before:
        return  # in a reload everybody is replaced anyway
    pool.recycle_not_before = 0.0
    while pool.wishes and pool.roster.relieved < pool.spec.recycle_at_once:
        worker = pool.workers.get(pool.wishes.popleft())
        if worker is not None and worker.state is State.READY:
            pool.roster.relieve(worker, True)


# -- workers ----------------------------------------------------------------------------------------------


def _spawn_missing(pool: Pool, now: float) -> Iterator[Effect]:
    """Start workers where there are none, and successors for as many others as there is room for.

    A slot in which nobody serves is filled at once; during a reload, when there is no room for one of the next
    generation, by one of the generation in force.
    """
    room = _room(pool)
    while (slot := pool.survey.vacant.first()) is not None:
        if (room > 0 or not pool.rolling) and _can_start(pool, pool.goal):
            yield from _start(pool, slot, pool.goal, now)
            room -= pool.rolling
        elif _falls_back(pool, slot) and _can_start(pool, pool.generation):
            yield from _start(pool, slot, pool.generation, now)
        else:
            break
    if pool.overlapping:
        while room > 0 and (slot := pool.survey.outdated.first()) is not None and _can_start(pool, pool.goal):
            yield from _start(pool, slot, pool.goal, now)
            room -= 1
    if pool.rolling:
        for slot in pool.survey.uncovered:
            if _falls_back(pool, slot) and _can_start(pool, pool.generation):
                yield from _start(pool, slot, pool.generation, now)


def _start(pool: Pool, slot: int, generation: int, now: float) -> Iterator[Effect]:
    worker = hooks.worker(pool.serial(), pool.spec_of(generation), slot, generation, now)
    pool.roster.add(worker)
    _survey(pool)
    yield from hooks.start(pool, worker, now)


def _room(pool: Pool) -> int:
    """How many workers more of the goal may be starting beside those whom they are to succeed."""
    coming = pool.roster.coming[pool.goal]
    if pool.paused:
        return 0
    if pool.awaits_canary:
        return 1 - coming
    if pool.rolling or not pool.overlapping:
        return (pool.spec.surge or pool.spec.reload.max_unavailable) - coming
    return max(pool.spec.surge, pool.spec.recycle_at_once) - coming


def _can_start(pool: Pool, generation: int) -> bool:
    if pool.restarts.probing and pool.roster.coming[generation]:
        return False
    if not pool.spec_of(generation).templated:
        return True
    template = pool.templates.get(generation)
    return template is not None and template.state is TemplateState.READY and pool.roster.unborn < MOST_FORKS_ASKED


def _falls_back(pool: Pool, slot: int) -> bool:
    """An old worker died during a reload: until its successor serves, one of the generation in force does."""
    return pool.rolling and pool.overlapping and pool.roll is not None and slot <= pool.roll.target_before


def _retire_surplus(pool: Pool, now: float) -> Iterator[Effect]:
    """Have those go whom nobody needs, and those who have to go before somebody else can come."""
    for slot in pool.survey.leaving:
        yield from _retire_in(pool, slot, now)
    if not pool.overlapping:
        while (least := pool.survey.outdated.first()) is not None and _may_go_first(pool):
            yield from _retire_in(pool, least, now)


def _retire_in(pool: Pool, slot: int, now: float) -> Iterator[Effect]:
    """Retire everybody in the slot who is not up to date, or everybody if the slot is not wanted."""
    if slot <= pool.target and pool.paused:
        return
    for worker in pool.roster.in_slot(slot):
        if not worker.live:
            continue
        if slot > pool.target:
            yield from pool.retire(worker, Reason.SCALE_DOWN, now, grace=pool.spec.stop_timeout)
        elif worker.generation != pool.goal:
            yield from pool.retire(worker, Reason.RELOAD, now, grace=pool.spec.stop_timeout)
        elif worker.relieved:
            # Nothing is in a hurry here: what ends its unit is the unit's own limit.
            pool.recycle_failures = 0
            yield from pool.retire(worker, worker.wish or Reason.FINISHED, now, grace=None)
    _survey(pool)


def _may_go_first(pool: Pool) -> bool:
    """One more may be missing for a while."""
    if pool.paused:
        return False
    most = 1 if pool.awaits_canary else pool.spec.reload.max_unavailable
    return pool.target - pool.ready < most


def _conclude_roll(pool: Pool, now: float) -> Iterator[Effect]:
    """The roll is over when every slot has a ready worker of the goal; old ones may still be draining."""
    if pool.roll is None or pool.paused:
        return
    template = pool.templates.get(pool.goal)
    if pool.spec.templated and pool.target == 0 and (template is None or template.state is not TemplateState.READY):
        return  # nobody would be there to show that the application can be imported
    if len(pool.survey.served) < pool.target:
        return
    operation, pool.generation, pool.roll = pool.roll.operation, pool.roll.generation, None
    yield pool.report("reloaded", f"Pool {pool.name} serves generation {pool.generation}")
    yield Concluded(operation, pool.name, Outcome.DONE)
    yield from hooks.run(pool, HookName.AFTER_RELOAD, now)


def _look_at_workers(pool: Pool, now: float) -> Iterator[Effect]:
    """Ask for a look at workers that may have passed a limit, no sooner than they can have."""
    due = []
    for worker in pool.roster.touched():
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
        more = [w.id for w in pool.roster.due(near) if w.look_at is not None and w.look_at <= near and w.id not in due]
        yield Look(pool.name, (*due, *more))


def _measure(pool: Pool, now: float) -> Iterator[Effect]:
    scaler = pool.scaler
    if pool.spec.scaling is None or not pool.scales:
        scaler.measure_at = None
    elif scaler.measure_at is None or scaler.measure_at <= now:
        scaler.measure_at = now + MEASURE_EVERY
        ready = tuple(worker.id for worker in pool.workers.values() if worker.state is State.READY)
        yield Measure(pool.name, ready, scaler.needs_memory(pool.spec.scaling, now))


def _note_serving(pool: Pool) -> Iterator[Effect]:
    if pool.serving and pool.roll is None:
        if not pool.served:
            pool.served = True
            yield pool.report(
                "serving", f"Pool {pool.name} serves with {pool.target} worker{'' if pool.target == 1 else 's'}"
            )
        for operation in pool.waiting_for_start:
            yield Concluded(operation, pool.name, Outcome.DONE)
        pool.waiting_for_start.clear()
