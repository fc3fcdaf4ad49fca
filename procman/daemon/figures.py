"""The replies to `stats` and `status`: what the core knows, what the scoreboard shows, what the kernel counts."""

from __future__ import annotations

import os
from time import monotonic
from typing import TYPE_CHECKING, Any

from procman.daemon.stacks import unit_figures
from procman.observe import processes
from procman.observe.memory import memory
from procman.version import __version__

if TYPE_CHECKING:
    from procman.core.snapshot import PoolSnapshot, Snapshot, WorkerSnapshot
    from procman.daemon.children import Children
    from procman.observe.scoreboard import Scoreboard


class Figures:
    """``cpu_percent`` is that of the time since it was last asked for, and since the start when never asked before."""

    def __init__(self, children: Children, board: Scoreboard, started: float) -> None:
        self._children = children
        self._board = board
        self._started = started
        self._last_cpu: dict[int, tuple[float, float]] = {}

    def arbiter(self, snapshot: Snapshot) -> dict[str, Any]:
        pid, now = os.getpid(), monotonic()
        return {
            "pid": pid,
            "version": __version__,
            "uptime": round(now - self._started, 3),
            "rss": memory(pid),
            "cpu_percent": self._cpu_percent(pid, self._started, now),
            "state": snapshot.state,
        }

    def pool(self, pool: PoolSnapshot) -> dict[str, Any]:
        workers = [self._worker(worker) for worker in pool.workers]
        return {
            "kind": pool.kind,
            "state": pool.state.value,
            "generation": pool.generation,
            "target": pool.target,
            "ready": pool.ready,
            "busy": sum(worker["busy"] for worker in workers),
            "workers": workers,
        }

    def forget(self, snapshot: Snapshot) -> None:
        """Drop what is remembered of processes that are gone."""
        alive = {worker.pid for pool in snapshot.pools for worker in pool.workers} | {os.getpid()}
        self._last_cpu = {pid: last for pid, last in self._last_cpu.items() if pid in alive}

    def _worker(self, worker: WorkerSnapshot) -> dict[str, Any]:
        now = monotonic()
        process = self._children.workers.get(worker.id)
        record = process.record if process is not None else None
        sample = self._board.read(record) if record is not None else None
        unit = unit_figures(sample, now) if sample is not None else None
        return {
            "name": worker.name,
            "pid": worker.pid,
            "generation": worker.generation,
            "state": worker.state.value,
            "busy": unit is not None,
            "unit": unit["name"] if unit is not None else None,
            "unit_seconds": round(unit["seconds"], 3) if unit is not None else None,
            "requests": sample.requests if sample is not None else 0,
            "rss": _rss(worker.pid),
            "cpu_percent": 0.0 if worker.pid is None else self._cpu_percent(worker.pid, worker.spawned_at, now),
            "uptime": round(now - worker.spawned_at, 3),
        }

    def _cpu_percent(self, pid: int, started: float, now: float) -> float:
        try:
            used = processes.cpu_seconds(pid)
        except OSError:
            return 0.0
        since, before = self._last_cpu.get(pid, (started, 0.0))
        self._last_cpu[pid] = (now, used)
        return round(100.0 * max(0.0, used - before) / (now - since), 1) if now > since else 0.0


def _rss(pid: int | None) -> int:
    try:
        return memory(pid) if pid is not None else 0
    except OSError:
        return 0
