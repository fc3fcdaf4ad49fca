"""Getting the stacks of a worker, whatever it is doing.

SIGQUIT makes the worker's C handler (faulthandler) write every thread's stack into a memory file that the
arbiter holds too, at once, even from inside a C call that holds the interpreter's lock. When byte code runs
again, Python writes a better text, with source lines, and sends it over the channel. The better one is taken if
it comes soon, the other one if not, and of a process that is stopped, what the kernel says of it.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from procman.core.spec import Kind
from procman.daemon.processes import WorkerProcess
from procman.observe import processes
from procman.observe.stacks import worker_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from procman.core.sample import Sample
    from procman.daemon.children import Children
    from procman.daemon.loop import Loop
    from procman.daemon.processes import Process, TemplateProcess
    from procman.observe.scoreboard import Scoreboard

PATIENCE = 0.5  # seconds to wait for Python's own text; a busy interpreter needs a few milliseconds
MOST_BYTES = 128 * 1024


@dataclass(frozen=True, slots=True)
class Stacks:
    """The stacks of one worker and the unit it was in when they were taken."""

    worker: str
    pid: int | None
    generation: int
    unit: dict[str, Any] | None
    text: str
    by: str

    def describe(self) -> str:
        """For the log: a line about the worker and its unit, then the stacks."""
        return worker_text(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """For the control socket."""
        return {
            "worker": self.worker,
            "pid": self.pid,
            "generation": self.generation,
            "unit": self.unit,
            "text": self.text,
            "by": self.by,
        }


def unit_figures(sample: Sample, now: float) -> dict[str, Any] | None:
    """What a worker's record says of the unit it is in; None between units."""
    if sample.unit is None:
        return None
    return {
        "name": sample.unit,
        "database": sample.database or None,
        "user": sample.user or None,
        "queries": sample.queries,
        "query_seconds": sample.query_seconds,
        "python_seconds": sample.python_seconds(now),
        "seconds": sample.unit_seconds(now),
    }


class StackDumper:
    def __init__(self, loop: Loop, children: Children, board: Scoreboard) -> None:
        self._loop = loop
        self._children = children
        self._board = board

    @property
    def busy(self) -> bool:
        """Stacks that were asked for have not come yet."""
        return any(child.on_dump for child in (*self._children.workers.values(), *self._children.templates.values()))

    def dump(self, worker: WorkerProcess | TemplateProcess, then: Callable[[Stacks], None]) -> None:
        """Get the stacks of a worker, or of a template, and hand them to ``then``, within PATIENCE."""
        record = worker.record if isinstance(worker, WorkerProcess) else None
        sample = self._board.read(record) if record is not None else None
        unit = unit_figures(sample, monotonic()) if sample is not None else None

        def done(text: str, by: str) -> None:
            then(Stacks(worker.name, worker.pid, worker.generation, unit, text, by))

        if worker.spec.kind in (Kind.EXEC, Kind.POSTGRES):
            done("(not a Python worker)", "none")
            return
        if worker.dump_fd is None or worker.pidfd is None:
            done("(not running)", "none")
            return
        if not processes.catches(worker.pid or 0, signal.SIGQUIT):
            # As long as it is an interpreter that starts, it would die of the signal.
            done(*_from_below(worker))
            return
        worker.forget_stacks()

        def python(text: str) -> None:
            timer.cancel()
            if text:
                done(text, "python")
            else:  # it has ended meanwhile
                done(*_from_below(worker))

        def impatient() -> None:
            worker.on_dump.remove(python)
            done(*_from_below(worker))

        timer = self._loop.call_later(PATIENCE, impatient)
        worker.on_dump.append(python)
        self._children.send_signal(worker, signal.SIGQUIT)


def _from_below(worker: Process) -> tuple[str, str]:
    text = os.pread(worker.dump_fd, MOST_BYTES, 0).decode("utf-8", "replace") if worker.dump_fd is not None else ""
    if text:
        return text, "faulthandler"
    return f"(no answer; the kernel says: {kernel_state(worker.pid)})", "kernel"


def kernel_state(pid: int | None) -> str:
    """What the kernel says of a process that can't speak for itself."""
    try:
        state = processes.status(pid or 0).get("State", "?")
        with open(f"/proc/{pid}/wchan", encoding="ascii") as file:
            return f"state {state}, waiting in {file.read().strip() or '?'}"
    except OSError:
        return "gone"
