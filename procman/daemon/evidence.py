"""Nothing is killed without its stacks: they go into the log and out as an event first, and then the kill goes on."""

from __future__ import annotations

import logging
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

from procman.core import event as ev
from procman.core import lifecycle as say
from procman.core.spec import Kind
from procman.daemon.stacks import kernel_state
from procman.errors import ChannelClosed

if TYPE_CHECKING:
    from collections.abc import Callable

    from procman.control.publisher import Publisher
    from procman.core.effect import Report
    from procman.core.event import Event
    from procman.core.reason import Reason
    from procman.daemon.children import Children
    from procman.daemon.processes import WorkerProcess
    from procman.daemon.stacks import StackDumper, Stacks

log = logging.getLogger("procman.arbiter")

_MOST_UNTOLD = 10
_UNTOLD_FOR = 60.0  # seconds


class Evidence:
    def __init__(
        self,
        dumper: StackDumper,
        children: Children,
        publisher: Callable[[], Publisher],
        emit: Callable[[Event], None],
    ) -> None:
        self._dumper = dumper
        self._children = children
        self._publisher = publisher
        self._emit = emit
        # By pool, and with the time: for workers to come.
        self._untold: dict[str, deque[tuple[float, say.Evidence]]] = {}

    def of_worker(self, worker_id: int, reason: Reason) -> None:
        """Take the stacks of a worker that is condemned, and tell the arbiter when they are there."""

        worker = self._children.workers.get(worker_id)
        if worker is None:
            return
        is_cron = worker.spec.kind is Kind.CRON

        def taken(stacks: Stacks) -> None:
            self._publish(stacks, stacks.worker.rpartition(".")[0])
            self._tell_runners(stacks, reason)
            if stacks.pid is not None and is_cron:
                self._tell_cron(stacks.worker.rpartition(".")[0], stacks.pid, reason, say.cut(stacks.describe()))
            self._emit(ev.WorkerDumped(worker_id, stacks.text))

        self._dumper.dump(worker, taken)

    def of_command(self, worker_id: int) -> None:
        """Say of a command, which has no stacks that anybody could ask for, what the kernel knows of it."""
        worker = self._children.workers.get(worker_id)
        if worker is not None and worker.pid is not None and worker.spec.kind in (Kind.EXEC, Kind.POSTGRES):
            state = kernel_state(worker.pid)
            log.warning("Worker %s (%d) before the kill: %s", worker.name, worker.pid, state)

    def _tell_runners(self, stacks: Stacks, reason: Reason) -> None:
        """A job that is killed can't write into its row why; the runner does, which will find it dead."""
        if stacks.pid is None or stacks.unit is None or not str(stacks.unit["name"]).startswith("job "):
            return
        evidence = say.Evidence(pid=stacks.pid, reason=reason, text=say.cut(stacks.describe()))
        for runner in self._children.workers.values():
            if runner.spec.kind is Kind.JOBRUNNER:
                _tell(runner, evidence)

    def exited(self, report: Report) -> None:
        """A cron worker has ended: when it was by force, those who find its work unfinished are to know the reason."""
        forced = report.details.get("status") != 0
        if forced and report.pool is not None and report.pid is not None and report.reason is not None:
            self._tell_cron(report.pool, report.pid, report.reason, "")

    def ready(self, report: Report) -> None:
        """A worker serves: tell it what its predecessors can't say any more."""
        for worker in self._children.workers.values():
            if worker.name == report.worker and worker.pid == report.pid:
                for at, evidence in self._untold.get(worker.spec.name, ()):
                    if monotonic() - at < _UNTOLD_FOR:  # or it may be about another process of that number
                        _tell(worker, evidence)

    def _tell_cron(self, pool: str, pid: int, reason: Reason, text: str) -> None:
        """A cron run that is killed can't write into its history why; the others do, or the next one."""
        evidence = say.Evidence(pid=pid, reason=reason, text=text)
        self._untold.setdefault(pool, deque(maxlen=_MOST_UNTOLD)).append((monotonic(), evidence))
        for worker in self._children.workers.values():
            if worker.spec.name == pool and worker.pid != pid:
                _tell(worker, evidence)

    def of_template(self, pool: str, generation: int) -> None:
        """Take the stacks of a template that is of no use any more, and end it; they are what is told of its end."""

        def taken(stacks: Stacks) -> None:
            self._publish(stacks, pool)
            if (template := self._children.template(pool, generation)) is not None:
                template.traceback = template.traceback or stacks.describe()
            self._children.stop_template(pool, generation)

        if (template := self._children.template(pool, generation)) is not None:
            self._dumper.dump(template, taken)

    def _publish(self, stacks: Stacks, pool: str) -> None:
        log.warning("Stacks before the kill:\n%s", stacks.describe())
        self._publisher().publish(
            "stacks", pool=pool, slot=stacks.worker, gen=stacks.generation, pid=stacks.pid, stacks=stacks.as_dict()
        )


def _tell(worker: WorkerProcess, evidence: say.Evidence) -> None:
    if worker.channel is not None:
        try:
            worker.channel.send(evidence)
        except ChannelClosed:
            pass  # it ends as well, and another one will find the work undone, and not know why
