"""The replies to `stats` and `status`: what the core knows, what the scoreboard shows, what the kernel counts."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from procman.core.sample import quantile
from procman.core.spec import Kind
from procman.daemon.circus import GONE, process_info
from procman.observe import processes
from procman.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    from procman.core.sample import Traffic
    from procman.core.snapshot import PoolSnapshot, WorkerSnapshot
    from procman.daemon.children import Children
    from procman.observe.scoreboard import Scoreboard

# Seconds for which what the kernel has said of a process is good. It counts processor time in ticks of 10 ms, so that
# a percentage over much less than this is noise.
FRESH = 0.25


class Figures:
    """``cpu_percent`` is that of the time since it was last asked for, and since the start when never asked before."""

    def __init__(
        self, children: Children, board: Scoreboard, started: float, backlog: Callable[[str], int | None]
    ) -> None:
        self._backlog = backlog
        self._children = children
        self._board = board
        self._started = started
        self._known: dict[int, _Known] = {}

    def arbiter(self, state: str) -> dict[str, Any]:
        pid, now = os.getpid(), monotonic()
        rss, cpu_percent = self._usage(pid, self._started, now)
        return {
            "pid": pid,
            "version": __version__,
            "uptime": round(now - self._started, 3),
            "rss": rss,
            "cpu_percent": cpu_percent,
            "state": state,
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
            **({} if (backlog := self._backlog(pool.name)) is None else {"backlog": backlog}),
            **self._published(pool),
            "workers": workers,
        }

    def _published(self, pool: PoolSnapshot) -> dict[str, Any]:
        """What a job runner says of its jobs, and a cron worker of its entries: the newest that has said something."""
        what = {Kind.JOBRUNNER.value: "jobs", Kind.CRON.value: "cron"}.get(pool.kind)
        if what is None:
            return {}
        said = [process.published for worker in pool.workers if (process := self._children.workers.get(worker.id))]
        try:
            return {what: next((json.loads(text) for text in reversed(said) if text), None)}
        except (ValueError, RecursionError):
            return {what: None}

    def circus(self, pid: int, cpu_percent: float, number: int | None = None) -> dict[str, Any] | str:
        """Circus's figures of a process whose own have just been taken (`circus.process_info`)."""
        known = self._known.get(pid)
        if known is None or known.usage is None:
            return GONE
        if known.info is None:
            try:
                known.info = process_info(pid, known.usage, processes.identity(pid), cpu_percent)
            except OSError:
                return GONE
        return known.info if number is None else {**known.info, "wid": number}

    def forget(self) -> None:
        """Drop what is remembered of processes that are gone."""
        alive = {worker.pid for worker in self._children.workers.values()} | {os.getpid()}
        self._known = {pid: known for pid, known in self._known.items() if pid in alive}

    def _worker(self, worker: WorkerSnapshot) -> dict[str, Any]:
        now = monotonic()
        process = self._children.workers.get(worker.id)
        record = process.record if process is not None else None
        sample = self._board.read(record) if record is not None else None
        unit_seconds = sample.unit_seconds(now) if sample is not None else None
        rss, cpu_percent = self._usage(worker.pid, worker.spawned_at, now)
        return {
            "name": worker.name,
            "pid": worker.pid,
            "generation": worker.generation,
            "state": worker.state.value,
            "busy": unit_seconds is not None,
            "unit": sample.unit if sample is not None else None,
            "unit_seconds": None if unit_seconds is None else round(unit_seconds, 3),
            "progress": None if sample is None or sample.progress is None else round(sample.progress, 4),
            "requests": sample.requests if sample is not None else 0,
            "errors": sample.errors if sample is not None else 0,
            "rss": rss,
            "cpu_percent": cpu_percent,
            "uptime": round(now - worker.spawned_at, 3),
            **(_traffic(sample.traffic) if sample is not None and any(sample.traffic.latencies) else {}),
        }

    def _usage(self, pid: int | None, started: float, now: float) -> tuple[int, float]:
        """(bytes of memory, percent of a CPU) that the process uses now; zeros when there is none."""
        if pid is None:
            return 0, 0.0
        known = self._known.get(pid)
        if known is None or known.spawned != started:  # another process with the number of one that is gone
            known = self._known[pid] = _Known(spawned=started, since=started)
        if known.usage is None or now - known.since >= FRESH:
            known.look(pid, now)
        return known.rss, known.cpu_percent


def _traffic(traffic: Traffic) -> dict[str, Any]:
    """What an http worker has done; seconds and bytes."""
    return {
        "p50": _rounded(quantile(traffic.latencies, 0.5)),
        "p99": _rounded(quantile(traffic.latencies, 0.99)),
        "connections": traffic.connections,
        "bytes_received": traffic.received,
        "bytes_sent": traffic.sent,
        "request_seconds": round(traffic.seconds, 6),
        "latencies": list(traffic.latencies),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


@dataclass(slots=True)
class _Known:
    """What is known of a process: its start and the time of the last look, both monotonic, and what was seen."""

    spawned: float
    since: float
    cpu_seconds: float = 0.0
    usage: processes.Usage | None = None
    rss: int = 0
    cpu_percent: float = 0.0
    info: dict[str, Any] | None = None  # for Circus's clients, if one has asked

    def look(self, pid: int, now: float) -> None:
        """See what it uses now; zeros when it is gone."""
        self.info = None
        try:
            self.usage = processes.usage(pid)
        except OSError:
            self.usage, self.rss, self.cpu_percent = None, 0, 0.0
            return
        before, self.cpu_seconds, self.rss = self.cpu_seconds, self.usage.cpu_seconds, self.usage.rss
        since, self.since = self.since, now
        used = max(0.0, self.cpu_seconds - before)
        self.cpu_percent = round(100.0 * used / (now - since), 1) if now > since else 0.0
