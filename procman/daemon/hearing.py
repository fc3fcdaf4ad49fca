"""Hears what children say over their channels, and makes events of it, or answers for those who have asked.

Nothing that a child says of itself is believed where the kernel knows better: it has run the application's code,
perhaps as another user.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from procman.core import event as ev
from procman.core import lifecycle as say
from procman.core.spec import ExecWork, Kind
from procman.daemon.processes import Command, Errand, TemplateProcess, WorkerProcess
from procman.errors import ChannelClosed
from procman.observe.caches import worker_caches

if TYPE_CHECKING:
    from collections.abc import Callable

    from procman.core.event import Event
    from procman.daemon.loop import Loop
    from procman.daemon.nursery import Nursery
    from procman.daemon.process_table import ProcessTable
    from procman.daemon.processes import Child
    from procman.daemon.reaper import Reaper

log = logging.getLogger("procman.arbiter")

# Seconds from the end of a channel to the end of its process: in a process that ends, the kernel closes all
# descriptors a moment before it tells anybody of the end.
LOST_PATIENCE = 1.0


class Hearing:
    """``withdraw`` is told of a command that nobody will fork any more."""

    def __init__(
        self,
        loop: Loop,
        table: ProcessTable,
        nursery: Nursery,
        reaper: Reaper,
        emit: Callable[[Event], None],
        withdraw: Callable[[Command], None],
    ) -> None:
        self._loop = loop
        self._table = table
        self._nursery = nursery
        self._reaper = reaper
        self._emit = emit
        self._withdraw = withdraw

    def listen(self, child: Child) -> None:
        """Hear what it will say."""
        if child.channel is not None:
            self._loop.add_reader(child.channel.fileno(), lambda: self.hear(child))

    def hear(self, child: Child) -> None:
        """All that it has said until now."""
        while child.channel is not None:
            try:
                received = child.channel.receive()
            except ChannelClosed:
                self._on_end_of_channel(child)
                return
            except ValueError as error:
                log.warning("Nonsense from %s (%s): %s", child.name, child.pid, error)
                continue
            if received is None:
                return
            message, fds = received
            for fd in fds:
                os.close(fd)
            if isinstance(child, TemplateProcess):
                self._template_says(child, message)
            else:
                self._command_says(child, message)

    def on_command_ready(self, leader: int) -> None:
        """The command of this pid has said by sd_notify(3) that it is ready."""
        for worker in list(self._table.workers.values()):
            if worker.pid is None and worker.spec.kind is Kind.EXEC:
                self.hear(worker)  # it may have said who it is in this same turn
        for worker in self._table.workers.values():
            if worker.pid == leader and isinstance(worker.spec.work, ExecWork) and worker.spec.work.notify:
                self._emit(ev.WorkerReady(worker.id))

    def expect_end(self, child: TemplateProcess | WorkerProcess) -> None:
        """Its channel has ended, so its process should; if it has not soon, the application has closed the channel."""
        self._loop.call_later(LOST_PATIENCE, lambda: self._lost(child))

    def _on_end_of_channel(self, child: Child) -> None:
        child.end_channel(self._loop)
        if child.pid is None and isinstance(child, Command):
            if not self._nursery.once_more(child):
                self._withdraw(child)  # nobody will ever say who it was
        elif isinstance(child, Errand):
            return
        elif child.spec.kind is Kind.EXEC and isinstance(child, WorkerProcess):
            self._emit(ev.CommandRuns(child.id))
        elif child.spec.kind is not Kind.POSTGRES and not self._reaper.has_ended(child):
            self.expect_end(child)

    def _lost(self, child: TemplateProcess | WorkerProcess) -> None:
        if isinstance(child, WorkerProcess):
            if self._table.workers.get(child.id) is child:
                log.warning("Worker %s (%s) has closed its channel and lives on", child.name, child.pid)
                self._emit(ev.WorkerLost(child.id))
        elif self._table.templates.get((child.spec.name, child.generation)) is child and child.pidfd is not None:
            self._emit(ev.TemplateLost(child.spec.name, child.generation))

    def _template_says(self, template: TemplateProcess, message: say.FromChild) -> None:
        match message:
            case say.Ready():
                self._emit(ev.TemplateReady(template.spec.name, template.generation))
            case say.Failed(traceback=traceback):
                template.traceback = traceback
            case say.Dumped(text=text):
                _hand_over_stacks(template, text)

    def _command_says(self, child: Command, message: say.FromChild) -> None:
        match message:
            case say.Forked() if child.pid is None and child.channel is not None:
                self._came_to_be(child, child.channel.sender)
            case say.Failed(traceback=traceback) if isinstance(child, Errand):
                self._nursery.carried_out(child)
                child.failure = traceback
            case _ if isinstance(child, WorkerProcess):
                self._worker_says(child, message)

    def _came_to_be(self, child: Command, pid: int | None) -> None:
        self._nursery.carried_out(child)
        self._reaper.born(child, pid)
        if isinstance(child, Errand):
            child.close_output()
        self._reaper.sweep()

    def _worker_says(self, worker: WorkerProcess, message: say.FromChild) -> None:
        match message:
            case say.Ready():
                self._emit(ev.WorkerReady(worker.id))
            case say.Recycle(reason=reason):
                self._emit(ev.RecycleAsked(worker.id, reason))
            case say.Retiring(reason=reason):
                self._emit(ev.WorkerRetiring(worker.id, reason))
            case say.Failed(traceback=traceback):
                self._nursery.carried_out(worker)
                self._emit(ev.WorkerFailed(worker.id, traceback))
            case say.Bounded(seconds=seconds):
                self._emit(ev.UnitBounded(worker.id, seconds))
            case say.Deactivated(entry=entry, database=database, text=text):
                self._emit(ev.EntryDeactivated(worker.id, entry, database, text))
            case _:
                _answer(worker, message)


def _answer(worker: WorkerProcess, message: say.FromChild) -> None:
    """What it says to somebody who has asked, and not to the arbiter."""
    match message:
        case say.Dumped(text=text):
            _hand_over_stacks(worker, text)
        case say.Caches(figures=figures):
            _hand_over_caches(worker, figures)
        case say.Answer(number=number, text=text):
            if (answered := worker.on_answer.pop(number, None)) is not None:
                answered(text)
        case say.Published(text=text):
            worker.published = text


def _hand_over_stacks(child: TemplateProcess | WorkerProcess, text: str) -> None:
    """Give the stacks to whoever has asked for them; or to the log, when it was somebody who sent a signal."""
    waiting, child.on_dump = child.on_dump, []
    for callback in waiting:
        callback(text)
    if not waiting:
        child.forget_stacks()
        log.info("Stacks of worker %s (%s), as asked by a signal:\n%s", child.name, child.pid, text)


def _hand_over_caches(worker: WorkerProcess, figures: tuple[say.CacheFigures, ...]) -> None:
    """Give the figures to whoever has asked for them; or to the log, when it was somebody who sent a signal."""
    waiting, worker.on_caches = worker.on_caches, []
    for callback in waiting:
        callback(figures)
    if not waiting:
        caches = [one.as_dict() for one in figures]
        text = worker_caches({"worker": worker.name, "pid": worker.pid, "caches": caches})
        log.info("Cache statistics, as asked by a signal:\n%s", text)
