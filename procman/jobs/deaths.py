"""What the arbiter has told of workers that died, or are about to: for the rows of the jobs that they were in."""

from __future__ import annotations

import socket
from time import monotonic
from typing import NamedTuple

MOST = 100
_HOST = socket.gethostname()


class Death(NamedTuple):
    """``reason`` is one word of the arbiter's; ``text`` the stacks, if they were taken; ``at`` None while it lives."""

    reason: str
    text: str | None
    at: float | None


class Deaths:
    """The last of them, by pid."""

    def __init__(self) -> None:
        self._known: dict[int, Death] = {}

    def condemned(self, pid: int, reason: str, text: str) -> None:
        """The worker of this pid is about to be killed in the middle of a job: where it was."""
        self._keep(pid, Death(reason, text, None))

    def ended(self, pid: int, reason: str) -> None:
        """The worker of this pid has ended. Why it was to be killed, if it was, counts."""
        before = self._known.get(pid)
        if before is not None and before.at is None:
            self._keep(pid, before._replace(at=monotonic()))
        else:
            self._keep(pid, Death(reason, None, monotonic()))

    def of(self, host: str | None, pid: int | None) -> Death | None:
        """What is known of the worker of this pid."""
        return self._known.get(pid) if pid is not None and host in (_HOST, None) else None

    def pids(self) -> list[int]:
        """Those of the workers that have ended."""
        return [pid for pid, death in self._known.items() if death.at is not None]

    def _keep(self, pid: int, death: Death) -> None:
        self._known.pop(pid, None)
        while len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        self._known[pid] = death
