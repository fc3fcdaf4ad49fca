"""How much memory a process uses, by the metric one asks for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from procman.core.spec import MemoryMetric

if TYPE_CHECKING:
    from collections.abc import Iterable

_PAGE = os.sysconf("SC_PAGE_SIZE")


def memory(pid: int, metric: MemoryMetric = MemoryMetric.RSS) -> int:
    """Bytes that the process uses: rss and vms from statm, pss and uss from smaps_rollup (proc(5)).

    Raises FileNotFoundError or ProcessLookupError when the process is gone. pss and uss make the kernel walk
    the page tables: milliseconds, not microseconds.
    """
    match metric:
        case MemoryMetric.VMS:
            return _statm(pid, 0)
        case MemoryMetric.RSS:
            return _statm(pid, 1)
        case MemoryMetric.PSS:
            return _rollup(pid, ("Pss:",))
        case MemoryMetric.USS:
            return _rollup(pid, ("Private_Clean:", "Private_Dirty:", "Private_Hugetlb:"))


def _statm(pid: int, column: int) -> int:
    with open(f"/proc/{pid}/statm", "rb") as file:
        return int(file.read().split()[column]) * _PAGE


def _rollup(pid: int, names: Iterable[str]) -> int:
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return sum(int(line.split()[1]) * 1024 for line in file if line.startswith(tuple(names)))
