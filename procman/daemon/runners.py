"""What job runners are told of the workers of the pool that runs their jobs: who there is, and why one has ended.

A job that was in a worker that has died finds itself back in the queue with the reason; and no more jobs are on their
way than there are workers to take them, so that none waits in the queue of a socket, and users do not wait behind jobs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from procman.core.lifecycle import Crew, WorkerEnded
from procman.core.spec import HttpWork, JobrunnerWork, Kind
from procman.core.worker import State
from procman.errors import ChannelClosed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from procman.core.arbiter import Arbiter
    from procman.core.effect import Report
    from procman.daemon.children import Children
    from procman.daemon.processes import WorkerProcess


class Runners:
    def __init__(self, arbiter: Arbiter, children: Children) -> None:
        self._arbiter = arbiter
        self._children = children
        self._told: dict[int, Crew] = {}

    def update(self) -> None:
        """Tell each one who serves now, if it does not know."""
        told = {}
        for runner in self._runners():
            crew = self._crew(runner)
            if crew is not None and (crew == self._told.get(runner.id) or _tell(runner, crew)):
                told[runner.id] = crew
        self._told = told

    def ended(self, report: Report) -> None:
        """A worker has ended."""
        if report.pid is None or report.reason is None or report.pool not in self._arbiter.pools:
            return
        # Of each other job runners hear as well: whoever stands by begins at once.
        if self._arbiter.pools[report.pool].spec.kind in (Kind.HTTP, Kind.JOBRUNNER):
            for runner in self._runners():
                _tell(runner, WorkerEnded(pid=report.pid, reason=report.reason))

    def _runners(self) -> Iterator[WorkerProcess]:
        for worker in self._children.workers.values():
            if worker.spec.kind is Kind.JOBRUNNER:
                yield worker

    def _crew(self, runner: WorkerProcess) -> Crew | None:
        work = runner.spec.work
        pool = self._arbiter.pools.get(work.target or "") if isinstance(work, JobrunnerWork) else None
        if pool is None:
            return None
        processes = (self._children.workers.get(w.id) for w in pool.workers.values() if w.state is State.READY)
        records = sorted(process.record for process in processes if process is not None and process.record is not None)
        threads = pool.spec.work.threads if isinstance(pool.spec.work, HttpWork) else 1
        return Crew(records=tuple(records), threads=threads)


def _tell(runner: WorkerProcess, message: Crew | WorkerEnded) -> bool:
    if runner.channel is None:
        return False
    try:
        runner.channel.send(message)
    except ChannelClosed:
        return False  # another one will find the jobs, and not know why; or it reads later, and is told again
    return True
