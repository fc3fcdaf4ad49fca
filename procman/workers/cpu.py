"""The CPU time of units, measured without a system call for any of them.

The kernel counts the CPU time of the process and sends SIGPROF each time that another share of the limit has been
used (setitimer(2), ITIMER_PROF). Only then is the clock read, and only a unit that is met at two of these ticks can
have used much: it is ended when it has used the limit since the first of them. So no unit is ended too early, each
is at most one tick late, and a worker that does nothing never wakes.

A unit that runs no byte code (stuck in C) does not notice. So the time of the tick goes to the scoreboard, where the
arbiter compares it with the process's clock.
"""

from __future__ import annotations

import signal
from time import process_time
from typing import TYPE_CHECKING

from procman.core.limits import cpu_tick

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from procman.observe.scoreboard import Record


class CpuLimit:
    """``limit``: seconds of CPU for one unit. ``exceeded`` is called, by a signal, once for each that is over."""

    def __init__(self, limit: float, record: Record, exceeded: Callable[[], None]) -> None:
        self._limit = limit
        self._record = record
        self._exceeded = exceeded
        self._since: float | None = None
        self._unit: int | None = None  # that was met at the last tick
        self._over = False

    def start(self) -> None:
        """Count from now on. To be called in the main thread."""
        signal.signal(signal.SIGPROF, self._on_tick)
        # Whatever the application waits for meanwhile is not interrupted.
        signal.siginterrupt(signal.SIGPROF, False)
        tick = cpu_tick(self._limit)
        signal.setitimer(signal.ITIMER_PROF, tick, tick)

    def stop(self) -> None:
        """Count no more."""
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _on_tick(self, signum: int, frame: FrameType | None) -> None:
        now = process_time()
        unit = self._record.unit
        if unit is None or unit != self._unit or self._since is None:
            self._unit, self._since, self._over = unit, now, False
            self._record.cpu_from(now)
        elif now - self._since >= self._limit and not self._over:
            # Not again with the next tick, in the midst of its end; if it does not end, the arbiter will see to it.
            self._over = True
            self._exceeded()
