"""A worker's view of itself: its channel, its signals, its record on the scoreboard, its limits.

Every kind of worker is written against `Child`: it tells `ready`, waits on `wake_fds` besides its own
descriptors, calls `attend` when one of them is readable, brackets each unit with `begin_unit` and `end_unit`,
and returns when `retiring` is set and it is between units.

Signals are handled in the main thread. INT and TERM ask for retirement (TERM with a bound), a second one ends
the process at once. QUIT makes faulthandler write the stacks from inside the C handler, at once and whatever
the interpreter is doing, and then, when byte code runs again, the same by Python with the unit. XCPU aborts
the unit that runs.
"""

from __future__ import annotations

import faulthandler
import fcntl
import logging
import os
import resource
import signal
import socket
import sys
from dataclasses import replace
from math import inf
from random import Random
from time import monotonic
from typing import TYPE_CHECKING

from procman.core.lifecycle import (
    MOST_CACHES,
    Adjust,
    Answer,
    Bounded,
    CacheFigures,
    Caches,
    Crew,
    Deactivated,
    Dumped,
    Evidence,
    Failed,
    Ping,
    Published,
    Question,
    Ready,
    Rechannel,
    Recycle,
    Retire,
    Retiring,
    WorkerEnded,
    cut,
)
from procman.core.reason import Reason
from procman.core.spec import Kind, MemoryHardBy, PassedSocket, listening_addresses
from procman.errors import ChannelClosed, UnitAborted
from procman.observe import whom
from procman.observe.stacks import format_stacks
from procman.unix.process import CANCEL, INTERRUPT
from procman.workers.canceller import Canceller
from procman.workers.cpu import CpuLimit
from procman.workers.memory import LOOK_AFTER, SoftMemory

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from procman.core.lifecycle import Seat
    from procman.core.spec import DatabaseSpec, Limits, PoolSpec
    from procman.observe.scoreboard import Record, Scoreboard
    from procman.unix.channel import Channel

log = logging.getLogger("procman.worker")

# Seconds from the end of the arbiter's channel to its own.
ORPHANED_PATIENCE = 1.0

IGNORED = (signal.SIGHUP, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH, CANCEL)


