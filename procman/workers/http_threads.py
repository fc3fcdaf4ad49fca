"""Units in several threads, for applications that wait much; the loop goes on in the main thread.

A thread has its own `Units`, whose worker is a `Bench`: what `Child` is to the only unit of a worker, a bench is to the
unit of its thread. Connections change hands: while a unit answers one, the loop leaves it alone.

A unit over its limit gets an exception in its thread (PyThreadState_SetAsyncExc, which Python has for this and offers
by its C API only). The loop watches the limits, because it is never in a unit: real time by the clock, CPU time by the
clocks of the threads. What does not end by that, because no byte code runs, the arbiter ends: it sees the oldest unit.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import time
from collections import deque
from queue import SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING

from procman.core.limits import cpu_tick
from procman.core.reason import Reason
from procman.errors import UnitAborted
from procman.workers.canceller import cancel_soon

if TYPE_CHECKING:
    from collections.abc import Callable

    from procman.core.spec import Limits
    from procman.workers.child import Child
    from procman.workers.http_connection import Connection
    from procman.workers.http_unit import Units
    from procman.workers.wsgi import Exchange

log = logging.getLogger("procman.http")

_set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_async_exc.argtypes = (ctypes.c_ulong, ctypes.py_object)
_drop_async_exc = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)(
    ("PyThreadState_SetAsyncExc", ctypes.pythonapi)
)


class OverRealTime(UnitAborted):
    """What is raised in another thread is a class, and made there without arguments."""

    def __init__(self) -> None:
        super().__init__(Reason.REAL_TIME)


class OverCpuTime(UnitAborted):
    def __init__(self) -> None:
        super().__init__(Reason.CPU_TIME)


class Threads:
    """Runs requests in ``count`` threads. ``fd`` becomes readable when connections come back: see `take_back`."""

    def __init__(self, child: Child, make_units: Callable[[Bench], Units], count: int) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._child = child
        # Reentrant: the arbiter's signal may come while the loop itself looks at the limits, in the same thread.
        self._lock = threading.RLock()
        self._running: dict[Bench, float] = {}  # since when; the oldest first
        self._waiting: SimpleQueue[tuple[Exchange, Connection]] = SimpleQueue()
        self._done: deque[Connection] = deque()
        self._limits = child.spec.limits
        child.abort_current = self._abort
        child.limits_changed = self._adjust
        for number in range(1, count + 1):
            bench = Bench(child, self)
            work = (make_units(bench), bench)
            threading.Thread(target=self._run, args=work, name=f"unit {number}", daemon=True).start()

    def submit(self, request: Exchange, connection: Connection) -> None:
        """Have the request answered by the next thread that is free."""
        self._waiting.put((request, connection))

    def take_back(self) -> list[Connection]:
        """Connections whose units are over; the limits that are looked at between units are looked at."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            pass
        done = []
        while self._done:
            done.append(self._done.popleft())
        self._child.check_between(0.01 * len(done))
        return done

    def _run(self, units: Units, bench: Bench) -> None:
        bench.settle_in()
        while True:
            request, connection = self._waiting.get()
            try:
                units.serve(request, connection)
            except BaseException:
                # Not the application's, whose errors have been answered: nothing is known of what was sent.
                log.exception("a unit's thread failed")
                connection.abort()
            self._done.append(connection)
            os.eventfd_write(self.fd, 1)

    # -- units, in their threads ---------------------------------------------------------------------------

    def begin(self, bench: Bench, name: bytes) -> None:
        with self._lock:
            self._child.record.begin(name)
            self._running[bench] = bench.started = self._child.record.started
            self._show_oldest()

    def end(self, bench: Bench, *, failed: bool) -> None:
        with self._lock:
            if self._running.pop(bench, None) is not None:
                self._child.record.end(failed=failed)
                bench.ended = self._child.record.ended
                self._show_oldest()

    def bound(self, bench: Bench, seconds: float) -> None:
        with self._lock:
            bench.limit = seconds
            self._child.tell_bound(seconds)
            self._show_oldest()
        os.eventfd_write(self.fd, 1)  # the loop has to look sooner, perhaps

    def served(self, seconds: float, received: int, sent: int) -> None:
        with self._lock:
            self._child.record.served(seconds, received, sent)

    def _show_oldest(self) -> None:
        for bench, started in self._running.items():
            self._child.record.show(bench.unit, started)
            if bench.limit is not None:
                self._child.record.bound(bench.limit)
            return

    # -- limits, in the loop -------------------------------------------------------------------------------

    def _adjust(self, limits: Limits) -> None:
        self._limits = limits

    def look_at(self) -> float | None:
        """When limits want to be looked at, on CLOCK_MONOTONIC; None: when another unit has begun."""
        with self._lock:
            running = list(self._running.items())
        if not running:
            return None
        times = [over for bench, started in running if (over := self._over_at(bench, started)) is not None]
        if self._limits.time_cpu is not None:
            times.append(monotonic() + cpu_tick(self._limits.time_cpu))
        return min(times, default=None)

    def look(self, now: float) -> None:
        """End the units that are over their limits."""
        with self._lock:
            running = list(self._running.items())
        for bench, started in running:
            over = self._over_at(bench, started)
            if over is not None and now >= over:
                self._end(bench, OverRealTime, Reason.REAL_TIME)
            elif self._limits.time_cpu is not None and bench.cpu_seconds() >= self._limits.time_cpu:
                self._end(bench, OverCpuTime, Reason.CPU_TIME)
        if running and self._limits.time_cpu is not None:
            # The arbiter takes the time of the process from here on for that of the oldest unit.
            self._child.record.cpu_from(time.process_time() - running[0][0].cpu_seconds())

    def _over_at(self, bench: Bench, started: float) -> float | None:
        """When its unit has taken all its time."""
        limits = [limit for limit in (self._limits.time_real, bench.limit) if limit is not None]
        return started + min(limits) if limits else None

    def _abort(self, reason: Reason) -> None:
        """The arbiter asks for the end of what is over a limit."""
        self.look(monotonic())

    def _end(self, bench: Bench, error: type[UnitAborted], reason: Reason) -> None:
        if not bench.interrupted:
            log.warning("Worker %s: limit of the unit reached: %s: %s", self._child.name, reason, bench.unit)
            self._child.retire(reason)  # first: the answer has to say that the connection ends
            bench.interrupt(error)


