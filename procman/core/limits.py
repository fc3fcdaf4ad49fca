"""What a look at a worker's record leads to: nothing yet, a question, the end of its unit, or its own end.

Rules of this file: a limit is weighed on one sample and the worker's past, and gives a verdict: what to do now, and
when the next look can show more. Of several verdicts the hardest counts. An idle worker costs nothing but a look,
and a question, about once in ``hang_timeout``; a busy one shows by its units that it is alive.

A worker that can be in several units at a time has a loop that goes on meanwhile: it ends its units by itself,
and is asked for a sign of life whether it is in units or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from procman.core.effect import Dump, Interrupt, Kill, Level, Ping
from procman.core.reason import Reason
from procman.core.worker import Input, State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from procman.core.effect import Effect
    from procman.core.pool import Pool
    from procman.core.sample import Sample
    from procman.core.worker import Worker


LEAST_CPU_LOOK = 0.1  # seconds between looks at the CPU time of a unit that is about to have used it up


class Act(IntEnum):
    """What to do with a worker; more is harder."""

    WAIT = 0
    ASK = 1
    INTERRUPT = 2
    CONDEMN = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """``look_at``: when a look can show more."""

    act: Act
    look_at: float
    reason: Reason = Reason.HANG
    text: str = ""


def judge(pool: Pool, worker: Worker, sample: Sample, now: float) -> Iterator[Effect]:
    """Weigh all limits that a look can show to be passed, and act on the hardest verdict."""
    if worker.state not in (State.READY, State.DRAINING):
        return
    verdicts = list(verdicts_on(worker, sample, now))
    if not verdicts:
        return
    # `plan` has said when the next look is due in any case: a unit may begin as soon as this look is over.
    looks = [verdict.look_at for verdict in verdicts]
    worker.look_at = min(looks if worker.look_at is None else [worker.look_at, *looks])
    worst = max(verdicts, key=lambda verdict: verdict.act)
    match worst.act:
        case Act.ASK:
            worker.asked_at = now
            yield Ping(worker.id)
        case Act.INTERRUPT:
            worker.interrupted_unit, worker.interrupted_at = sample.unit_started, now
            worker.interrupted_for = worst.reason
            yield pool.report("over_time", worst.text, Level.WARNING, worker=worker, reason=worst.reason)
            yield Interrupt(worker.id, worst.reason)
        case Act.CONDEMN:
            if worst.text:
                yield pool.report("hung", worst.text, Level.WARNING, worker=worker, reason=worst.reason)
            yield from condemn(pool, worker, worst.reason, now)


def verdicts_on(worker: Worker, sample: Sample, now: float) -> Iterator[Verdict]:
    """What each limit that the worker has says of the sample."""
    if sample.unit is not None:
        yield from _on_unit(worker, sample, now)
    elif worker.state is State.DRAINING and worker.deadline is None:
        over = worker.idle_drain_over(sample.beat)
        yield Verdict(Act.CONDEMN if now >= over else Act.WAIT, over, Reason.GRACE_EXPIRED)
    if worker.spec.hang_timeout is not None:
        yield _on_silence(worker, sample, worker.spec.hang_timeout, now)


# -- units ------------------------------------------------------------------------------------------------


def _on_unit(worker: Worker, sample: Sample, now: float) -> Iterator[Verdict]:
    """First the unit is asked to end, then come the stacks, then SIGKILL."""
    started, limits = sample.unit_started, worker.spec.limits
    if worker.interrupted_unit == started:
        over = worker.interrupted_at + worker.spec.kill_timeout
        yield Verdict(Act.CONDEMN if now >= over else Act.WAIT, over, worker.interrupted_for)
        return
    again = now + worker.spec.kill_timeout
    if (limit := _least(limits.time_real, sample.unit_limit)) is not None:
        over = started + limit
        text = f"Worker {worker.label} is in one unit for {now - started:.1f} s, limit {limit:g} s"
        yield (Verdict(Act.INTERRUPT, again, Reason.REAL_TIME, text) if now >= over else Verdict(Act.WAIT, over))
    if limits.time_cpu is not None:
        used = sample.unit_cpu or 0.0
        text = f"Worker {worker.label} has used {used:.1f} s of CPU in one unit, limit {limits.time_cpu:g} s"
        if used >= limits.time_cpu:
            yield Verdict(Act.INTERRUPT, again, Reason.CPU_TIME, text)
        else:
            # One thread can't use more CPU than time passes.
            first, left = started + limits.time_cpu, max(limits.time_cpu - used, LEAST_CPU_LOOK)
            yield Verdict(Act.WAIT, first if now < first else now + left)


def _least(*limits: float | None) -> float | None:
    return min((limit for limit in limits if limit is not None), default=None)


# -- silence ----------------------------------------------------------------------------------------------


def _on_silence(worker: Worker, sample: Sample, limit: float, now: float) -> Verdict:
    """Between units (or, with a loop of its own, at any time) a worker answers when it is asked."""
    patience = worker.patience
    if sample.unit is not None and not worker.spec.concurrent:
        worker.asked_at = None
        return Verdict(Act.WAIT, now + limit - patience)
    if worker.asked_at is not None and sample.beat >= worker.asked_at:
        worker.asked_at = None
    if worker.asked_at is None:
        due = sample.beat + limit - patience
        # A little early, so that those who fell silent one after the other are asked together the next time.
        return Verdict(Act.ASK, now + patience) if now >= due - patience / 2 else Verdict(Act.WAIT, due)
    over = worker.asked_at + patience
    if now < over:
        return Verdict(Act.WAIT, over)
    text = f"Worker {worker.label} has shown no sign of life for {now - sample.beat:.1f} s, and does not answer"
    return Verdict(Act.CONDEMN, over, Reason.HANG, text)


# -- ends -------------------------------------------------------------------------------------------------


def condemn(pool: Pool, worker: Worker, reason: Reason, now: float) -> Iterator[Effect]:
    """End a worker that does not end politely: its stacks first."""
    if pool.roster.move(worker, Input.CONDEMN, now, reason=reason):
        yield from dump_or_kill(pool, worker)


def dumped(pool: Pool, worker: Worker, now: float) -> Iterator[Effect]:
    """Its stacks are in the log: now it may be killed."""
    if pool.roster.move(worker, Input.DUMPED, now):
        yield from dump_or_kill(pool, worker)


def dump_or_kill(pool: Pool, worker: Worker) -> Iterator[Effect]:
    """The effect that goes with the state which the worker has just come into."""
    reason = worker.reason or Reason.KILLED_BY_USER
    if worker.state is State.DUMPING:
        yield Dump(worker.id, reason)
    else:
        why = f" ({worker.failure})" if reason is Reason.BOOT_TIMEOUT and worker.failure else ""
        text = f"Worker {worker.label} is killed: {reason}{why}"
        yield pool.report("killing", text, Level.WARNING, worker=worker, reason=reason)
        yield Kill(worker.id)


# -- CPU time ---------------------------------------------------------------------------------------------


def cpu_tick(limit: float) -> float:
    """Seconds of CPU after which a worker looks at what its unit has used of this limit, in seconds too.

    Short, so that units end in time; but never so short that looking would cost more than a hundredth of a percent.
    """
    return min(1.0, max(0.02, limit / 20))
