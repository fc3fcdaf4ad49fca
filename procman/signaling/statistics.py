"""What the caches of this process hold and how well they serve: for USR1 and `procmanctl cachestats`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from procman.signaling import runtime


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """One cached function in this process, over all databases. ``size`` is what its entries take: bytes, about."""

    group: str
    function: str
    entries: int
    size: int
    hits: int
    misses: int

    @property
    def ratio(self) -> float:
        """The share of hits; 0 before the first call."""
        calls = self.hits + self.misses
        return self.hits / calls if calls else 0.0


def statistics() -> list[CacheStatistics]:
    """Every cached function, by group and name."""
    entries: Counter[object] = Counter()
    sizes: Counter[object] = Counter()
    for function, table in runtime.tables():
        entries[function] += len(table)
        sizes[function] += table.size
    figures = [
        CacheStatistics(
            group=function.group,
            function=f"{function.__wrapped__.__module__}.{function.__wrapped__.__qualname__}",
            entries=entries[function],
            size=sizes[function],
            hits=function.hits,
            misses=function.misses,
        )
        for function in runtime.known_functions
    ]
    return sorted(figures, key=lambda figure: (figure.group, figure.function))