class Child:
    """This worker. One per process."""

    def __init__(
        self,
        *,
        seat: Seat,
        spec: PoolSpec,
        channel: Channel,
        record: Record,
        dump_fd: int,
        listeners: list[socket.socket],
        database: DatabaseSpec | None,
        state_dir: str,
        arbiter: int = 0,
        kept: bool = False,
        board: Scoreboard | None = None,
    ) -> None:
        self.seat = seat
        self.name = seat.name
        self.spec = spec
        self.record = record
        self.board = board
        self.listeners = listeners
        self.database = database
        self.state_dir = state_dir
        self.retiring: Reason | None = None
        self._recycling: Reason | None = None
        self._channel: Channel | None = channel
        self._arbiter = arbiter
        self._kept = kept
        self.forked = False
        os.register_at_fork(after_in_child=self._become_a_stranger)  # os.getpid() would be a system call for each unit
        self._told_by_signal = False
        self._dump_fd = dump_fd
        # A unit begins, by its name: from here on limits act on it. One at a time, in the main thread.
        self.begin_unit: Callable[[str | bytes], None] = record.begin  # no more than that, and no frame for it
        # By its number on the record (`Record.unit`), so that nothing has to be put back for the next one:
        self._interrupted: int | None = None  # the unit that the arbiter has found over its time
        self._struck: int | None = None  # that has been ended by an exception, which it may still be dealing with
        self._heeding = False  # a signal is being heeded, and must be heeded to the end
        self._abort_due: Reason | None = None  # came meanwhile
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._born = monotonic()
        # Only jitter: not a secret, but not the same in every fork of one template either.
        self._luck = Random(os.getpid() ^ seat.record).random()
        limits = spec.limits
        # Where a loop of their own goes on, who runs the units sees to their limits, and aborts what runs by this.
        self.abort_current: Callable[[Reason], None] = self._abort
        # For a job runner, and a cron worker: what they are told and asked.
        self.on_evidence: Callable[[Evidence], None] = lambda evidence: None
        self.on_told: Callable[[WorkerEnded | Crew | Rechannel], None] = lambda message: None
        self.on_question: Callable[[str, Callable[[str], object]], None] = lambda question, reply: None
        # A loop of their own is told when other limits apply.
        self.limits_changed: Callable[[Limits], None] = lambda limits: None
        self._go_by(limits)
        self._least_bound = inf  # seconds: what the arbiter has been told of units with limits of their own
        self._unlooked = 0.0  # seconds in units since the last look at memory
        # Where units run in the main thread; a loop that goes on meanwhile needs no help.
        # Jobs and cron entries may have limits of their own.
        limited = limits.time_real is not None or spec.kind in (Kind.CRON, Kind.HTTP)
        cancels = limited and not spec.concurrent and uses_database(database)
        self._canceller = Canceller(self._waits_for_interruption) if cancels else None

    def _go_by(self, limits: Limits) -> None:
        self._share = (
            inf if limits.requests is None else limits.requests + int(self._luck * (limits.requests_jitter + 1))
        )
        self._cpu: CpuLimit | None = None
        if limits.time_cpu is not None and not self.spec.concurrent:
            self._cpu = CpuLimit(limits.time_cpu, self.record, self._on_cpu_used)
        soft = limits.memory_soft
        self._memory = None if soft is None else SoftMemory(soft, limits.memory_metric, self.name)
        self._age_deadline = limits.age and self._born + limits.age + self._luck * limits.age_jitter

    # -- life cycle ---------------------------------------------------------------------------------------

    def settle_in(self) -> None:
        """Take over signals, descriptors and resource limits. To be called once, in the main thread."""
        self.record.claim(os.getpid())
        whom.write_to(self.record)
        signal.set_wakeup_fd(self._wake_writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, self._on_leave)
        signal.signal(signal.SIGTERM, self._on_leave)
        signal.signal(signal.SIGXCPU, self._on_cpu_limit)
        signal.signal(INTERRUPT, self._on_interrupt)
        signal.signal(signal.SIGIO, self._on_channel)
        signal.signal(signal.SIGUSR1, self._on_caches)
        # What the process had until now: while faulthandler is registered, it does not register again.
        faulthandler.unregister(signal.SIGQUIT)
        signal.signal(signal.SIGQUIT, self._on_dump)
        for ignored in IGNORED:
            signal.signal(ignored, signal.SIG_IGN)
        # chain: faulthandler writes from the C handler, then the handler above gets its turn.
        faulthandler.register(signal.SIGQUIT, file=self._dump_fd, all_threads=True, chain=True)
        self._watch_channel()
        self._memory_before = resource.getrlimit(resource.RLIMIT_DATA)
        self._limit_memory()
        if self._cpu is not None:
            self._cpu.start()
        if self._canceller is not None:
            self._canceller.start()

    def _limit_memory(self) -> None:
        # RLIMIT_DATA counts private writable memory; RLIMIT_AS would count reserved address space.
        before, most = self._memory_before
        limits = self.spec.limits
        hard = limits.memory_hard if limits.memory_hard_by is MemoryHardBy.RLIMIT else None
        resource.setrlimit(resource.RLIMIT_DATA, (before if hard is None else hard, most))

    def adjust(self, limits: Limits) -> None:
        """Go by these limits from now on, between units.

        A worker that had no ``time_real`` when it started has no thread that cancels queries either, which can't be
        had when there are other threads already: then the server ends them, when their client is gone.
        """
        if self._cpu is not None:
            self._cpu.stop()
        self.spec = replace(self.spec, limits=limits)
        self._go_by(limits)
        if self._cpu is not None:
            self._cpu.start()
        self.limits_changed(limits)
        try:
            self._limit_memory()
        except (OSError, ValueError) as error:
            log.error("Worker %s (%d) can't be limited to this memory: %s", self.name, os.getpid(), error)
        self._recycling = None
        self.check_limits()

    def _watch_channel(self) -> None:
        # O_ASYNC: SIGIO tells us of the end of the file even in the middle of a unit (fcntl(2), F_SETOWN).
        if self._channel is not None:
            fd = self._channel.fileno()
            fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)

    def ready(self) -> None:
        """Tell the arbiter that this worker serves."""
        self._tell(Ready())

    def failed(self, traceback: str) -> None:
        """Tell the arbiter why this worker can't start."""
        self._tell(Failed(traceback=cut(traceback)))

    def publish(self, figures: str) -> None:
        """Tell the arbiter figures that are this pool's own, in JSON; seldom, as it costs it a little."""
        self._tell(Published(text=figures))

    @property
    def wake_fds(self) -> tuple[int, ...]:
        """Descriptors that become readable when `attend` must be called."""
        if (channel := self._channel) is None:
            return (self._wake_reader.fileno(),)
        return (self._wake_reader.fileno(), channel.fileno())

    def attend(self) -> None:
        """Read what the arbiter says and the wake-up bytes of signals; may set `retiring`."""
        try:
            while self._wake_reader.recv(512):
                pass
        except BlockingIOError:
            pass
        # A local name: the handler of SIGIO may put the attribute to None at any moment.
        while (channel := self._channel) is not None:
            try:
                received = channel.receive()
            except ChannelClosed:
                self._lost()
                return
            if received is None:
                return
            message, fds = received
            for fd in fds:
                os.close(fd)
            self._heed(message)

    def _heed(self, message: object) -> None:
        match message:
            case Retire(reason=reason):
                self.retire(reason)
            case Adjust(limits=limits):
                self.adjust(limits)
            case Evidence():
                self.on_evidence(message)
            case WorkerEnded() | Crew() | Rechannel():
                self.on_told(message)
            case Question(number=number, text=text):
                self.on_question(text, lambda answer: self._tell(Answer(number=number, text=answer)))
            case Ping():
                self.record.beat()

    def _lost(self) -> None:
        """The arbiter is gone: finish the unit and go, and give up the addresses at once.

        shutdown(2) makes the kernel stop listening on a socket whoever else holds it, so that the next daemon
        can bind the address while orphans of the last one still finish their units.
        """
        self._channel = None
        self.retire(Reason.LOST)
        if not self._orphaned():
            return  # the application has closed a descriptor that is not its own; the other workers go on
        for listener, address in zip(self.listeners, listening_addresses(self.spec), strict=False):
            if self._kept or isinstance(address, PassedSocket):
                continue  # the service manager holds it too, and hands it to the next daemon
            try:
                listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # another orphan was faster

    def _orphaned(self) -> bool:
        """Whether the arbiter has ended: the kernel closes its descriptors first, and gives away its children then."""
        deadline = monotonic() + ORPHANED_PATIENCE
        while os.getppid() == self._arbiter:
            if monotonic() >= deadline:
                return False
            # Not time.sleep(): gevent makes another one of it, which may not be called here, in a signal handler.
            signal.sigtimedwait((), 0.001)
        return True

    def retire(self, reason: Reason) -> None:
        """Go after the unit that runs now; the first reason counts. The arbiter is told."""
        if self.retiring is None:
            self.retiring = reason
            self._tell(Retiring(reason=reason))

    def recycle(self, reason: Reason) -> None:
        """A soft limit is reached: ask once to be replaced, and serve until told to go, so that capacity never dips."""
        if self.retiring is None and self._recycling is None:
            self._recycling = reason
            self._tell(Recycle(reason=reason))

    # -- units --------------------------------------------------------------------------------------------

    def bound_unit(self, seconds: float) -> None:
        """The unit that runs may take so long, from its beginning on, or less where the pool's limits say so."""
        self.record.bound(seconds)
        self.tell_bound(seconds)

    def tell_bound(self, seconds: float) -> None:
        """Have the arbiter look often enough at units that may take so long."""
        if seconds < self._least_bound:
            self._least_bound = seconds
            self._tell(Bounded(seconds=seconds))

    def deactivated(self, entry: str, database: str, text: str) -> None:
        """Have everybody told that a cron entry is not run any more."""
        self._tell(Deactivated(entry=entry, database=database, text=cut(text)))

    def end_unit(self, failed: bool = False) -> None:
        """The unit is over; limits that are looked at between units may have this worker replaced."""
        if self.forked:
            # A process that the application has forked, and that has come out of the unit by return or sys.exit().
            # It must not go on as a second worker on this one's descriptors, of which nobody knows.
            os._exit(0)
        record = self.record
        record.end(failed)
        self._unlooked = unlooked = self._unlooked + record.ended - record.started
        if (unlooked >= LOOK_AFTER or record.requests >= self._share) and self.retiring is None:
            self.check_between(0.0)

    def check_between(self, seconds: float) -> None:
        """Look at the limits that are looked at between units, of which one or several took so long."""
        if self.record.requests >= self._share or self._age_deadline is not None:
            self.check_limits()
        self._unlooked += seconds
        if self._unlooked >= LOOK_AFTER:
            self._unlooked = 0.0
            if self._memory is not None and self._recycling is None and self._memory.exceeded():
                self.recycle(Reason.MEMORY_SOFT)

    def _become_a_stranger(self) -> None:
        self.forked = True

    @property
    def age_deadline(self) -> float | None:
        """When `check_limits` is to be called for this worker's age, on CLOCK_MONOTONIC; None: never."""
        return None if self._recycling else self._age_deadline

    def check_limits(self) -> None:
        """Ask to be replaced if this worker has done its share of units, or is too old."""
        if self._recycling is not None:
            return
        if self.record.requests >= self._share:
            self.recycle(Reason.MAX_REQUESTS)
        elif self._age_deadline is not None and monotonic() >= self._age_deadline:
            self.recycle(Reason.MAX_AGE)

    # -- signals ------------------------------------------------------------------------------------------

    # A handler may itself be interrupted by another one (signal(7); CPython runs it at the next jump back or call), and
    # an abort raises: so it would end the one below it, say between taking note of a reason and telling it.

    def _heed_wholly(self, handler: Callable[[], None]) -> None:
        """Do what a signal asks for, to the end: an abort that comes meanwhile has to wait for it."""
        if self._heeding:
            handler()
            return
        self._heeding = True
        try:
            handler()
        finally:
            self._heeding = False
        if (due := self._abort_due) is not None:
            self._strike(due)

    def _strike(self, reason: Reason) -> None:
        if self._heeding:
            self._abort_due = reason
        else:
            self._abort_due = None
            self.abort_current(reason)

    def _on_leave(self, signum: int, frame: FrameType | None) -> None:
        if self._told_by_signal:
            os._exit(128 + signum)
        self._told_by_signal = True
        self._heed_wholly(lambda: self.retire(Reason.KILLED_BY_USER))

    def _on_cpu_limit(self, signum: int, frame: FrameType | None) -> None:
        self._on_cpu_used()

    def _on_cpu_used(self) -> None:
        self._strike(Reason.CPU_TIME)

    def _on_interrupt(self, signum: int, frame: FrameType | None) -> None:
        self._interrupted = self.record.unit
        self._strike(Reason.REAL_TIME)

    def _abort(self, reason: Reason) -> None:
        """End the unit that runs, and go: what an exception strikes anywhere may be left in any state.

        Once: the arbiter's clock and this worker's may both find it over a limit, and a second exception would
        strike in the midst of what is done about the first. One that goes on all the same is killed.
        """
        unit = self.record.unit
        if unit is None or unit == self._struck:
            return
        self._struck = unit
        log.warning("Worker %s (%d): limit of the unit reached: %s", self.name, os.getpid(), reason)
        self.retire(reason)
        if self._canceller is not None:
            # Or the cancellation that is under way could strike the statement that rolls back, or the next one.
            with self._canceller.busy:
                pass
        raise UnitAborted(reason)

    def _waits_for_interruption(self) -> bool:
        unit = self.record.unit
        return unit is not None and unit != self._interrupted

    def _on_channel(self, signum: int, frame: FrameType | None) -> None:
        if (channel := self._channel) is not None and channel.ended():
            self._heed_wholly(self._lost)

    def _on_dump(self, signum: int, frame: FrameType | None) -> None:
        self._heed_wholly(lambda: self._tell(Dumped(text=cut(format_stacks(frame)))))

    def _on_caches(self, signum: int, frame: FrameType | None) -> None:
        self._heed_wholly(lambda: self._tell(Caches(figures=cache_figures())))

    def _tell(self, message: object) -> None:
        if (channel := self._channel) is not None:
            try:
                channel.send(message)
            except ChannelClosed:
                pass  # seen by attend() as well, which draws the conclusion


def uses_database(database: DatabaseSpec | None) -> bool:
    """Units may wait for PostgreSQL: over procman's connections, or over the application's own."""
    return database is not None or "psycopg2" in sys.modules


def cache_figures() -> tuple[CacheFigures, ...]:
    """What the caches of this process hold; nothing in a process that has not even loaded them."""
    signaling = sys.modules.get("procman.signaling")
    if signaling is None:
        return ()
    return tuple(
        CacheFigures(
            group=one.group,
            function=one.function,
            entries=one.entries,
            hits=one.hits,
            misses=one.misses,
            size=one.size,
        )
        for one in signaling.statistics()[:MOST_CACHES]
    )
