"""Which processes there are: those of workers, templates and errands, and which records of the scoreboard are free.

It starts, signals and ends nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from procman.daemon.processes import Errand, TemplateProcess, WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from procman.daemon.processes import Child


class ProcessTable:
    """``records`` is the size of the scoreboard."""

    def __init__(self, records: int) -> None:
        self.workers: dict[int, WorkerProcess] = {}
        self.templates: dict[tuple[str, int], TemplateProcess] = {}
        self.errands: set[Errand] = set()
        self._free_records = list(range(records - 1, -1, -1))

    def __iter__(self) -> Iterator[Child]:
        yield from self.workers.values()
        yield from self.templates.values()
        yield from self.errands

    def add(self, child: Child) -> None:
        """From now on there is this one, with the record it may have."""
        match child:
            case WorkerProcess():
                self.workers[child.id] = child
                if child.record is not None:
                    self._free_records.remove(child.record)
            case TemplateProcess():
                self.templates[child.spec.name, child.generation] = child
            case Errand():
                self.errands.add(child)

    def remove(self, child: Child) -> bool:
        """It has ended, and its record is free; False if that was known."""
        match child:
            case WorkerProcess():
                known = self.workers.pop(child.id, None) is not None
                if known and child.record is not None:
                    self._free_records.append(child.record)
            case TemplateProcess():
                known = self.templates.pop((child.spec.name, child.generation), None) is not None
            case Errand():
                known = child in self.errands
                self.errands.discard(child)
        return known

    def take_record(self) -> int:
        """A record of the scoreboard for a new worker. Raises IndexError when all are taken."""
        return self._free_records.pop()

    @property
    def unborn(self) -> bool:
        """Somebody was asked to fork a process, and has not done so yet."""
        return any(child.pid is None for child in self)
