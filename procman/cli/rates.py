"""Requests per second, from counters that are looked at now and then. Pure: the time is an argument."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HISTORY = 60  # looks that a pool's history goes back


class Rates:
    """Counts are those of processes: a worker that was replaced begins with nothing, which is no negative rate."""

    def __init__(self) -> None:
        self._seen: dict[Any, tuple[float, int]] = {}
        self._rates: dict[Any, float] = {}
        self._pools: dict[str, deque[float]] = {}

    def look(self, pools: Mapping[str, Mapping[str, Any]], now: float) -> None:
        """Take the counters of these pools (as `status` has them) at the time ``now``, in seconds of any clock."""
        seen: dict[Any, tuple[float, int]] = {}
        rates: dict[Any, float] = {}
        for name, pool in pools.items():
            for worker in pool.get("workers", ()):
                key, requests = _key(worker), worker.get("requests") or 0
                # Of a worker that is new since the last look, all requests are.
                before, count = self._seen.get(key, (now - (worker.get("uptime") or 0.0), 0))
                if now > before:
                    rates[key] = max(0, requests - count) / (now - before)
                seen[key] = (now, requests)
            total = sum(rates.get(_key(worker), 0.0) for worker in pool.get("workers", ()))
            self._pools.setdefault(name, deque(maxlen=HISTORY)).append(total)
        self._seen, self._rates = seen, rates
        self._pools = {name: history for name, history in self._pools.items() if name in pools}

    def of_worker(self, worker: Mapping[str, Any]) -> float:
        """Requests per second between the last two looks; since its start when it was not there before."""
        return self._rates.get(_key(worker), 0.0)

    def of_pool(self, name: str) -> float:
        """The sum of its workers'."""
        history = self._pools.get(name)
        return history[-1] if history else 0.0

    def history(self, name: str) -> Iterable[float]:
        """The rate of a pool at each look, oldest first."""
        return tuple(self._pools.get(name, ()))

    @property
    def total(self) -> float:
        """All pools together."""
        return sum(self.of_pool(name) for name in self._pools)


def _key(worker: Mapping[str, Any]) -> tuple[Any, Any]:
    return worker.get("name"), worker.get("pid")


_BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Iterable[float], width: int) -> str:
    """The last ``width`` values as little columns, the highest of them full; the lowest column is nothing at all."""
    last = list(values)[-width:]
    most = max(last, default=0.0)
    if most <= 0:
        return _BLOCKS[0] * len(last)
    return "".join(_BLOCKS[min(len(_BLOCKS) - 1, round(value / most * (len(_BLOCKS) - 1)))] for value in last)
