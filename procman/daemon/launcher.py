"""Makes processes, by whoever can make them fastest, and gives each its first words.

Templates and workers that need none are executed (posix_spawn(3)), workers of a template are forked by it, commands by
the nursery. Whether and when is the core's to decide; what becomes of a process that was made is not seen here.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from procman.core import lifecycle as say
from procman.core.command import LOG, MARK
from procman.core.spec import ExecWork, JobrunnerWork, Kind
from procman.daemon.processes import TemplateProcess, WorkerProcess
from procman.daemon.readiness import ReadinessSocket
from procman.errors import ChannelClosed
from procman.unix import process
from procman.unix.channel import Channel, pair

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from procman.core.spec import DaemonSpec, PoolSpec
    from procman.daemon.hearing import Hearing
    from procman.daemon.listeners import Listeners
    from procman.daemon.loop import Loop
    from procman.daemon.nursery import Nursery
    from procman.daemon.output import Outputs
    from procman.daemon.process_table import ProcessTable
    from procman.daemon.processes import Child, Command
    from procman.daemon.reaper import Reaper
    from procman.observe.scoreboard import Scoreboard

MODULES = {
    Kind.JOBRUNNER: "procman.workers.jobrunner",
    Kind.LONGPOLLING: "procman.workers.longpolling",
    Kind.POSTGRES: "procman.workers.postgres",
}

# What the service manager has told the daemon alone, sd_listen_fds(3).
NOT_FOR_CHILDREN = ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", MARK)


class Launcher:
    """Whatever it raises is an OSError or ChannelClosed, and the process may exist all the same, when it has a pid."""

    def __init__(
        self,
        spec: DaemonSpec,
        loop: Loop,
        table: ProcessTable,
        board: Scoreboard,
        listeners: Listeners,
        outputs: Outputs,
        nursery: Nursery,
        reaper: Reaper,
        hearing: Hearing,
    ) -> None:
        self._spec = spec
        self._loop = loop
        self._table = table
        self._board = board
        self._listeners = listeners
        self._outputs = outputs
        self._nursery = nursery
        self._reaper = reaper
        self._hearing = hearing
        self.open_files = process.use_all_descriptors()
        self.readiness = ReadinessSocket(loop, hearing.on_command_ready)

    def adopt_readiness(self, fd: int) -> None:
        """Hear from the commands that the image before this one has started."""
        self.readiness.close()
        self.readiness = ReadinessSocket(self._loop, self._hearing.on_command_ready, fd)

    def start_template(self, template: TemplateProcess) -> None:
        """Execute the template, which will import the application."""
        with self._channel_for(template) as theirs:
            self._open_stacks(template)
            self._execute(template, "procman.workers.template", theirs.fileno())
            self._boot(template)

    def start_worker(self, worker: WorkerProcess) -> None:
        """Execute a worker, or have it forked. Raises IndexError, too, when there is no room left on the scoreboard."""
        worker.record = self._table.take_record()
        self._board.clear(worker.record)
        if worker.spec.kind is Kind.EXEC:
            self._nursery.order(worker)
            return
        self._open_stacks(worker)
        with self._channel_for(worker) as theirs:
            if worker.spec.templated:
                self._fork(worker, theirs.fileno())
            else:
                self._execute(worker, MODULES[worker.spec.kind], theirs.fileno())
                self._boot(worker)

    def order(self, command: Command) -> None:
        """Hand an order to the nursery, which says that it is its turn."""
        command.end_channel(self._loop)  # that of an order that was lost
        with self._channel_for(command) as theirs:
            if isinstance(command, WorkerProcess):
                with self._output(command) as output:
                    fds = [theirs.fileno(), *self._listeners.fds(command.spec), *output]
                    self._nursery.send(self._first_words(command), *fds)
            else:
                self._nursery.send(self._first_words(command), theirs.fileno(), command.output)
        self._hearing.listen(command)

    @contextmanager
    def _channel_for(self, child: Child) -> Iterator[socket.socket]:
        """Give the process its channel; the other end, for as long as it is to be handed over."""
        ours, theirs = pair()
        with theirs:
            child.channel = Channel(ours, say.FromChild)
            child.channel.know_senders()
            yield theirs

    @contextmanager
    def _output(self, worker: WorkerProcess) -> Iterator[list[int]]:
        """The pipe that the worker writes its output to, if that is to be logged."""
        if LOG not in (worker.spec.stdout, worker.spec.stderr):
            yield []
            return
        stream = self._outputs.open(worker.spec.name, worker.name)
        try:
            yield [stream.writer]
        finally:
            stream.given()

    def _open_stacks(self, child: TemplateProcess | WorkerProcess) -> None:
        child.dump_fd = os.memfd_create(f"stacks of {child.name}", os.MFD_CLOEXEC)

    def _execute(self, child: TemplateProcess | WorkerProcess, module: str, channel_fd: int) -> None:
        pid = process.spawn(module, channel_fd, env={**environment(), **dict(child.spec.env)})
        self._reaper.born(child, pid)

    def _boot(self, child: TemplateProcess | WorkerProcess) -> None:
        if child.channel is None or child.dump_fd is None:
            raise ChannelClosed("closed")
        self._hearing.listen(child)
        fds = [self._board.fd, child.dump_fd, *self._listeners.fds(child.spec)]
        child.channel.send(self._first_words(child), *fds)

    def _fork(self, worker: WorkerProcess, channel_fd: int) -> None:
        template = self._table.templates.get((worker.spec.name, worker.generation))
        if template is None or template.channel is None or worker.dump_fd is None:
            raise ChannelClosed("the template is gone")
        self._hearing.listen(worker)
        template.channel.send(say.Fork(seat=worker.seat), channel_fd, worker.dump_fd)

    def _first_words(self, child: Child) -> say.Boot:
        return say.Boot(
            pool=self._with_known_ports(child.spec),
            generation=child.generation,
            seat=None if isinstance(child, TemplateProcess) else child.seat,
            database=self._spec.database,
            log_format=self._spec.log_format,
            state_dir=self._spec.state_dir,
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


def environment() -> dict[str, str]:
    """What children get of the daemon's environment."""
    return {name: value for name, value in os.environ.items() if name not in NOT_FOR_CHILDREN}
