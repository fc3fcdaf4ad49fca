"""The daemon: one thread, one loop. Wait, turn what happened into events, let the arbiter decide, do what it says.

It imports no application and opens no database connection, so that nothing of either can take it down.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections import deque
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

import zmq

from procman import config
from procman.config.rules import is_dashboard
from procman.core import effect as do
from procman.core import event as ev
from procman.core.arbiter import Arbiter
from procman.core.spec import Kind
from procman.daemon.caches import CacheAsker, log_caches
from procman.daemon.children import Children
from procman.daemon.circus_top import CircusTop
from procman.daemon.commands import Commands
from procman.daemon.confinement import Confinement
from procman.daemon.errands import Errands
from procman.daemon.evidence import Evidence
from procman.daemon.figures import Figures
from procman.daemon.gauge import Gauge
from procman.daemon.herald import Herald
from procman.daemon.listeners import Listeners
from procman.daemon.looking import with_cpu_of_unit
from procman.daemon.loop import Loop
from procman.daemon.output import Outputs
from procman.daemon.place import Place
from procman.daemon.reception import Reception
from procman.daemon.stacks import StackDumper
from procman.errors import AddressError, ConfigurationError
from procman.observe import logs
from procman.unix.backlog import waiting
from procman.unix.process import become_subreaper, has_terminal, keep_descriptors

if TYPE_CHECKING:
    from types import FrameType

    from procman.control.publisher import Publisher
    from procman.control.server import Call
    from procman.core.effect import Effect
    from procman.core.event import Event
    from procman.core.spec import DaemonSpec

log = logging.getLogger("procman.arbiter")

SPARE_RECORDS = 64  # for workers beyond the configured number: surges, those still draining, scaling
MOST_RECORDS_PER_WORKER = 3
ORPHANS_PATIENCE = 10.0  # seconds to wait for addresses that workers of a killed daemon still hold
FIXED = (
    "control",
    "control_read_only",
    "events",
    "read_only_group",
    "dashboard_user",
    "state_dir",
    "log_format",
    "database",
)  # what only a restart can change
ERRANDS_PATIENCE = 1.0  # seconds for killed probes to be gone, in the end
SHUTDOWN_LINGER = 1.0  # seconds for the last answers on the control socket to leave

LEVELS = {
    do.Level.DEBUG: logging.DEBUG,
    do.Level.INFO: logging.INFO,
    do.Level.WARNING: logging.WARNING,
    do.Level.ERROR: logging.ERROR,
    do.Level.CRITICAL: logging.CRITICAL,
}

SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGCHLD,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGALRM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
    signal.SIGWINCH,
)


class Daemon:
    """Everything the loop works with. `run` is its life."""

    def __init__(self, spec: DaemonSpec, place: Place) -> None:
        self._confinement = Confinement()
        self.spec = spec = self._confinement.settle(spec)
        self.arbiter = Arbiter(spec.pools)
        self._place = place
        self._events: deque[Event] = deque()
        self._signals: deque[int] = deque()
        self._leave: int | None = None
        self._loop = Loop()
        logs.keep_backlog(self._loop.when_writable)
        self._herald = Herald(self._loop)
        records = SPARE_RECORDS + MOST_RECORDS_PER_WORKER * sum(pool.most_workers for pool in spec.pools)
        self._board = place.make_scoreboard(records)
        self._listeners = Listeners()
        self._outputs = Outputs(self._loop)
        self.children = Children(
            spec, self._loop, self._board, self._listeners, self._outputs, self._confinement, self.emit
        )
        self._errands = Errands(self._loop, self.children, self._outputs, self.emit)
        self._gauge = Gauge(self.children, self._board)
        self.figures = Figures(self.children, self._board, monotonic(), self._backlog)
        self.caches = CacheAsker(self._loop, self.children)
        self.dumper = StackDumper(self._loop, self.children, self._board)
        self._evidence = Evidence(self.dumper, self.children, lambda: self.publisher, self.emit)
        self.commands = Commands(self)
        self._circus_top = CircusTop(self, self._loop)
        self._zmq: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)

    # -- life ---------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Supervise until told to stop; the exit status. Raises AddressError before anything was started."""
        become_subreaper()
        keep_descriptors()
        self.children.prepare()
        try:
            self._catch_signals()
            self._listeners.open(self.spec.pools, patience=ORPHANS_PATIENCE, unless=self._told_to_stop)
            self._reception = Reception(self.spec, self._loop, self._zmq)
            log.info("procmand %d starts %d pools from %s", os.getpid(), len(self.spec.pools), self.spec.source)
            self.emit(ev.Begin())
            while self._leave is None:
                self._turn()
            for call in self._reception.receive():  # what came in the last turn
                self.commands.handle(call)
            self.commands.leaving()
            log.info("procmand %d leaves with status %d", os.getpid(), self._leave)
            return self._leave
        finally:
            self._close()

    def _turn(self) -> None:
        self._work_off_events()
        if self._leave is not None:
            return
        deadline = self.arbiter.deadline()
        self._loop.turn(0.0 if self._reception.pending() or self._signals else deadline)
        for call in self._reception.receive():
            self.commands.handle(call)
        self._circus_top.attend()
        while self._signals:
            self._on_signal(self._signals.popleft())
        if deadline is not None and monotonic() >= deadline:
            self.emit(ev.Tick())
        self._herald.after_turn()

    def _close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._listeners.close_unwanted(())
        self._end_errands()
        self.children.close()
        self._outputs.close()
        if hasattr(self, "_reception"):
            self._reception.close(SHUTDOWN_LINGER)
        self._zmq.term()
        self._herald.close()
        logs.keep_backlog(None)
        self._loop.close()

    def _end_errands(self) -> None:
        """Probes of workers that are gone; nothing of them, and of what they have started, is to be left."""
        self._errands.close()
        deadline = monotonic() + ERRANDS_PATIENCE
        while self.children.running_errands and monotonic() < deadline:
            self._loop.turn(deadline)

    @property
    def publisher(self) -> Publisher:
        """Where events go."""
        return self._reception.publisher

    def emit(self, event: Event) -> None:
        """Something has happened: the arbiter hears of it when the callbacks of this turn are through."""
        self._events.append(event)

    def _work_off_events(self) -> None:
        busy = bool(self._events)
        while self._events:
            for effect in self.arbiter.handle(self._events.popleft(), monotonic()):
                self._perform(effect)
        if busy:
            self._herald.update(self._describe(), reloading=self.commands.reloading)
            if self.arbiter.stopping:
                self._herald.stopping()
                # A client is better told at once that nobody will answer than after the last pool has stopped.
                self._listeners.close_unwanted(p.spec for p in self.arbiter.pools.values() if not p.empty)

    # -- effects ------------------------------------------------------------------------------------------

    def _perform(self, effect: Effect) -> None:
        match effect:
            case do.Report():
                self._report(effect)
            case do.Concluded():
                self.commands.concluded(effect)
                self._close_unwanted_listeners()
            case do.Forget(pool):
                self._gauge.forget(pool)
                self._close_unwanted_listeners()
            case do.Serving():
                self._on_serving()
            case do.Leave(status):
                self._leave = status
            case _:
                self._perform_on_child(effect)

    def _perform_on_child(self, effect: Effect) -> None:
        match effect:
            case do.StartTemplate():
                self.children.start_template(effect)
            case do.StopTemplate(pool, generation, evidence):
                (self._evidence.of_template if evidence else self.children.stop_template)(pool, generation)
            case do.Spawn():
                self.children.spawn(effect)
            case do.Retire():
                self.children.retire(effect)
            case do.Interrupt(worker, reason):
                self.children.interrupt(worker, reason)
            case do.Kill(worker):
                self._evidence.of_command(worker)
                self.children.kill(worker)
            case do.Dump(worker, reason):
                self._evidence.of_worker(worker, reason)
            case do.Ping(worker):
                self.children.ping(worker)
            case do.Look(pool, workers):
                self._look(pool, workers)
            case _:
                self._perform_for_pool(effect)

    def _perform_for_pool(self, effect: Effect) -> None:
        match effect:
            case do.Adjust():
                self.children.adjust(effect)
            case do.Measure(pool):
                sockets = self._listeners.sockets(self.arbiter.pools[pool].spec)
                self.emit(ev.Measured(pool, self._gauge.measure(effect, sockets)))
            case do.RunHook():
                self._errands.run_hook(effect)
            case do.EndHook(number):
                self._errands.end_hook(number)
            case do.Ask(worker):
                self._errands.ask(worker)

    def _look(self, pool: str, workers: tuple[int, ...]) -> None:
        now = monotonic()
        processes = [process for worker in workers if (process := self.children.workers.get(worker)) is not None]
        samples = [
            (process.id, with_cpu_of_unit(process, self._board.read(process.record), now))
            for process in processes
            if process.record is not None
        ]
        self.emit(ev.Sampled(pool, tuple(samples)))

    def _report(self, report: do.Report) -> None:
        log.log(
            LEVELS[report.level],
            "%s",
            report.text,
            extra={"event": report.event, "pool": report.pool, "worker": report.worker, "reason": report.reason},
        )
        self.publisher.publish(
            report.event,
            pool=report.pool,
            slot=report.worker,
            gen=report.generation,
            pid=report.pid,
            reason=report.reason,
            **report.details,
        )
        if report.event == "exited":
            self.commands.exited()

    def _backlog(self, pool: str) -> int | None:
        """Connections that wait for a worker of the pool; None where nobody listens, or the kernel does not tell."""
        try:
            sockets = self._listeners.sockets(self.arbiter.pools[pool].spec)
            return sum(map(waiting, sockets)) if sockets else None
        except (KeyError, OSError):
            return None

    def _close_unwanted_listeners(self) -> None:
        """After a reload: those of what has been replaced, or, if it was rejected, of what never came to be."""
        self._listeners.close_unwanted(spec for pool in self.arbiter.pools.values() for spec in pool.specs())

    def _on_serving(self) -> None:
        for pool in self.spec.pools:
            for address in self.listens(pool.name):
                log.info("Pool %s listens on %s", pool.name, address)
        self._herald.serving()

    def _describe(self) -> str:
        pools = self.arbiter.pools.values()
        return ", ".join(f"{pool.name} {pool.ready}/{pool.target}" for pool in pools)

    # -- signals ------------------------------------------------------------------------------------------

    def _catch_signals(self) -> None:
        self._wake_reader, self._wake_writer = socket.socketpair()
        for end in (self._wake_reader, self._wake_writer):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake_writer.fileno(), warn_on_full_buffer=False)
        self._loop.add_reader(self._wake_reader.fileno(), self._drain_wakeup)
        for signum in SIGNALS:
            signal.signal(signum, self._note_signal)

    def _note_signal(self, signum: int, frame: FrameType | None) -> None:
        if signum not in self._signals:
            self._signals.append(signum)

    def _told_to_stop(self) -> bool:
        return signal.SIGINT in self._signals or signal.SIGTERM in self._signals

    def _drain_wakeup(self) -> None:
        try:
            while self._wake_reader.recv(512):
                pass
        except BlockingIOError:
            pass

    def _on_signal(self, signum: int) -> None:
        match signum:
            case signal.SIGCHLD:
                self.children.reap()
            case signal.SIGINT | signal.SIGTERM:
                self._shut_down(signum)
            case signal.SIGHUP:
                self._hang_up()
            case signal.SIGQUIT:
                self._dump_all()
            case signal.SIGUSR1:
                self.caches.ask(list(self.children.workers.values()), log_caches)
            case signal.SIGWINCH:
                self._drain_machine()
            case signal.SIGXCPU:
                log.warning("SIGXCPU: the daemon has reached a limit of its own CPU time, and goes on")
            case signal.SIGTTIN | signal.SIGTTOU:
                self._scale_http(1 if signum == signal.SIGTTIN else -1)
            case _:
                log.warning("%s means nothing to this version, and is survived", signal.Signals(signum).name)

    def _shut_down(self, signum: int) -> None:
        if self.arbiter.stopping:
            log.warning("%s again: stopping now", signal.Signals(signum).name)
            self.emit(ev.ShutdownAsked(ev.Haste.NOW))
            return
        self.emit(ev.ShutdownAsked(ev.Haste.GRACEFUL if signum == signal.SIGINT else ev.Haste.BOUNDED))

    def _hang_up(self) -> None:
        problem = self.reload_configuration(None)
        if problem:
            log.error("The configuration is wrong, nothing was changed:\n%s", problem)

    def _dump_all(self) -> None:
        for worker in list(self.children.workers.values()):
            self.dumper.dump(worker, lambda stacks: log.info("Stacks, as asked by SIGQUIT:\n%s", stacks.describe()))

    def _drain_machine(self) -> None:
        """Have the workers of all http pools finish what they do and go, until `start` brings them back."""
        if has_terminal():
            log.debug("SIGWINCH ignored: the daemon has a terminal, which sends it whenever its size changes")
            return
        names = tuple(
            pool.name
            for pool in self.arbiter.pools.values()
            if pool.spec.kind is Kind.HTTP and not is_dashboard(pool.spec, self.spec)
        )
        log.info("SIGWINCH: all http workers retire; `procmanctl start` brings them back")
        self.emit(ev.StopAsked(self.commands.begin("stop", names, None), names))

    def _scale_http(self, by: int) -> None:
        for pool in self.arbiter.pools.values():
            if pool.spec.kind == "http" and not is_dashboard(pool.spec, self.spec):
                wanted = max(0, min(pool.target + by, self.room_for(pool.name)))
                self.emit(ev.ScaleAsked(self.commands.begin("scale", (pool.name,), None), pool.name, wanted))

    # -- for the commands ---------------------------------------------------------------------------------

    def listens(self, name: str) -> list[str]:
        """Where a pool listens."""
        return self._listeners.describe(self.arbiter.pools[name].spec)

    def listening_fds(self, name: str) -> list[int]:
        """The sockets on which a pool listens."""
        return self._listeners.fds(self.arbiter.pools[name].spec)

    def room_for(self, name: str) -> int:
        """How many workers a pool can have, so that a reload still finds room on the scoreboard."""
        if self.arbiter.pools[name].spec.kind in (Kind.POSTGRES, Kind.JOBRUNNER):
            return 1  # two would get into each other's way
        others = [pool for pool in self.arbiter.pools.values() if pool.name != name]
        taken = MOST_RECORDS_PER_WORKER * sum(max(pool.target, pool.spec.most_workers) for pool in others)
        return max(1, (self._board.size - taken) // MOST_RECORDS_PER_WORKER)

    def reload_configuration(self, call: Call | None) -> str:
        """Read the file again, apply the difference and reload every pool; what is wrong with it, or nothing.

        A file that is wrong, or that wants an address which can't be had, changes nothing.
        """
        # Whatever is still to be done concerns the sockets there are now; then the new ones are opened and taken over
        # in one go, or something in between would close them, because no pool wants them yet.
        self._work_off_events()
        try:
            spec = self._confinement.settle(config.read(self.spec.source, os.environ))
            self._listeners.open(spec.pools)
        except (ConfigurationError, AddressError) as error:
            return str(error)
        for fixed in FIXED:
            if getattr(spec, fixed) != getattr(self.spec, fixed):
                log.warning("%s has changed in %s: that takes a restart of the daemon", fixed, spec.source)
        # What needs a restart stays as it is, and is told again the next time.
        self.spec = replace(self.spec, pools=spec.pools, stop_timeout=spec.stop_timeout, auth=spec.auth)
        self._reception.allow(spec)
        before = {pool.name: pool.spec for pool in self.arbiter.pools.values() if not pool.removed}
        same = before == {pool.name: pool for pool in spec.pools}
        operation = self.commands.begin("reload", tuple(pool.name for pool in spec.pools), call)
        self._herald.update(self._describe(), reloading=True)
        # A file that says what it said before was not read for its own sake: there is new code.
        self.emit(ev.Configured(spec.pools, operation, unchanged=same))
        self._work_off_events()
        return ""


def run(spec: DaemonSpec) -> int:
    """Run the daemon with this configuration until it is told to stop; the exit status for the process."""
    logs.configure(spec.log_format, pool="-", worker="arbiter")
    try:
        with Place(spec.state_dir) as place:
            return Daemon(spec, place).run()
    except AddressError as error:
        print(f"procmand: {error}", file=sys.stderr)
        return 1
