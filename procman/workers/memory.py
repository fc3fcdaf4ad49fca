"""``memory_soft``, looked at after units, and so rarely that it costs nothing.

Memory does not grow faster than a process can touch it, some gigabytes in a second. So what counts is not the number
of units but the time that was spent in them: a unit that leaks a gigabyte takes long enough to be looked after at
once, and thousands of short ones are looked after together.
"""

from __future__ import annotations

import gc
import logging
import os
from time import monotonic
from typing import TYPE_CHECKING

from procman.core.spec import MemoryMetric
from procman.observe.memory import memory

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("procman.worker")

# Seconds in units between looks, which cost 10 microseconds; not much more than 50 MiB can be touched in them.
LOOK_AFTER = 0.01
# Metrics for which the kernel walks the page tables are at most so much of the time: seconds per second of work.
_DEAR_SHARE = 0.01


class SoftMemory:
    """``most``: bytes by ``metric``, of this process. ``name`` is that of the worker, for the log."""

    def __init__(self, most: int, metric: MemoryMetric, name: str, clock: Callable[[], float] = monotonic) -> None:
        self._most = most
        self._metric = metric
        self._name = name
        self._clock = clock
        self._dear_not_before = 0.0

    def exceeded(self) -> bool:
        """Whether the worker uses too much, even after its garbage was collected."""
        if not self._is_above():
            return False
        gc.collect()
        used = memory(os.getpid(), self._metric)
        if used <= self._most:
            return False
        log.info(
            "Worker %s (%d) memory limit reached: %s %d > %d", self._name, os.getpid(), self._metric, used, self._most
        )
        return True

    def _is_above(self) -> bool:
        if self._metric in (MemoryMetric.RSS, MemoryMetric.VMS):
            return memory(os.getpid(), self._metric) > self._most
        # What is shared is part of rss, so neither pss nor uss can be more than that.
        began = self._clock()
        if began < self._dear_not_before or memory(os.getpid()) <= self._most:
            return False
        above = memory(os.getpid(), self._metric) > self._most
        took = self._clock() - began
        self._dear_not_before = began + took / _DEAR_SHARE
        return above
