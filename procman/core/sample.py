"""What a worker's record on the scoreboard says at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Upper bounds, in seconds, of the classes in which the times of requests are counted; one more class is for the rest.
LATENCY_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What an http worker has done so far, in bytes and seconds; ``latencies`` are counts by `LATENCY_BOUNDS`."""

    received: int = 0
    sent: int = 0
    connections: int = 0
    seconds: float = 0.0
    latencies: tuple[int, ...] = (0,) * (len(LATENCY_BOUNDS) + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Times are seconds of CLOCK_MONOTONIC, which all processes of a machine share.

    ``cpu_from`` is the reading of the process's CPU clock from which the CPU time of the unit counts, or a little
    before that. ``unit`` is None while the worker is between units; then the figures of the unit are those of the last
    one.
    """

    pid: int
    unit: str | None
    unit_started: float
    database: str
    user: int
    queries: int
    query_seconds: float
    requests: int
    errors: int
    cache_hits: int
    cache_misses: int
    beat: float
    cpu_from: float = 0.0
    traffic: Traffic = Traffic()
    progress: float | None = None  # how much of the unit is done, from 0 to 1, when it says so
    unit_limit: float | None = None  # seconds that this very unit may take
    unit_cpu: float | None = None  # seconds of CPU that the unit has used, at least; None: not looked at

    def unit_seconds(self, now: float) -> float | None:
        """How long the worker has been in its unit; None between units."""
        return None if self.unit is None else max(0.0, now - self.unit_started)

    def python_seconds(self, now: float) -> float | None:
        """Time in the unit that was not spent waiting for PostgreSQL."""
        seconds = self.unit_seconds(now)
        return None if seconds is None else max(0.0, seconds - self.query_seconds)


def quantile(latencies: Sequence[int], share: float, bounds: Sequence[float] = LATENCY_BOUNDS) -> float | None:
    """Seconds within which this share (0 to 1) of the requests was answered, as far as their classes tell.

    None when there was none. Within a class the requests are taken to be spread evenly; of those beyond the last
    bound nothing is known but the bound.
    """
    rank = share * sum(latencies)
    lower = 0.0
    for count, upper in zip(latencies, bounds, strict=False):
        if count and rank <= count:
            return lower + (upper - lower) * rank / count
        rank -= count
        lower = upper
    return lower if any(latencies) else None
