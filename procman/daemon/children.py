"""The processes behind the arbiter's workers and templates: started, listened to, watched, signalled, reaped."""

from __future__ import annotations

import logging
import os
import random
import signal
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from procman.core import event as ev
from procman.core import lifecycle as say
from procman.core.command import LOG, MARK
from procman.core.difference import with_live_part
from procman.core.pool import describe_status
from procman.core.reason import Reason
from procman.core.spec import ExecWork, JobrunnerWork, Kind
from procman.daemon.nursery import Nursery
from procman.daemon.processes import Child, Command, Errand, Process, TemplateProcess, WorkerProcess
from procman.daemon.readiness import ReadinessSocket
from procman.daemon.trees import Trees
from procman.errors import ChannelClosed
from procman.observe.caches import worker_caches
from procman.unix import process
from procman.unix.channel import Channel, pair

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from procman.core.effect import Adjust, Retire, Spawn, StartTemplate
    from procman.core.event import Event
    from procman.core.spec import DaemonSpec, PoolSpec
    from procman.daemon.confinement import Confinement
    from procman.daemon.listeners import Listeners
    from procman.daemon.loop import Loop
    from procman.daemon.output import Outputs
    from procman.observe.scoreboard import Scoreboard

log = logging.getLogger("procman.arbiter")

MODULES = {
    Kind.JOBRUNNER: "procman.workers.jobrunner",
    Kind.LONGPOLLING: "procman.workers.longpolling",
    Kind.POSTGRES: "procman.workers.postgres",
}

