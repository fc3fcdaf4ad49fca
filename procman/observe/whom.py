"""What the current unit is about, as the application tells: shown by `dumpstacks`, `stats`, `top` and the dashboard.

Each word is a store into shared memory, and costs no system call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from procman.observe.scoreboard import Record

_records: list[Record] = []


def write_to(record: Record) -> None:
    """From now on these functions write to this record: the worker's own."""
    _records[:] = [record]


def set_user(user: int) -> None:
    """Say that the current unit works for the user of this id (a positive number; 0: for nobody in particular).

    Until the unit ends `procmanctl dumpstacks` and the stacks before a kill show it as ``uid``. Does nothing outside
    of a worker. Raises TypeError for what is no whole number, OverflowError for one beyond 64 bits.
    """
    for record in _records:
        record.as_user(user)


def rename(unit: str) -> None:
    """The current unit is known to be this."""
    for record in _records:
        record.rename(unit)


def show_progress(done: float, total: float | None) -> None:
    """So much of the current unit's work is done; without a ``total`` nobody can say how much that is."""
    if total and total > 0:
        for record in _records:
            record.progress(min(1.0, max(0.0, float(done) / float(total))))
