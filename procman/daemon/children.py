"""Performs what the core wants done with the processes of workers and templates, and tells it what becomes of them.

How a process is made is known to `procman.daemon.launcher`, what it says to `procman.daemon.hearing`, that it has ended
to `procman.daemon.reaper`; which there are stands in `procman.daemon.process_table`. Nothing is decided here.
"""

from __future__ import annotations

import os
import random
import signal
from typing import TYPE_CHECKING

from procman.core import event as ev
from procman.core import lifecycle as say
from procman.core.difference import with_live_part
from procman.core.pool import describe_status
from procman.core.reason import Reason
from procman.core.spec import JobrunnerWork, Kind
from procman.daemon.hearing import Hearing
from procman.daemon.launcher import Launcher, environment
from procman.daemon.nursery import Nursery
from procman.daemon.process_table import ProcessTable
from procman.daemon.processes import Child, Command, Errand, Process, TemplateProcess, WorkerProcess
from procman.daemon.reaper import Reaper
from procman.daemon.trees import Trees
from procman.errors import ChannelClosed
from procman.unix import process

if TYPE_CHECKING:
    from collections.abc import Callable

    from procman.core.effect import Adjust, Retire, Spawn, StartTemplate
    from procman.core.event import Event
    from procman.core.spec import DaemonSpec
    from procman.daemon.confinement import Confinement
    from procman.daemon.listeners import Listeners
    from procman.daemon.loop import Loop
    from procman.daemon.output import Outputs
    from procman.observe.scoreboard import Scoreboard


