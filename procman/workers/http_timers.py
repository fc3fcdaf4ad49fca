"""Deadlines of connections.

All connections that wait for the same thing wait equally long, so the one that began first is due first: a
queue, and not a heap, is all that is needed, and to move a connection to its end costs next to nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class TimerQueue(Generic[T]):
    """Who waits for ``seconds``; ``now`` is always a time of CLOCK_MONOTONIC that does not go back."""

    __slots__ = ("_due", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._due: OrderedDict[T, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, item: T) -> bool:
        return item in self._due

    def start(self, item: T, now: float) -> None:
        """Let the time of ``item`` begin, also when it had begun already."""
        self._due[item] = now + self.seconds
        self._due.move_to_end(item)

    def stop(self, item: T) -> None:
        """Forget ``item``."""
        self._due.pop(item, None)

    def items(self) -> list[T]:
        """All who wait, the next one due first."""
        return list(self._due)

    def next(self) -> float | None:
        """When the first one is due; None when nobody waits."""
        for due in self._due.values():
            return due
        return None

    def expired(self, now: float) -> list[T]:
        """Those whose time is over; they are forgotten."""
        over = []
        for item, due in self._due.items():
            if due > now:
                break
            over.append(item)
        for item in over:
            del self._due[item]
        return over
