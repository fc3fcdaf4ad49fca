"""What a job runner has done since it started, in numbers: for metrics. Pure: it is told of what happens."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from procman.jobs.dialect import Row

# Upper bounds, in seconds, of the classes in which times are counted; one more class is for the rest.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0, 3600.0)

# Channels may be named after customers: those beyond so many are counted together, as if they were this one.
MOST_CHANNELS = 100
OTHERS = "(others)"

_OUTCOMES = {"done": "done", "failed": "failed", "pending": "retried", "cancelled": "cancelled"}


class Histogram:
    """Times in seconds, counted by `BOUNDS`."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"counts": self.counts, "seconds": round(self.seconds, 6)}


class Meter:
    """``ended``: tries by channel and outcome; ``waited``: from when a job could start until it did, of first tries;
    ``ran``: of tries that succeeded. ``rescued`` by database, ``refused`` by how a worker did not take a job."""

    def __init__(self) -> None:
        self.ended: dict[str, Counter[str]] = {}
        self.waited: dict[str, Histogram] = {}
        self.ran: dict[str, Histogram] = {}
        self.rescued: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def settled(self, rows: Iterable[Row]) -> None:
        """These rows were read after their workers had answered."""
        for row in rows:
            outcome = _OUTCOMES.get(row.state)
            if outcome is None:
                continue
            channel = row.channel if row.channel in self.ended or len(self.ended) < MOST_CHANNELS else OTHERS
            if channel not in self.ended:
                self.ended[channel] = Counter()
                self.waited[channel], self.ran[channel] = Histogram(), Histogram()
            self.ended[channel][outcome] += 1
            if row.waited is not None:
                self.waited[channel].add(max(0.0, row.waited))
            if row.seconds is not None and outcome == "done":
                self.ran[channel].add(row.seconds)