# Seconds from the end of a channel to the end of its process: in a process that ends, the kernel closes all
# descriptors a moment before it tells anybody of the end.
LOST_PATIENCE = 1.0
# What the service manager has told the daemon alone, sd_listen_fds(3).
NOT_FOR_CHILDREN = ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", MARK)


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
        self.spec = spec
        self._outputs = outputs
        self._confinement = confinement
        self.errands: set[Errand] = set()
        self.workers: dict[int, WorkerProcess] = {}
        self.templates: dict[tuple[str, int], TemplateProcess] = {}
        self._loop = loop
        self._board = board
        self._listeners = listeners
        self._emit = emit
        self._free_records = list(range(board.size - 1, -1, -1))
        self._ended: list[Process] = []
        self.others: dict[int, Callable[[], None]] = {}  # children of no pool, by pid: reaped by calling this
        self._unswept = False  # an orphan may wait to be reaped
        self.open_files = process.use_all_descriptors()
        self.readiness = ReadinessSocket(loop, self._on_command_ready)
        self._trees = Trees(loop, lambda: (self._nursery.pid, *(child.pid for child in self._all())))
        self._nursery = Nursery(loop, self._order, self._not_ordered, _environment())

    def prepare(self) -> None:
        """Start ahead what will be needed soon and takes a moment to start."""
        if any(pool.kind is Kind.EXEC and pool.autostart for pool in self.spec.pools):
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
        self.templates[effect.spec.name, effect.generation] = template
        try:
            with self._channel_for(template) as theirs:
                template.dump_fd = dump_fd = os.memfd_create(f"stacks of {template.name}", os.MFD_CLOEXEC)
                self._execute(template, "procman.workers.template", theirs.fileno())
                self._boot(template, [self._board.fd, dump_fd, *self._listeners.fds(effect.spec)])
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
        spec = effect.spec
        worker = WorkerProcess(
            name=f"{spec.name}.{effect.slot}",
            spec=spec,
            channel=None,
            id=effect.worker,
            slot=effect.slot,
            generation=effect.generation,
        )
        self.workers[effect.worker] = worker
        try:
            worker.record = self._free_records.pop()
            self._board.clear(worker.record)
            if spec.kind is Kind.EXEC:
                self._nursery.order(worker)
                return
            worker.dump_fd = dump_fd = os.memfd_create(f"stacks of {worker.name}", os.MFD_CLOEXEC)
            with self._channel_for(worker) as theirs:
                if spec.templated:
                    self._fork(worker, theirs.fileno(), dump_fd)
                else:
                    self._execute(worker, MODULES[spec.kind], theirs.fileno())
                    self._boot(worker, [self._board.fd, dump_fd, *self._listeners.fds(spec)])
        except (OSError, ChannelClosed, IndexError) as error:
            self._spawn_failed(worker, error)

    def run(self, errand: Errand) -> None:
        """Execute the errand's command; it tells by `on_end` how that went."""
        self.errands.add(errand)
        self._nursery.order(errand)

    @property
    def running_errands(self) -> bool:
        """Not every errand has come to its end."""
        return bool(self.errands)

    def give_up(self, errand: Errand) -> None:
        """Kill the errand's command, and all of its session."""
        if errand.pid is None:
            self._on_channel(errand)  # its first words may be there already
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
            if before.limits != child.spec.limits and child.channel is not None:
                try:
                    child.channel.send(say.Adjust(limits=child.spec.limits))
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
            self._on_channel(worker)  # its first words may be there already
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

    def reap(self) -> None:
        """After SIGCHLD: collect those that were not ours yet when they ended, and orphans nobody asks about."""
        for ended in list(self._ended):
            self._try_reap(ended)
        known = {child.pid: child for child in self._all()}
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

    def _all(self) -> Iterator[Child]:
        yield from self.workers.values()
        yield from self.templates.values()
        yield from self.errands

    # -- an upgrade ---------------------------------------------------------------------------------------

    @property
    def unborn(self) -> bool:
        """Somebody was asked to fork a process, and has not done so yet."""
        return any(child.pid is None for child in self._all())

    def part(self) -> None:
        """End what the next image of the daemon starts anew."""
        self._nursery.end()

    def adopt(self, child: Child) -> None:
        """Take over a process as it stands, from the image of the daemon before this one."""
        match child:
            case WorkerProcess():
                self.workers[child.id] = child
                if child.record is not None:
                    self._free_records.remove(child.record)
            case TemplateProcess():
                self.templates[child.spec.name, child.generation] = child
            case Errand():
                self.errands.add(child)
        self._listen(child)
        if child.pidfd is not None:
            self._loop.add_reader(child.pidfd, lambda: self._on_end(child))
        elif child.pid is not None:
            self._watch(child)
        elif child.spec.kind is Kind.EXEC and not isinstance(child, TemplateProcess):
            self._nursery.adopt(child)
        if isinstance(child, Errand) or child.channel is not None or child.pid is None:
            return
        if child.spec.kind not in (Kind.EXEC, Kind.POSTGRES):
            self._loop.call_later(LOST_PATIENCE, lambda: self._lost(child))

    def adopt_readiness(self, fd: int) -> None:
        """Hear from the commands that the image before this one has started."""
        self.readiness.close()
        self.readiness = ReadinessSocket(self._loop, self._on_command_ready, fd)

    def close(self) -> None:
        """End the templates' channels; for the very end, when no worker is left."""
        self.readiness.close()
        self._nursery.close()
        for template in self.templates.values():
            template.end_channel(self._loop)

    # -- starting -----------------------------------------------------------------------------------------

    @contextmanager
    def _channel_for(self, child: Process) -> Iterator[socket.socket]:
        """Give the process its channel; the other end, for as long as it is to be handed over. Raises OSError."""
        ours, theirs = pair()
        with theirs:
            child.channel = Channel(ours, say.FromChild)
            child.channel.know_senders()
            yield theirs

    @contextmanager
    def _output(self, worker: WorkerProcess) -> Iterator[list[int]]:
        """The pipe that the worker writes its output to, if that is to be logged. Raises OSError."""
        if LOG not in (worker.spec.stdout, worker.spec.stderr):
            yield []
            return
        stream = self._outputs.open(worker.spec.name, worker.name)
        try:
            yield [stream.writer]
        finally:
            stream.given()

    def _execute(self, child: Process, module: str, channel_fd: int) -> None:
        child.pid = process.spawn(module, channel_fd, env={**_environment(), **dict(child.spec.env)})
        self._watch(child)
        if isinstance(child, WorkerProcess):
            self._emit(ev.WorkerSpawned(child.id, child.pid))

    def _boot(self, child: TemplateProcess | WorkerProcess, fds: list[int]) -> None:
        if child.channel is None:
            raise ChannelClosed("closed")
        self._listen(child)
        child.channel.send(self._first_words(child), *fds)

    def _first_words(self, child: Child) -> say.Boot:
        return say.Boot(
            pool=self._with_known_ports(child.spec),
            generation=child.generation,
            seat=None if isinstance(child, TemplateProcess) else child.seat,
            database=self.spec.database,
            log_format=self.spec.log_format,
            state_dir=self.spec.state_dir,
            arbiter=os.getpid(),
            kept=self._listeners.kept,
            open_files=self.open_files,
            notify=self.readiness.address if isinstance(child.spec.work, ExecWork) and child.spec.work.notify else "",
        )

    def _with_known_ports(self, spec: PoolSpec) -> PoolSpec:
        if not isinstance(spec.work, JobrunnerWork):
            return spec
        target = spec.work.target or ""
        addresses = tuple(self._listeners.resolve(target, address) for address in spec.work.addresses)
        return replace(spec, work=replace(spec.work, addresses=addresses))

    def _fork(self, worker: WorkerProcess, channel_fd: int, dump_fd: int) -> None:
        template = self.templates.get((worker.spec.name, worker.generation))
        if template is None or template.channel is None:
            raise ChannelClosed("the template is gone")
        self._listen(worker)
        template.channel.send(say.Fork(seat=worker.seat), channel_fd, dump_fd)

    def _order(self, command: Command) -> None:
        """Hand an order to the nursery, which says that it is its turn; raises OSError or ChannelClosed."""
        command.end_channel(self._loop)  # that of an order that was lost
        with self._channel_for(command) as theirs:
            if isinstance(command, WorkerProcess):
                with self._output(command) as output:
                    fds = [theirs.fileno(), *self._listeners.fds(command.spec), *output]
                    self._nursery.send(self._first_words(command), *fds)
            else:
                self._nursery.send(self._first_words(command), theirs.fileno(), command.output)
        self._listen(command)

    def _not_ordered(self, command: Command, error: Exception) -> None:
        if isinstance(command, WorkerProcess):
            self._spawn_failed(command, error)
        else:
            command.failure = f"it can't be run: {error}"
            self._errand_ended(command, None)

    def _withdraw(self, command: Command) -> None:
        """Not forked yet, or about to say so: without a channel it can't, and leaves."""
        command.end_channel(self._loop)
        if isinstance(command, WorkerProcess):
            self._worker_ended(command, None)
        else:
            self._errand_ended(command, None)

    def _spawn_failed(self, worker: WorkerProcess, error: Exception) -> None:
        text = "no room left on the scoreboard" if isinstance(error, IndexError) else f"{type(error).__name__}: {error}"
        self._emit(ev.WorkerFailed(worker.id, text))
        worker.end_channel(self._loop)  # if there is a process, it leaves
        if worker.pid is None:
            self._worker_ended(worker, None)

    # -- listening ----------------------------------------------------------------------------------------

    def _listen(self, child: Child) -> None:
        if child.channel is not None:
            self._loop.add_reader(child.channel.fileno(), lambda: self._on_channel(child))

    def _on_channel(self, child: Child) -> None:
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

    def _on_end_of_channel(self, child: Child) -> None:
        child.end_channel(self._loop)
        if child.pid is None and isinstance(child, Command):
            if not self._nursery.once_more(child):
                self._withdraw(child)  # nobody will ever say who it was
        elif isinstance(child, Errand):
            return
        elif child.spec.kind is Kind.EXEC and isinstance(child, WorkerProcess):
            self._emit(ev.CommandRuns(child.id))
        elif child.spec.kind is not Kind.POSTGRES and child not in self._ended:
            self._loop.call_later(LOST_PATIENCE, lambda: self._lost(child))

    def _lost(self, child: TemplateProcess | WorkerProcess) -> None:
        """Its process should have ended with the channel. If it has not, the application has closed the channel."""
        if isinstance(child, WorkerProcess):
            if self.workers.get(child.id) is child:
                log.warning("Worker %s (%s) has closed its channel and lives on", child.name, child.pid)
                self._emit(ev.WorkerLost(child.id))
        elif self.templates.get((child.spec.name, child.generation)) is child and child.pidfd is not None:
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
                # Not what it says of itself: it has run the application's code, perhaps as another user.
                self._came_to_be(child, child.channel.sender)
            case say.Failed(traceback=traceback) if isinstance(child, Errand):
                self._nursery.carried_out(child)
                child.failure = traceback
            case _ if isinstance(child, WorkerProcess):
                self._worker_says(child, message)

    def _came_to_be(self, child: Command, pid: int | None) -> None:
        self._nursery.carried_out(child)
        child.pid = pid
        self._watch(child)
        if isinstance(child, WorkerProcess):
            self._emit(ev.WorkerSpawned(child.id, pid or 0))
        else:
            child.close_output()
        if self._unswept:
            self.reap()

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
            case say.Dumped(text=text):
                _hand_over_stacks(worker, text)
            case say.Caches(figures=figures):
                _hand_over_caches(worker, figures)

    def _on_command_ready(self, leader: int) -> None:
        for worker in list(self.workers.values()):
            if worker.pid is None and worker.spec.kind is Kind.EXEC:
                self._on_channel(worker)  # it may have said who it is in this same turn
        for worker in self.workers.values():
            if worker.pid == leader and isinstance(worker.spec.work, ExecWork) and worker.spec.work.notify:
                self._emit(ev.WorkerReady(worker.id))

    # -- watching -----------------------------------------------------------------------------------------

    def _watch(self, child: Process) -> None:
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
            self._loop.add_reader(child.pidfd, lambda: self._on_end(child))
            if isinstance(child, WorkerProcess):
                self._confinement.admit(child)

    def _on_end(self, child: Process) -> None:
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

    def _cleared(self, child: Process) -> None:
        """Nothing is left below it."""
        child.clearing = False
        self._unswept = True  # those who were killed wait to be reaped
        self._try_reap(child)

    def _try_reap(self, child: Process) -> None:
        if child.clearing:
            return
        status = process.exit_status(child.pidfd, child.pid)
        if status is not None:
            self._ended.remove(child)
            self._gone(child, status)

    def _gone(self, child: Process, status: int | None) -> None:
        if isinstance(child, (TemplateProcess, WorkerProcess, Errand)) and child.channel is not None:
            self._on_channel(child)  # its last words
        child.end_channel(self._loop)
        if child.pidfd is not None:
            os.close(child.pidfd)
            child.pidfd = None
        if isinstance(child, TemplateProcess):
            self._template_ended(child, status)
        elif isinstance(child, WorkerProcess):
            self._worker_ended(child, status)
        elif isinstance(child, Errand):
            self._errand_ended(child, status)

    def _template_ended(self, template: TemplateProcess, status: int | None) -> None:
        template.no_more_stacks()
        del self.templates[template.spec.name, template.generation]
        traceback = template.traceback or f"the template ended with {describe_status(status)}"
        self._emit(ev.TemplateGone(template.spec.name, template.generation, traceback, random.random()))

    def _errand_ended(self, errand: Errand, status: int | None) -> None:
        self._nursery.carried_out(errand)
        errand.close_output()
        if errand in self.errands:
            self.errands.remove(errand)
            errand.on_end(status)
            if self._unswept:
                self.reap()

    def _worker_ended(self, worker: WorkerProcess, status: int | None) -> None:
        if self.workers.pop(worker.id, None) is None:
            return
        self._nursery.carried_out(worker)
        worker.no_more_stacks()
        _hand_over_caches(worker, None)
        if worker.record is not None:
            self._free_records.append(worker.record)
        oom = self._confinement.ended(worker, status)
        self._emit(ev.WorkerExited(worker.id, status, random.random(), oom=oom))
        if self._unswept:
            self.reap()


def _hand_over_stacks(child: Process, text: str) -> None:
    """Give the stacks to whoever has asked for them; or to the log, when it was somebody who sent a signal."""
    waiting, child.on_dump = child.on_dump, []
    for callback in waiting:
        callback(text)
    if not waiting:
        child.forget_stacks()
        log.info("Stacks of worker %s (%s), as asked by a signal:\n%s", child.name, child.pid, text)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in NOT_FOR_CHILDREN}


def _hand_over_caches(worker: WorkerProcess, figures: tuple[say.CacheFigures, ...] | None) -> None:
    """Give the figures to whoever has asked for them; or to the log, when it was somebody who sent a signal."""
    waiting, worker.on_caches = worker.on_caches, []
    for callback in waiting:
        callback(figures)
    if not waiting and figures is not None:
        caches = [one.as_dict() for one in figures]
        text = worker_caches({"worker": worker.name, "pid": worker.pid, "caches": caches})
        log.info("Cache statistics, as asked by a signal:\n%s", text)
