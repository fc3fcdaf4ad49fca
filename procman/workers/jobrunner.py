"""The job runner as a worker: ``python -m procman.workers.jobrunner <channel-fd>``.

It imports no application: it has jobs run by the workers of an http pool, and only waits for what becomes of them.
"""

from __future__ import annotations

import sys
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from procman.core.lifecycle import Crew, Rechannel, WorkerEnded
from procman.core.spec import JobrunnerWork
from procman.jobs.asking import answer
from procman.jobs.capacity import Capacity
from procman.jobs.exchange import Target
from procman.jobs.figures import Figures
from procman.jobs.runner import Runner
from procman.jobs.vacuum import Ages
from procman.workers.boot import executed, run

if TYPE_CHECKING:
    from procman.workers.child import Child

_LONGEST_WAIT = 60.0
_SETTLE_PATIENCE = 5.0  # for a database that does not answer


def serve(child: Child) -> None:
    """Have jobs run until it is time to go; then go at once.

    Nothing is lost by not waiting for answers: the rows say how jobs end, not the answers. Workers finish what they run
    by themselves, and the next runner finds out from the rows and their locks what is running and what is not.
    """
    work = child.spec.work
    if not isinstance(work, JobrunnerWork):
        raise TypeError(f"a jobrunner pool has a JobrunnerWork, not {work!r}")
    capacity = Capacity(work.capacity, work.reserve, child.board)
    target, ages = Target(work.addresses, url=work.url), Ages(work.history_age)
    channels = {channel.name: channel for channel in work.channels}
    runner = Runner(channels, target, capacity=capacity, ages=ages, worker=child.name, queues=work.queues)
    child.on_evidence = lambda evidence: runner.deaths.condemned(evidence.pid, evidence.reason, evidence.text)
    child.on_told = partial(_heed, runner)
    child.on_question = partial(answer, runner)
    figures = Figures(runner)
    _settle(child, runner)
    child.ready()
    worked = 0.0
    awake = True
    try:
        while True:
            if awake:
                child.attend()
            if child.retiring is None:
                worked, before = runner.worked, worked
                child.check_between(worked - before)
            if child.retiring is not None:
                runner.leave()
                return
            child.record.beat()
            if (said := figures.due(monotonic())) is not None:
                child.publish(said)
            awake = runner.turn(child.wake_fds, min(_seconds_left(child), figures.seconds_left(monotonic())))
    finally:
        runner.close()


def _settle(child: Child, runner: Runner) -> None:
    """Link to the databases first: a runner that is ready has another one go, and must not be late then."""
    deadline = monotonic() + _SETTLE_PATIENCE
    awake = True
    while not runner.settled and child.retiring is None and (left := deadline - monotonic()) > 0:
        if awake:
            child.attend()
        awake = runner.turn(child.wake_fds, left)


def _heed(runner: Runner, message: WorkerEnded | Crew | Rechannel) -> None:
    match message:
        case Rechannel(channels=channels):
            runner.configure({channel.name: channel for channel in channels})
        case WorkerEnded(pid=pid, reason=reason):
            runner.worker_ended(pid, reason)
        case Crew(records=records, threads=threads):
            runner.capacity.crew(records, threads)


def _seconds_left(child: Child) -> float:
    if child.age_deadline is None:
        return _LONGEST_WAIT
    return min(_LONGEST_WAIT, max(0.0, child.age_deadline - monotonic()))


if __name__ == "__main__":
    child = executed(int(sys.argv[1]))
    run(child, lambda: serve(child))
