"""Measures how much the pools that scale themselves have to do. Nothing is asked of a worker, and none is woken."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from procman.core.scaling import Load
from procman.core.spec import MemoryMetric
from procman.observe.memory import memory
from procman.unix.backlog import waiting

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from procman.core.effect import Measure
    from procman.daemon.children import Children
    from procman.daemon.processes import WorkerProcess
    from procman.observe.scoreboard import Scoreboard

log = logging.getLogger("procman.arbiter")

LEAST_INTERVAL = 0.1  # seconds; over less than that an average says nothing


@dataclass(slots=True)
class _Reading:
    """When it was taken, the seconds for which each worker had been busy then, and what followed from it."""

    at: float
    seconds: dict[int, float]
    busy: float


class Gauge:
    def __init__(self, children: Children, board: Scoreboard) -> None:
        self._children = children
        self._board = board
        self._readings: dict[str, _Reading] = {}

    def measure(self, effect: Measure, listeners: Iterable[socket.socket]) -> Load:
        """The load of the pool since the last time, or since now when there was none."""
        processes = [one for worker in effect.workers if (one := self._children.workers.get(worker)) is not None]
        return Load(
            busy=self._busy(effect.pool, processes),
            waiting=sum(map(_waiting, listeners)),
            memory=_memory(processes) if effect.memory else None,
        )

    def forget(self, pool: str) -> None:
        """There is no such pool any more."""
        self._readings.pop(pool, None)

    def _busy(self, pool: str, processes: Iterable[WorkerProcess]) -> float:
        now, last = monotonic(), self._readings.get(pool)
        if last is not None and now - last.at < LEAST_INTERVAL:
            return last.busy
        seconds = {one.id: self._board.busy_seconds(one.record, now) for one in processes if one.record is not None}
        busy = 0.0
        if last is not None:
            # Of one that is new nothing is known before, so that it counts from the next time on.
            busy = sum(max(0.0, after - last.seconds.get(worker, after)) for worker, after in seconds.items())
            busy /= now - last.at
        self._readings[pool] = _Reading(now, seconds, busy)
        return busy


def _waiting(listener: socket.socket) -> int:
    try:
        return waiting(listener)
    except OSError as error:
        log.debug("The queue of %s can't be measured: %s", listener.getsockname(), error)
        return 0


def _memory(processes: Iterable[WorkerProcess]) -> int | None:
    used = 0
    for process in processes:
        try:
            used += memory(process.pid, MemoryMetric.PSS) if process.pid is not None else 0
        except OSError as error:
            log.warning("The memory of %s can't be measured: %s", process.name, error)
            return None
    return used or None