class Children:
    """Performs the effects that concern processes; what happens to them is given to ``emit`` as events."""

    def __init__(
        self,
        spec: DaemonSpec,
        loop: Loop,
        board: Scoreboard,
        listeners: Listeners,
        outputs: Outputs,
        confinement: Confinement,
        emit: Callable[[Event], None],
    ) -> None:
        self._spec = spec
        self._loop = loop
        self._confinement = confinement
        self._emit = emit
        self.table = table = ProcessTable(board.size)
        self.workers, self.templates, self.errands = table.workers, table.templates, table.errands
        nursery = Nursery(loop, lambda command: self.launcher.order(command), self._not_ordered, environment())
        self._nursery = nursery
        self._trees = Trees(loop, lambda: (nursery.pid, *(child.pid for child in table)))
        self.reaper = Reaper(loop, table, self._trees, confinement, emit, self._gone)
        self._hearing = Hearing(loop, table, nursery, self.reaper, emit, self._withdraw)
        self.launcher = Launcher(spec, loop, table, board, listeners, outputs, nursery, self.reaper, self._hearing)

    def prepare(self) -> None:
        """Start ahead what will be needed soon and takes a moment to start."""
        if any(pool.kind is Kind.EXEC and pool.autostart for pool in self._spec.pools):
            try:
                self._nursery.start()
            except OSError:
                pass  # tried again for the first command, which then has the error to show

    # -- effects ------------------------------------------------------------------------------------------
    #
    # A process may have ended while an effect for it was on its way; then its end is on its way to the arbiter.

    def start_template(self, effect: StartTemplate) -> None:
        template = TemplateProcess(
            name=f"{effect.spec.name}@{effect.generation}", spec=effect.spec, channel=None, generation=effect.generation
        )
        self.table.add(template)
        try:
            self.launcher.start_template(template)
        except (OSError, ChannelClosed) as error:
            template.traceback = f"{type(error).__name__}: {error}"
            template.end_channel(self._loop)
            if template.pid is None:
                self._template_ended(template, None)

    def template(self, pool: str, generation: int) -> TemplateProcess | None:
        """The template of that generation, while it has not ended."""
        return self.templates.get((pool, generation))

    def stop_template(self, pool: str, generation: int) -> None:
        template = self.templates.get((pool, generation))
        if template is not None and template.pidfd is not None:
            # It serves nobody and has nothing to finish.
            process.send_signal(template.pidfd, signal.SIGKILL)

    def spawn(self, effect: Spawn) -> None:
        worker = WorkerProcess(
            name=f"{effect.spec.name}.{effect.slot}",
            spec=effect.spec,
            channel=None,
            id=effect.worker,
            slot=effect.slot,
            generation=effect.generation,
        )
        self.table.add(worker)
        try:
            self.launcher.start_worker(worker)
        except (OSError, ChannelClosed, IndexError) as error:
            self._spawn_failed(worker, error)

    def run(self, errand: Errand) -> None:
        """Execute the errand's command; it tells by `on_end` how that went."""
        self.table.add(errand)
        self._nursery.order(errand)

    @property
    def running_errands(self) -> bool:
        """Not every errand has come to its end."""
        return bool(self.errands)

    def give_up(self, errand: Errand) -> None:
        """Kill the errand's command, and all of its session."""
        if errand.pid is None:
            self._hearing.hear(errand)  # its first words may be there already
        if errand.pid is None:
            self._withdraw(errand)
        elif errand.pidfd is not None:
            self._trees.remember(errand)
            process.send_signal(errand.pidfd, signal.SIGKILL)
            process.kill_session(errand.pid)

    def retire(self, effect: Retire) -> None:
        worker = self.workers.get(effect.worker)
        if worker is None:
            return
        if worker.spec.kind is Kind.EXEC and worker.pid is None:
            self.kill(worker.id)  # there is nothing yet that could stop in an orderly way
            return
        self._trees.remember(worker)
        if effect.signum is not None:
            self.send_signal(worker, effect.signum)
            return
        if worker.spec.kind in (Kind.EXEC, Kind.POSTGRES):
            self.send_signal(worker, signal.Signals[f"SIG{worker.spec.stop_signal}"])
            return
        try:
            if worker.channel is None:
                raise ChannelClosed("closed")
            worker.channel.send(say.Retire(reason=effect.reason))
        except ChannelClosed:
            self.send_signal(worker, signal.SIGINT)

    def adjust(self, effect: Adjust) -> None:
        """Have everybody in the pool go by what is in force now."""
        for child in (*self.workers.values(), *self.templates.values()):
            if child.spec.name != effect.spec.name:
                continue
            before, child.spec = child.spec, with_live_part(child.spec, effect.spec)
            if isinstance(child, WorkerProcess):
                self._confinement.adjust(child)
            if before.limits != child.spec.limits:
                self._tell(child, say.Adjust(limits=child.spec.limits))
            work = child.spec.work
            if isinstance(work, JobrunnerWork) and before.work != work:
                self._tell(child, say.Rechannel(channels=work.channels))

    def _tell(self, child: Process, message: say.ToChild) -> None:
        if child.channel is not None:
            try:
                child.channel.send(message)
            except ChannelClosed:
                pass  # its end is on its way

    def interrupt(self, worker_id: int, reason: Reason) -> None:
        worker = self.workers.get(worker_id)
        if worker is None:
            return
        if reason is Reason.CPU_TIME:
            self.send_signal(worker, signal.SIGXCPU)
        else:
            self.send_signal(worker, process.INTERRUPT)
            self.send_signal(worker, process.CANCEL)

    def ping(self, worker_id: int) -> None:
        worker = self.workers.get(worker_id)
        if worker is not None and worker.channel is not None:
            try:
                worker.channel.send(say.Ping())
            except ChannelClosed:
                pass  # it has not read for so long that there is no room, or is gone

    def kill(self, worker_id: int) -> None:
        worker = self.workers.get(worker_id)
        if worker is None:
            return
        if worker.pid is None:
            self._hearing.hear(worker)  # its first words may be there already
        if worker.pid is None:
            self._withdraw(worker)
            return
        self._trees.remember(worker)
        worker.killed = True
        self.send_signal(worker, signal.SIGKILL)
        if worker.spec.kind is Kind.EXEC:
            process.kill_session(worker.pid)

    def send_signal(self, worker: Process, signum: int) -> bool:
        """Send a signal to the process; False when it is gone or not yet known."""
        return worker.pidfd is not None and process.send_signal(worker.pidfd, signum)

    # -- an upgrade ---------------------------------------------------------------------------------------

    def part(self) -> None:
        """End what the next image of the daemon starts anew."""
        self._nursery.end()

    def adopt(self, child: Child) -> None:
        """Take over a process as it stands, from the image of the daemon before this one."""
        self.table.add(child)
        self._hearing.listen(child)
        if child.pidfd is not None:
            self.reaper.watch_on(child, child.pidfd)
        elif child.pid is not None:
            self.reaper.watch(child)
        elif child.spec.kind is Kind.EXEC and not isinstance(child, TemplateProcess):
            self._nursery.adopt(child)
        if isinstance(child, Errand) or child.channel is not None or child.pid is None:
            return
        if child.spec.kind not in (Kind.EXEC, Kind.POSTGRES):
            self._hearing.expect_end(child)

    def close(self) -> None:
        """End the templates' channels; for the very end, when no worker is left."""
        self.launcher.readiness.close()
        self._nursery.close()
        for template in self.templates.values():
            template.end_channel(self._loop)

    # -- what does not come to be, and what ends ----------------------------------------------------------

    def _not_ordered(self, command: Command, error: Exception) -> None:
        if isinstance(command, WorkerProcess):
            self._spawn_failed(command, error)
        else:
            command.failure = f"it can't be run: {error}"
            self._errand_ended(command, None)

    def _withdraw(self, command: Command) -> None:
        """Not forked yet, or about to say so: without a channel it can't, and leaves."""
        command.end_channel(self._loop)
        self._command_ended(command, None)

    def _spawn_failed(self, worker: WorkerProcess, error: Exception) -> None:
        text = "no room left on the scoreboard" if isinstance(error, IndexError) else f"{type(error).__name__}: {error}"
        self._emit(ev.WorkerFailed(worker.id, text))
        worker.end_channel(self._loop)  # if there is a process, it leaves
        if worker.pid is None:
            self._worker_ended(worker, None)

    def _gone(self, child: Child, status: int | None) -> None:
        self._hearing.hear(child)  # its last words
        child.end_channel(self._loop)
        if child.pidfd is not None:
            os.close(child.pidfd)
            child.pidfd = None
        if isinstance(child, TemplateProcess):
            self._template_ended(child, status)
        else:
            self._command_ended(child, status)

    def _template_ended(self, template: TemplateProcess, status: int | None) -> None:
        template.no_more_stacks()
        self.table.remove(template)
        traceback = template.traceback or f"the template ended with {describe_status(status)}"
        self._emit(ev.TemplateGone(template.spec.name, template.generation, traceback, random.random()))

    def _command_ended(self, command: Command, status: int | None) -> None:
        if isinstance(command, WorkerProcess):
            self._worker_ended(command, status)
        else:
            self._errand_ended(command, status)

    def _errand_ended(self, errand: Errand, status: int | None) -> None:
        self._nursery.carried_out(errand)
        errand.close_output()
        if self.table.remove(errand):
            errand.on_end(status)
            self.reaper.sweep()

    def _worker_ended(self, worker: WorkerProcess, status: int | None) -> None:
        if not self.table.remove(worker):
            return
        self._nursery.carried_out(worker)
        worker.no_more_stacks()
        worker.no_more_caches()
        worker.no_more_answers()
        oom = self._confinement.ended(worker, status)
        self._emit(ev.WorkerExited(worker.id, status, random.random(), oom=oom))
        self.reaper.sweep()
