"""The workers of one pool by slot, and what is counted of them.

Rules of this file: it knows what there is and nothing of what is wanted. Every change of a worker goes through it, so
that nothing is counted anew for each event: one event costs a pool of ten thousand workers what it costs one of ten.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from procman.core.worker import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from procman.core.worker import Input, Worker


class Roster:
    """``ready`` workers serve, ``live`` ones serve or are about to, ``unborn`` ones have no process yet.

    ``relieved`` are those that serve until their successor does, because they have reached a soft limit.
    """

    def __init__(self, workers: dict[int, Worker]) -> None:
        self.workers = workers
        self.ready = self.live = self.unborn = self.relieved = 0
        self.coming: Counter[int] = Counter()  # those that do not serve yet, by generation
        self.changed: set[int] = set()  # slots in which something is not as it was when somebody last looked
        self._slots: defaultdict[int, dict[int, Worker]] = defaultdict(dict)
        self._touched: dict[int, Worker] = {}
        self._due: dict[int, float] = {}
        self._timers: list[tuple[float, int]] = []  # with entries that `_due` no longer knows
        for worker in workers.values():
            self.add(worker)

    def add(self, worker: Worker) -> None:
        """Take in a worker."""
        self.workers[worker.id] = self._slots[worker.slot][worker.id] = worker
        self._count(worker, 1)
        self.touch(worker)

    def remove(self, worker: Worker) -> None:
        """Forget a worker that has gone."""
        self._count(worker, -1)
        self.touch(worker)
        for known in (self.workers, self._slots[worker.slot], self._touched, self._due):
            known.pop(worker.id, None)
        if not self._slots[worker.slot]:
            del self._slots[worker.slot]

    def move(self, worker: Worker, what: Input, now: float, **how: Any) -> bool:
        """`Worker.move`, noted."""
        self._count(worker, -1)
        moved = worker.move(what, now, **how)
        self._count(worker, 1)
        self.touch(worker)
        return moved

    def spawned(self, worker: Worker, pid: int) -> None:
        """`Worker.spawned`, noted."""
        self._count(worker, -1)
        worker.spawned(pid)
        self._count(worker, 1)
        self.touch(worker)

    def relieve(self, worker: Worker, relieved: bool) -> None:
        """Say that it is this worker's turn to be replaced, or that it is not."""
        self._count(worker, -1)
        worker.relieved = relieved
        self._count(worker, 1)
        self.touch(worker)

    def in_slot(self, slot: int) -> list[Worker]:
        """Whoever is in the slot, those who drain included."""
        return list(self._slots[slot].values()) if slot in self._slots else []

    def slots(self) -> Iterator[int]:
        """The slots in which there is anybody."""
        return iter(self._slots)

    # -- time ---------------------------------------------------------------------------------------------

    def touch(self, worker: Worker) -> None:
        """Something about the worker has changed: its slot, and the times at which it wants attention."""
        self.changed.add(worker.slot)
        self._touched[worker.id] = worker

    def touched(self) -> list[Worker]:
        """Those who were touched since `schedule`."""
        return list(self._touched.values())

    def schedule(self) -> None:
        """Note when those who were touched want attention."""
        for worker in self._touched.values():
            due = worker.due
            if due is None:
                self._due.pop(worker.id, None)
            elif self._due.get(worker.id) != due:
                self._due[worker.id] = due
                heapq.heappush(self._timers, (due, worker.id))
        self._touched.clear()
        if len(self._timers) > 2 * len(self._due) + 100:
            self._timers = [(due, worker_id) for worker_id, due in self._due.items()]
            heapq.heapify(self._timers)

    @property
    def deadline(self) -> float | None:
        """When the first one wants attention."""
        while self._timers and self._due.get(self._timers[0][1]) != self._timers[0][0]:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def due(self, now: float) -> list[Worker]:
        """Those who want attention now; each is told once, and counts as touched."""
        due = []
        while (deadline := self.deadline) is not None and deadline <= now:
            worker = self.workers[heapq.heappop(self._timers)[1]]
            del self._due[worker.id]
            self._touched[worker.id] = worker
            due.append(worker)
        return due

    def _count(self, worker: Worker, sign: int) -> None:
        if worker.pid is None:
            self.unborn += sign
        if worker.coming:
            self.coming[worker.generation] += sign
            self.live += sign
        elif worker.state is State.READY:
            self.ready += sign
            self.live += sign
            self.relieved += sign * worker.relieved


class Slots:
    """A set of slots that knows its least."""

    def __init__(self) -> None:
        self._members: set[int] = set()
        self._heap: list[int] = []  # some of these are members no more
        self._in_heap: set[int] = set()

    def __contains__(self, slot: int) -> bool:
        return slot in self._members

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._members))

    def add(self, slot: int) -> None:
        """Put it in."""
        self._members.add(slot)
        if slot not in self._in_heap:
            self._in_heap.add(slot)
            heapq.heappush(self._heap, slot)

    def discard(self, slot: int) -> None:
        """Take it out, if it is in."""
        self._members.discard(slot)

    def first(self) -> int | None:
        """The least of them; None when there is none."""
        while self._heap and self._heap[0] not in self._members:
            self._in_heap.discard(heapq.heappop(self._heap))
        return self._heap[0] if self._heap else None


@dataclass(slots=True)
class Survey:
    """The slots of a pool by what has to be done about them; of one that needs nothing but itself, nothing is said."""

    served: Slots = field(default_factory=Slots)  # by a ready worker that is up to date
    vacant: Slots = field(default_factory=Slots)  # nobody is there, nor is anybody about to be
    outdated: Slots = field(default_factory=Slots)  # those who are there are all to be replaced
    uncovered: Slots = field(default_factory=Slots)  # somebody starts there, and nobody serves meanwhile
    leaving: Slots = field(default_factory=Slots)  # somebody there is of no use any more

    def forget(self, slot: int) -> None:
        """It is not known any more what has to be done about the slot."""
        for slots in (self.served, self.vacant, self.outdated, self.uncovered, self.leaving):
            slots.discard(slot)