class Bench:
    """The place of one thread: what its `Units` take for the worker and for its record."""

    # Queries are counted for the worker as a whole.
    queries: int | None = None
    query_seconds: float | None = None

    def __init__(self, child: Child, threads: Threads) -> None:
        self.name = child.name
        self.spec = child.spec
        self.database = child.database
        self.record = self
        self.unit = ""
        self.limit: float | None = None  # seconds: the unit's own
        self.started = self.ended = 0.0
        self._threads = threads
        self._child = child
        self._ident = 0
        self._clock = 0
        self._cpu_before = 0.0
        self._abortable = False
        self.interrupted = False

    def settle_in(self) -> None:
        """To be called in the thread."""
        self._ident = threading.get_ident()
        self._clock = time.pthread_getcpuclockid(self._ident)

    def begin_unit(self, name: bytes) -> None:
        """`Child.begin_unit`, for this thread."""
        self.unit = name.decode()
        self.limit = None
        threading.current_thread().name = f"unit {self.unit}"  # so stacks tell
        self.interrupted = False
        self._cpu_before = time.thread_time()
        self._threads.begin(self, name)
        self._abortable = True

    def bound_unit(self, seconds: float) -> None:
        """`Child.bound_unit`, for this thread."""
        self._threads.bound(self, seconds)

    def end_unit(self, failed: bool = False) -> None:
        """`Child.end_unit`, for this thread. Nothing strikes the thread after it."""
        self._abortable = False
        _drop_async_exc(self._ident, None)
        if self._child.forked:
            os._exit(0)
        self._threads.end(self, failed=failed)
        threading.current_thread().name = "unit"

    def served(self, seconds: float, received: int, sent: int) -> None:
        """`Record.served`."""
        self._threads.served(seconds, received, sent)

    def cpu_seconds(self) -> float:
        """What the unit has used of the processor."""
        return time.clock_gettime(self._clock) - self._cpu_before

    def interrupt(self, error: type[UnitAborted]) -> None:
        """Raise ``error`` in the thread, unless its unit is over."""
        ident = self._ident
        self.interrupted = True
        # Between this look and the call no other thread runs: CPython changes threads after calls and at jumps back.
        if self._abortable:
            _set_async_exc(ident, error)
            # A thread that waits in libpq does not see it before the answer is there.
            cancel_soon(ident, lambda: self._abortable and self.interrupted)
