"""For whom the current unit works, as the application tells: shown by `dumpstacks` and kept with the unit's figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from procman.observe.scoreboard import Record

_records: list[Record] = []


def write_to(record: Record) -> None:
    """From now on `set_user` writes to this record: the worker's own."""
    _records[:] = [record]


def set_user(user: int) -> None:
    """Say that the current unit works for the user of this id (a positive number; 0: for nobody in particular).

    Until the unit ends `procmanctl dumpstacks` and the stacks before a kill show it as ``uid``. Does nothing outside
    of a worker. Raises TypeError for what is no whole number, OverflowError for one beyond 64 bits.
    """
    for record in _records:
        record.as_user(user)
