"""Watches children by pidfd, sees them end, and reaps them when nothing is left below them.

Whoever is not yet known is not reaped: an orphan that ends may be a worker that will yet say so. What an end means for
a worker, a template or an errand is not decided here.
"""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING

from procman.core import event as ev
from procman.core.spec import Kind
from procman.daemon.processes import TemplateProcess, WorkerProcess
from procman.unix import process

if TYPE_CHECKING:
    from collections.abc import Callable

    from procman.core.event import Event
    from procman.daemon.confinement import Confinement
    from procman.daemon.loop import Loop
    from procman.daemon.process_table import ProcessTable
    from procman.daemon.processes import Child
    from procman.daemon.trees import Trees

log = logging.getLogger("procman.arbiter")


class Reaper:
    """``gone`` is told of each child that was reaped, with its exit status, or None when that is not known."""

    def __init__(
        self,
        loop: Loop,
        table: ProcessTable,
        trees: Trees,
        confinement: Confinement,
        emit: Callable[[Event], None],
        gone: Callable[[Child, int | None], None],
    ) -> None:
        self._loop = loop
        self._table = table
        self._trees = trees
        self._confinement = confinement
        self._emit = emit
        self._gone = gone
        self._ended: list[Child] = []
        self._unswept = False  # an orphan may wait to be reaped
        self.others: dict[int, Callable[[], None]] = {}  # children of no pool, by pid: reaped by calling this

    def born(self, child: Child, pid: int | None) -> None:
        """The child has a process, which is watched from now on; the arbiter is told when it is a worker's."""
        child.pid = pid
        self.watch(child)
        if isinstance(child, WorkerProcess):
            self._emit(ev.WorkerSpawned(child.id, pid or 0))

    def watch(self, child: Child) -> None:
        """See it end, when it has a pid; otherwise nothing happens."""
        if child.pid is None:
            return
        try:
            child.pidfd = os.pidfd_open(child.pid)
        except ProcessLookupError:
            self._gone(child, None)
        except OSError as error:
            # No descriptor is left. It can't be supervised, so it must go; SIGCHLD will tell that it has.
            log.error("%s (%d) can't be watched, and is killed: %s", child.name, child.pid, error)
            os.kill(child.pid, signal.SIGKILL)
        else:
            self.watch_on(child, child.pidfd)
            if isinstance(child, WorkerProcess):
                self._confinement.admit(child)

    def watch_on(self, child: Child, pidfd: int) -> None:
        """See it end by a descriptor that there is already."""
        self._loop.add_reader(pidfd, lambda: self._on_end(child))

    def has_ended(self, child: Child) -> bool:
        """Its end was seen, and what it has left behind is being cleared."""
        return child in self._ended

    def reap(self) -> None:
        """After SIGCHLD: collect those that were not ours yet when they ended, and orphans nobody asks about."""
        for ended in list(self._ended):
            self._try_reap(ended)
        known = {child.pid: child for child in self._table}
        self._unswept = False
        while (pid := process.next_ended_child()) is not None:
            if (child := known.get(pid)) is not None:
                self._on_end(child)
                if child in self._ended:
                    return  # what it has left behind is still being cleared; then it is reaped, and we are called again
            elif pid in self.others:
                self.others[pid]()
            elif None in known:
                # It may be a worker that will yet say so; who comes to be known, or to nothing, calls us again.
                self._unswept = True
                return
            else:
                process.reap(pid)

    def sweep(self) -> None:
        """Somebody has come to be known, or to nothing: reap the orphans that waited for that."""
        if self._unswept:
            self.reap()

    def _on_end(self, child: Child) -> None:
        if child.spec.kind is Kind.EXEC and child.pid is not None:
            # Before it is reaped: until then nobody else can get its number, which is that of its group too.
            process.kill_session(child.pid)
        if child not in self._ended:
            if child.pidfd is not None:
                self._loop.remove_reader(child.pidfd)
            self._ended.append(child)
            if not isinstance(child, TemplateProcess):
                child.clearing = True
                self._trees.end(child, lambda: self._cleared(child))
        self._try_reap(child)

    def _cleared(self, child: Child) -> None:
        """Nothing is left below it."""
        child.clearing = False
        self._unswept = True  # those who were killed wait to be reaped
        self._try_reap(child)

    def _try_reap(self, child: Child) -> None:
        if child.clearing:
            return
        status = process.exit_status(child.pidfd, child.pid)
        if status is not None:
            self._ended.remove(child)
            self._gone(child, status)
