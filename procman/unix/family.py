"""The families of processes: who is whose child, and signals to those whom we did not start ourselves."""

from __future__ import annotations

import os
import signal
from typing import NamedTuple

_MOST_BYTES = 65536


class Kin(NamedTuple):
    """What procfs says of a process (proc(5)): its parent, the leader of its session, when it was started, in ticks."""

    parent: int
    session: int
    started: int
    ended: bool  # a zombie, which only has to be reaped


def kin(pid: int) -> Kin | None:
    """Of whose family the process is; None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            columns = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Kin(int(columns[1]), int(columns[3]), int(columns[19]), columns[0] in (b"Z", b"X"))


def started_with(pid: int, variable: str) -> bool:
    """The process, or the one that it was forked from, was executed with this ``NAME=VALUE`` in its environment."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return variable.encode() in file.read().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # the last: another user's, and we are not root
        return False


def holds(pid: int, fd: int) -> bool:
    """The process has the open file that ``fd`` is in ours, by whatever number."""
    ours = os.fstat(fd)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            theirs = os.stat(f"/proc/{pid}/fd/{name}")
            if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino):
                return True
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # gone, or another user's, or has closed one
        pass
    return False


def children(pid: int) -> list[int]:
    """The pids of the process's children, of whichever of its threads; none when it is gone (proc(5))."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found.extend(int(child) for child in file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        pass  # it, or one of its threads, has ended meanwhile
    return found


def our_children() -> list[int]:
    """The pids of this process's children, orphans that it was given included; for one whose first thread alone forks.

    Orphans go to the first thread that lives (find_alive_thread() in the kernel's exit.c).
    """
    pid = os.getpid()
    fd = os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = b""
        while piece := os.read(fd, _MOST_BYTES):
            text += piece
    finally:
        os.close(fd)
    return [int(child) for child in text.split()]


def descendants(pid: int) -> list[int]:
    """The pids of the process's children, their children, and so on."""
    found = children(pid)
    for child in found:  # grows while it is walked
        found.extend(children(child))
    return found


def signal_descendant(pid: int, signum: int, *, of: int) -> bool:
    """Send a signal to a process if it descends from ``of``; False when it does not, is gone, or is not ours to signal.

    Looked up after the pidfd was opened: a number that somebody else has got meanwhile is not taken for it.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if pid not in descendants(of):
            return False
        signal.pidfd_send_signal(pidfd, signum)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(pidfd)
    return True
