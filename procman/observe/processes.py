"""Processes as procfs shows them: what they cost and whose they are (proc(5))."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cache

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFigures:
    """Times in seconds, sizes in bytes; ``started`` is since the epoch, ``cpu_seconds`` user and system together."""

    pid: int
    command: str
    user: str
    nice: int
    rss: int
    vms: int
    cpu_seconds: float
    started: float


def figures(pid: int) -> ProcessFigures:
    """What the process costs. Raises FileNotFoundError or ProcessLookupError when it is gone."""
    columns = _stat(pid)
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        first = file.read(4096).partition(b"\0")[0]
    return ProcessFigures(
        pid=pid,
        command=os.path.basename(first.decode("utf-8", "replace")),
        user=_user(os.stat(f"/proc/{pid}").st_uid),
        nice=int(columns[16]),
        rss=int(columns[21]) * _PAGE,
        vms=int(columns[20]),
        cpu_seconds=_cpu_seconds(columns),
        started=_boot_time() + int(columns[19]) / _TICKS,
    )


def cpu_seconds(pid: int) -> float:
    """CPU time, user and system. Raises as `figures` does."""
    return _cpu_seconds(_stat(pid))


def total_memory() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PHYS_PAGES") * _PAGE


def _stat(pid: int) -> list[bytes]:
    with open(f"/proc/{pid}/stat", "rb") as file:
        # The name of the command may hold spaces and brackets; what follows the last bracket does not (proc(5)).
        return file.read().rpartition(b")")[2].split()


def _cpu_seconds(columns: list[bytes]) -> float:
    return (int(columns[11]) + int(columns[12])) / _TICKS


@cache
def _boot_time() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _user(uid: int) -> str:
    return _users().get(uid, str(uid))


@cache
def _users() -> dict[int, str]:
    # Not pwd: it asks whatever nsswitch.conf names, a directory server at the other end of a dead network perhaps,
    # and whoever calls this has no time to wait.
    try:
        with open("/etc/passwd", encoding="utf-8", errors="replace") as file:
            entries = [line.split(":") for line in file]
    except OSError:
        return {}
    return {int(entry[2]): entry[0] for entry in entries if len(entry) > 2 and entry[2].isdigit()}
