"""Limits on units that run side by side in greenlets.

Each unit has a timer of its own, so that the one that takes too long is interrupted where it waits, answers 503, and
nobody else notices. A greenlet that computes instead of waiting lets no timer come: then the signal that the arbiter
sends, or the CPU clock, finds it at work, and the same happens; only that it was interrupted anywhere, so that
the worker is replaced afterwards. One that is stuck in C is found by the arbiter, because nobody answers.

Memory is that of the whole process. It grows with connections that wait as well as with units, so it is looked at
a moment after anything happened, and never when nothing does.
"""

from __future__ import annotations

import logging
import os
from time import monotonic, process_time
from typing import TYPE_CHECKING

from gevent import Timeout, get_hub, getcurrent

from procman.core.reason import Reason
from procman.errors import UnitAborted
from procman.workers.cpu import CpuLimit
from procman.workers.memory import SoftMemory

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from procman.core.spec import Limits
    from procman.observe.scoreboard import Record
    from procman.workers.child import Child

log = logging.getLogger("procman.longpolling")

LOOK_AFTER = 1.0  # seconds from the first thing that happens to a look at the memory


class HubCpuLimit(CpuLimit):
    """CPU time is that for which no other greenlet had its turn: only who keeps all others waiting is over it."""

    def __init__(self, limit: float, record: Record, exceeded: Callable[[], None]) -> None:
        super().__init__(limit, record, exceeded)
        self._turned = True

    def _on_tick(self, signum: int, frame: FrameType | None) -> None:
        now = process_time()
        if self._turned or self._since is None:
            self._turned, self._since = False, now
            self._record.cpu_from(now)
            get_hub().loop.run_callback(self._on_turn)
        elif now - self._since >= self._limit:
            self._since = now  # again only after as long
            self._exceeded()

    def _on_turn(self) -> None:
        self._turned = True


class Units:
    """The units that this worker is in; `begin` and `end` bracket each, in its own greenlet."""

    def __init__(self, child: Child, wake: Callable[[], object]) -> None:
        self._child = child
        self._wake = wake
        self._running: dict[object, _Unit] = {}  # by greenlet; the oldest first
        self._cpu: HubCpuLimit | None = None
        self._go_by(child.spec.limits)
        self._look = get_hub().loop.timer(LOOK_AFTER)
        self._looks = False

    def start(self) -> None:
        """From now on limits act. To be called in the main thread."""
        self._child.abort_current = self._abort_current
        self._child.limits_changed = self._adjust
        if self._cpu is not None:
            self._cpu.start()

    def _go_by(self, limits: Limits) -> None:
        self._time_real = limits.time_real
        self._cpu = None if limits.time_cpu is None else HubCpuLimit(limits.time_cpu, self._child.record, self._hogged)
        self._memory: SoftMemory | None = None
        if limits.memory_soft is not None:
            self._memory = SoftMemory(limits.memory_soft, limits.memory_metric, self._child.name)

    def _adjust(self, limits: Limits) -> None:
        """Other limits apply to the units that begin from now on."""
        if self._cpu is not None:
            self._cpu.stop()
        self._go_by(limits)
        if self._cpu is not None:
            self._cpu.start()

    def begin(self, name: str) -> None:
        """A unit begins in this greenlet."""
        self._child.record.begin(name)
        unit = self._running[getcurrent()] = _Unit(name, monotonic())
        self._show_oldest()
        if self._time_real is not None:
            unit.timer = Timeout.start_new(self._time_real, UnitAborted(Reason.REAL_TIME))

    def end(self, *, failed: bool) -> None:
        """The unit of this greenlet is over."""
        unit = self._running.pop(getcurrent(), None)
        if unit is not None and unit.timer is not None:
            unit.timer.close()
        self._child.record.end(failed=failed)
        self._show_oldest()
        self._child.check_limits()
        self.happened()
        if self._child.retiring is not None:
            self._wake()

    def count(self, name: str) -> None:
        """Something was done that no limit acts on."""
        self._child.record.begin(name)
        self.end(failed=False)

    def happened(self) -> None:
        """Something that may have taken memory."""
        if self._memory is not None and not self._looks:
            self._looks = True
            self._look.start(self._look_at_memory)

    # -- what limits do ------------------------------------------------------------------------------------

    def _show_oldest(self) -> None:
        """The arbiter looks at one unit only: the one that is over its time first."""
        for unit in self._running.values():
            self._child.record.show(unit.name, unit.started)
            return

    def _look_at_memory(self) -> None:
        self._look.stop()
        self._looks = False
        if self._memory is not None and self._memory.exceeded():
            self._child.recycle(Reason.MEMORY_SOFT)

    def _hogged(self) -> None:
        self._abort_current(Reason.CPU_TIME)

    def _abort_current(self, reason: Reason) -> None:
        """In a signal handler: end the unit whose byte code runs, if it is over its limit."""
        unit = self._running.get(getcurrent())
        if unit is None or unit.struck or (reason is Reason.REAL_TIME and not self._is_over_time(unit)):
            return
        unit.struck = True
        log.warning("Worker %s (%d): %s keeps all others waiting", self._child.name, os.getpid(), unit.name)
        self._child.retire(reason)
        self._wake()
        raise UnitAborted(reason)

    def _is_over_time(self, unit: _Unit) -> bool:
        return self._time_real is not None and monotonic() >= unit.started + self._time_real


class _Unit:
    __slots__ = ("name", "started", "struck", "timer")

    def __init__(self, name: str, started: float) -> None:
        self.name = name
        self.started = started
        self.struck = False  # once is enough, as in `Child`
        self.timer: Timeout | None = None
