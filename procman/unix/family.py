"""The families of processes: who is whose child, and signals to those whom we did not start ourselves."""

from __future__ import annotations

import os
import signal


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
