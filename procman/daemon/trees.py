"""Ends what a worker leaves behind when it ends: children that became daemons, sessions of their own, grandchildren.

The arbiter is a subreaper, so whatever a dead worker had started is now below it, and its roots are the arbiter's own
children, of which it knows all that it has started itself. Of those that it does not know, one is a worker's

* that is in the worker's session, which no other process can get while somebody is in it;
* that, or whose ancestor, was executed in the worker's environment, which holds a mark that no other worker has;
* that holds the worker's file for stacks: forked by it, and not executed since;
* or that was seen below the worker when that was told to go, and was started then: the pid alone would not do.

All others are left alone: as PID 1 of a container the arbiter gets everybody's orphans. What has given itself a session
and a clean environment, has closed its descriptors, and lost its parent before the worker was told to go, escapes.

Looking costs a read for each process that is not known, when a worker ends, and nothing at any other time. Whoever
forks meanwhile is found by looking again until nobody is left. No number is trusted: a child of ours can't be somebody
else before it is reaped, which happens in this same thread; all others are signalled by descriptor (pidfd_open(2)).
"""

from __future__ import annotations

import logging
import os
import signal
from time import monotonic
from typing import TYPE_CHECKING

from procman.core.command import MARK
from procman.core.spec import KillMode, Kind
from procman.unix import family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from procman.daemon.loop import Loop
    from procman.daemon.processes import Process

log = logging.getLogger("procman.arbiter")

FIRST_LOOK = 0.002  # seconds from a kill to the next look, twice as long each time
LAST_LOOK = 0.1
PATIENCE = 5.0  # seconds after which what does not die is left to itself


class Trees:
    """``known`` says which processes the arbiter has started itself, and is not to take for somebody's orphans."""

    def __init__(self, loop: Loop, known: Callable[[], Iterable[int | None]]) -> None:
        self._loop = loop
        self._known = known

    def remember(self, child: Process) -> None:
        """Note who is below a worker that is about to be told to go: afterwards it could not be seen any more."""
        if child.pid is not None and _whole(child):
            try:
                for pid in family.descendants(child.pid):
                    if (kin := family.kin(pid)) is not None:
                        child.relatives[pid] = kin.started
            except OSError:
                pass  # no descriptor is left to look with; most can still be found afterwards

    def end(self, child: Process, then: Callable[[], None]) -> None:
        """Kill all that is left of a worker that has ended and is not reaped yet; when it is gone, call ``then``."""
        if not _whole(child):
            then()
            return
        self._look(child, then, monotonic() + PATIENCE, FIRST_LOOK)

    def _look(self, child: Process, then: Callable[[], None], deadline: float, pause: float) -> None:
        left: list[int] | None = None  # not known, as when no descriptor is left to look with
        try:
            left = self._left(child)
            for root in left:
                _kill(root)
        except OSError as error:
            log.debug("What %s has left behind can't be seen: %s", child.name, error)
        if left == []:
            then()
        elif monotonic() >= deadline:
            names = ", ".join(map(str, left)) if left else "nobody knows whom"
            log.warning("What %s has left behind does not die of SIGKILL: %s", child.name, names)
            then()
        else:
            again = min(pause * 2, LAST_LOOK)
            self._loop.call_later(pause, lambda: self._look(child, then, deadline, again))

    def _left(self, child: Process) -> list[int]:
        """The roots of what the worker has left: children of ours that are its."""
        known = set(self._known())
        strangers = [pid for pid in family.our_children() if pid not in known]
        return [pid for pid in strangers if _is_of(child, pid)]


def _whole(child: Process) -> bool:
    # PostgreSQL ends its processes itself, and they are not to be killed before it has: they write.
    return child.spec.kill_mode is KillMode.TREE and child.spec.kind is not Kind.POSTGRES


def _is_of(child: Process, pid: int) -> bool:
    kin = family.kin(pid)
    if kin is None or kin.ended:
        return False
    return (
        kin.session == child.pid
        or child.relatives.get(pid) == kin.started
        or family.started_with(pid, f"{MARK}={child.mark}")
        or (child.dump_fd is not None and family.holds(pid, child.dump_fd))
    )


def _kill(root: int) -> None:
    """Kill a child of ours that has not been reaped, and everybody below it.

    They are stopped first, from the top: who sees its child die may start another one, and whose parent dies is
    no longer seen below it.
    """
    _signal(root, signal.SIGSTOP)
    below = family.descendants(root)
    for signum in (signal.SIGSTOP, signal.SIGKILL):
        for pid in reversed(below):
            family.signal_descendant(pid, signum, of=root)
    _signal(root, signal.SIGKILL)


def _signal(root: int, signum: int) -> None:
    try:
        os.kill(root, signum)
    except (ProcessLookupError, PermissionError):  # the latter: it has changed its user, and we are not root
        pass
