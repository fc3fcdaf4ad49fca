"""How many jobs of each database wait in each channel, and the oldest of them that could start.

Counted bit by bit: a million jobs take a quarter of a second to look at, and nothing may hold up the start of a job for
that long. What is known is as old as the last pass through all of them. Pure: time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from procman.jobs.queues import CHANNEL_AT, CHANNELS, CREATED_AT, ID_AT, IDS, MOST_CREATED

if TYPE_CHECKING:
    from procman.jobs.queues import Database
    from procman.jobs.tree import Tree

PORTION = 20_000  # jobs that are looked at in one go: about 10 ms


class Waiting(NamedTuple):
    """Jobs of one database that wait in one channel; ``oldest``: when the first that is due was made, since 1970."""

    jobs: int
    oldest: float | None


@dataclass(slots=True)
class _Count:
    jobs: int = 0
    oldest: int | None = None  # microseconds


class Census:
    """``waiting`` by database and channel, as of the last pass."""

    def __init__(self) -> None:
        self.waiting: dict[tuple[str, str], Waiting] = {}
        self._counted: dict[tuple[str, str], _Count] = {}
        self._left: list[tuple[Database, list[int]]] = []

    def go_on(self, tree: Tree, now: float, most: int = PORTION) -> None:
        """Look at ``most`` jobs more; with fewer than that in all, at every one of them."""
        if not self._left:
            self._left = [(database, list(database.waiting.values())) for database in tree.databases.values()]
            self._counted = {}
        while self._left and most > 0:
            database, jobs = self._left[-1]
            portion = jobs[-most:]
            del jobs[-most:]
            most -= len(portion)
            if not jobs:
                self._left.pop()
            self._count(tree, database, [job for job in portion if tree.is_current(job)], now)
        if not self._left:
            self.waiting = {
                place: Waiting(count.jobs, None if count.oldest is None else count.oldest / 1e6)
                for place, count in self._counted.items()
            }

    def _count(self, tree: Tree, database: Database, jobs: list[int], now: float) -> None:
        by_channel: dict[int, list[int]] = {}
        for job in jobs:
            by_channel.setdefault(job >> CHANNEL_AT & CHANNELS, []).append(job)
        etas = database.etas
        for those in by_channel.values():
            place = database.name, tree.whose(those[0])[1].name
            count = self._counted.setdefault(place, _Count())
            count.jobs += len(those)
            due = [job for job in those if etas.get(job >> ID_AT & IDS, 0.0) <= now] if etas else those
            oldest = min((job >> CREATED_AT & MOST_CREATED for job in due), default=None)
            if oldest is not None and (count.oldest is None or oldest < count.oldest):
                count.oldest = oldest
