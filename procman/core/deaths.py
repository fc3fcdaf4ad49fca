"""What follows from the end of a worker or of a template: its record, another try, a rejected reload, or giving up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from procman.core import hooks, roll
from procman.core.effect import Level, StopTemplate
from procman.core.pool import TemplateState, describe_status
from procman.core.restart import Restarts, delay
from procman.core.spec import HookName
from procman.core.worker import ExitRecord, Input, State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from procman.core.effect import Effect
    from procman.core.pool import Pool
    from procman.core.worker import Worker


# -- templates --------------------------------------------------------------------------------------------


def expire_templates(pool: Pool, now: float) -> Iterator[Effect]:
    """End a template that takes too long to import."""
    for generation, template in pool.templates.items():
        if template.deadline is not None and template.deadline <= now:
            seconds = template.deadline - template.started_at
            yield from _end_template(pool, generation, f"the application was not imported within {seconds:g} s")


def template_hangs(pool: Pool, generation: int) -> Iterator[Effect]:
    """A template that was asked to fork has not done so for too long: it is stopped or stuck, and of no use."""
    template = pool.templates.get(generation)
    if template is not None and template.state is TemplateState.READY and not template.failure:
        yield from _end_template(pool, generation, "the template does not fork any more")


def template_lost(pool: Pool, generation: int) -> Iterator[Effect]:
    """A template that nobody can speak with: the application has closed a descriptor that is not its own."""
    template = pool.templates.get(generation)
    if template is not None and template.state is not TemplateState.STOPPING and not template.failure:
        yield from _end_template(pool, generation, "the template's channel was closed, by the application as it seems")


def _end_template(pool: Pool, generation: int, failure: str) -> Iterator[Effect]:
    pool.templates[generation].deadline = None
    pool.templates[generation].failure = failure
    yield StopTemplate(pool.name, generation, evidence=True)


def template_gone(pool: Pool, generation: int, traceback: str, now: float, chance: float) -> Iterator[Effect]:
    """A template has ended: as asked, or because it can't import, or it was killed."""
    template = pool.templates.pop(generation)
    if template.state is TemplateState.STOPPING:
        return
    if template.failure:
        # The stacks of what it was stuck in, and, as in a traceback, what was wrong last.
        traceback = f"{traceback.rstrip()}\n{template.failure}"
    pool.failure = traceback
    yield pool.report(
        "template_failed",
        f"Template {pool.name}@{generation} is gone:\n{traceback.rstrip()}",
        level=Level.ERROR,
        details={"traceback": traceback},
    )
    was_ready = template.state is TemplateState.READY
    if pool.roll is not None and generation == pool.roll.generation:
        in_force = not pool.rolling
        why = "its template died" if was_ready else "the application can't be imported"
        yield from roll.reject(pool, why, traceback, now)
        if not in_force:
            return
    if not was_ready or now - template.started_at < pool.spec.backoff.lived:
        yield from _died_young(pool, generation, now, started=template.started_at, chance=chance)


# -- workers ----------------------------------------------------------------------------------------------


def worker_gone(
    pool: Pool, worker: Worker, status: int | None, now: float, *, chance: float, oom: bool
) -> Iterator[Effect]:
    """A worker is gone: its exit record, and what follows for the pool."""
    before = worker.state
    pool.roster.move(worker, Input.EXITED, now)
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
    pool.gone(worker, record)
    yield pool.report(
        "exited",
        f"Worker {worker.label} exited: {reason}, {describe_status(status)}, after {now - worker.spawned_at:.1f} s",
        level=Level.INFO if before is State.DRAINING else Level.WARNING,
        worker=worker,
        reason=reason,
        details={"status": status, "lived": record.lived},
    )
    if worker.pid is not None:
        yield from hooks.run(pool, HookName.AFTER_STOP, now, worker, reason=reason)
    if before is not State.DRAINING and pool.wanted and not pool.closing:
        yield from _unasked(pool, worker, status, now, chance)


def _unasked(pool: Pool, worker: Worker, status: int | None, now: float, chance: float) -> Iterator[Effect]:
    """Nobody wanted this worker to go politely."""
    words = worker.failure.strip().rpartition("\n")[2] or describe_status(status)
    if pool.roll is not None and worker.generation == pool.roll.generation and _on_probation(pool, worker, now):
        in_force = not pool.rolling
        what = "did not become ready" if worker.ready_at is None else f"died after {worker.lived(now):.1f} s"
        yield from roll.reject(pool, f"a new worker {what}: {words}", worker.failure or worker.stacks, now)
        if not in_force:
            return
    incumbents = [other for other in pool.roster.in_slot(worker.slot) if other.relieved and other.live]
    if incumbents and worker.ready_at is None and pool.roll is None:
        yield from _recycling_failed(pool, incumbents, words, now, chance)
        return
    if worker.lived(now) >= pool.spec.backoff.lived:
        pool.restarts.lived()
    elif worker.generation in (pool.generation, pool.goal):
        pool.failure = worker.failure or f"worker {worker.name}: {words}"
        yield from _died_young(pool, worker.generation, now, started=worker.spawned_at, chance=chance)


def _on_probation(pool: Pool, worker: Worker, now: float) -> bool:
    """What becomes of the worker still tells whether its generation is any good."""
    return worker.ready_at is None or worker.lived(now) < pool.spec.reload.delay


def _recycling_failed(pool: Pool, incumbents: list[Worker], words: str, now: float, chance: float) -> Iterator[Effect]:
    """Nobody can take the place of a worker that has reached a soft limit: it keeps it, and the next one has to wait.

    The pool is full all the while, so this is no reason to park it.
    """
    pool.recycle_failures += 1
    wait = delay(pool.spec.backoff, pool.recycle_failures + 1, chance)
    pool.recycle_not_before = now + wait
    for worker in incumbents:
        pool.roster.relieve(worker, False)
        pool.wishes.append(worker.id)
        text = f"Worker {worker.label} serves on, its replacement can't start: {words}; next try in {wait:.1f} s"
        yield pool.report("recycle_failed", text, Level.WARNING, worker=worker, reason=worker.wish)


def _died_young(pool: Pool, generation: int, now: float, *, started: float, chance: float) -> Iterator[Effect]:
    """Something of this pool died before it had lived: wait longer, or give up."""
    pool.restarts.died_young(pool.spec.backoff, now, started=started, chance=chance)
    if pool.parked is not None:
        return
    if pool.restarts.exhausted(pool.spec.max_restarts, pool.spec.restart_window, now):
        times = len(pool.restarts.recent)
        last = pool.failure.strip().rpartition("\n")[2] or "it died at once"
        if not pool.rolling:
            yield from _park(pool, f"failed {times} times in a row, last: {last}")
            return
        if generation == pool.goal:
            pool.restarts = Restarts()
            yield from roll.reject(pool, f"its workers failed {times} times in a row: {last}", pool.failure, now)
            return
        # The generation in force keeps dying: the one that is on its way may be the cure.
    if pool.restarts.not_before > now:
        wait = pool.restarts.not_before - now
        yield pool.report("backoff", f"Pool {pool.name} waits {wait:.1f} s before it starts again", Level.WARNING)


def _park(pool: Pool, why: str) -> Iterator[Effect]:
    """Stop restarting until told."""
    pool.parked = why
    yield pool.report("parked", f"Pool {pool.name} is parked: {why}", level=Level.CRITICAL)
    yield from pool.give_up_operations(f"parked: {why}")
