"""Processes as procfs shows them: what they cost and whose they are (proc(5))."""

from __future__ import annotations

import os
import time
from functools import cache
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MOST_BYTES = 4096


class Usage:
    """What a process used at one moment. Sizes in bytes; worked out of the kernel's text when they are asked for."""

    __slots__ = ("_columns",)

    def __init__(self, columns: list[bytes]) -> None:
        self._columns = columns

    @property
    def cpu_seconds(self) -> float:
        """User and system time."""
        return (int(self._columns[11]) + int(self._columns[12])) / _TICKS

    @property
    def rss(self) -> int:
        return int(self._columns[21]) * _PAGE

    @property
    def vms(self) -> int:
        return int(self._columns[20])

    @property
    def nice(self) -> int:
        return int(self._columns[16])

    @property
    def started(self) -> float:
        """Seconds since the epoch."""
        return _boot_time() + int(self._columns[19]) / _TICKS


class Identity(NamedTuple):
    """The name of the program that a process runs, and the user it runs as."""

    command: str
    user: str


def usage(pid: int) -> Usage:
    """What the process uses. Raises FileNotFoundError or ProcessLookupError when it is gone."""
    # The name of the command may hold spaces and brackets; what follows the last bracket does not (proc(5)).
    return Usage(_read(f"/proc/{pid}/stat").rpartition(b")")[2].split())


def identity(pid: int) -> Identity:
    """Who the process is. Raises as `usage` does."""
    first = _read(f"/proc/{pid}/cmdline").partition(b"\0")[0]
    return Identity(os.path.basename(first.decode("utf-8", "replace")), _user(os.stat(f"/proc/{pid}").st_uid))


def status(pid: int) -> dict[str, str]:
    """What the kernel says of the process in words, by name. Raises as `usage` does."""
    lines = _read(f"/proc/{pid}/status").decode("utf-8", "replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def catches(pid: int, signum: int) -> bool:
    """Whether the process has a handler for the signal: another one may die of it. False when it is gone."""
    try:
        return bool(int(status(pid).get("SigCgt", "0"), 16) >> (signum - 1) & 1)
    except OSError:
        return False


@cache
def total_memory() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PHYS_PAGES") * _PAGE


def _read(path: str) -> bytes:
    # A third of what a file object costs, which counts where it is done for hundreds of workers in one answer.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _MOST_BYTES)
    finally:
        os.close(fd)


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
