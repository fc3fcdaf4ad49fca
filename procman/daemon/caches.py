"""Asking workers for the statistics of their caches. SIGUSR1 asks, the answer comes over the channel.

A signal, because it is answered in the middle of a unit as well; a worker that is stuck does not answer, and that is
said of it.
"""

from __future__ import annotations

import logging
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from procman.observe import processes
from procman.observe.caches import worker_caches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from procman.core.lifecycle import CacheFigures
    from procman.daemon.children import Children
    from procman.daemon.loop import Loop
    from procman.daemon.processes import WorkerProcess

log = logging.getLogger("procman.arbiter")

PATIENCE = 0.5  # seconds for an answer


@dataclass(frozen=True, slots=True)
class CacheAnswer:
    """What a worker said of its caches; None: nothing, in time."""

    worker: str
    pid: int | None
    generation: int
    figures: tuple[CacheFigures, ...] | None

    def describe(self) -> str:
        """For the log."""
        return worker_caches(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """For the control socket."""
        caches = None if self.figures is None else [figures.as_dict() for figures in self.figures]
        return {"worker": self.worker, "pid": self.pid, "generation": self.generation, "caches": caches}


def log_caches(answers: list[CacheAnswer]) -> None:
    """What USR1 to the daemon is answered with."""
    for answer in answers:
        log.info("Cache statistics, as asked by SIGUSR1:\n%s", answer.describe())


class CacheAsker:
    def __init__(self, loop: Loop, children: Children) -> None:
        self._loop = loop
        self._children = children

    def ask(self, workers: Iterable[WorkerProcess], then: Callable[[list[CacheAnswer]], object]) -> None:
        """Hand ``then`` what these workers say, in the order of their names, when the last one has said it."""
        asked = [worker for worker in workers if processes.catches(worker.pid or 0, signal.SIGUSR1)]
        answers: list[CacheAnswer] = []

        def collect(answer: CacheAnswer) -> None:
            answers.append(answer)
            if len(answers) == len(asked):
                then(sorted(answers, key=lambda one: (one.worker, one.generation)))

        for worker in asked:
            self._ask_one(worker, collect)
        if not asked:
            then([])

    def _ask_one(self, worker: WorkerProcess, then: Callable[[CacheAnswer], None]) -> None:
        def answered(figures: tuple[CacheFigures, ...] | None) -> None:
            timer.cancel()
            then(CacheAnswer(worker.name, worker.pid, worker.generation, figures))

        def impatient() -> None:
            worker.on_caches.remove(answered)
            answered(None)

        timer = self._loop.call_later(PATIENCE, impatient)
        worker.on_caches.append(answered)
        self._children.send_signal(worker, signal.SIGUSR1)
