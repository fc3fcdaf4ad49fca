"""Tries of jobs whose end nobody will tell: of a worker that died, of a runner before this one, behind a proxy.

Such a try is over when nobody holds the lock of its row: at once if its worker is known to be dead, else at the second
look, because a worker needs a moment between ``started`` and the lock.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from procman.jobs.deaths import MOST as MOST_DEATHS
from procman.jobs.dialect import Dead

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from procman.jobs.deaths import Deaths
    from procman.jobs.dialect import Key, Rescued, Row
    from procman.jobs.feed import Feed

log = logging.getLogger("procman.jobs")

# A worker needs a moment between `started` and its lock; a connection of one that died may live as long.
SECOND_LOOK = 2.0
# The end of a connection is seen before the arbiter has found out why its worker died, and told.
_REASON_PATIENCE = 0.2
_LOOK_LEAST, _LOOK_MOST = 0.05, 1.0
_AFTERWARDS = {
    "pending": "it is queued again",
    "failed": "it has failed, as it has no tries left",
    "cancelled": "it is cancelled, as another job of its identity key waits",
}


@dataclass(slots=True)
class _Watch:
    """A try. ``dead_since``: its worker is known to have died; ``free_since``: nobody holds its lock."""

    since: float
    host: str | None
    pid: int | None
    dead_since: float | None = None
    free_since: float | None = None
    try_of: datetime | None = None


class Tries:
    """Those of one database, which the log calls ``name``."""

    def __init__(self, name: str, feed: Feed, deaths: Deaths) -> None:
        self._name = name
        self._feed = feed
        self._deaths = deaths
        self._watched: dict[Key, _Watch] = {}
        self._look_at = 0.0
        self._unexplained: dict[int, Key] = {}  # by the pid of the worker: rescued without a reason
        self._explicable: list[int] = []

    def clear(self) -> None:
        """Forget them all."""
        self._watched.clear()
        self._unexplained.clear()
        self._explicable.clear()

    @property
    def deadline(self) -> float:
        """When they are to be looked after; as late as can be if there are none."""
        if self._explicable:
            return 0.0
        return self._look_at if self._watched else float("inf")

    def watch(self, row: Row, *, broken: bool = False) -> None:
        """Look after the try of this row; ``broken``: its worker has hung up without an answer."""
        now = monotonic()
        watch = self._watched.setdefault(row.key, _Watch(now, row.worker_host, row.worker_pid))
        if broken and watch.dead_since is None:
            watch.dead_since = now
        self._look_at = now if broken else min(self._look_at, now + _look_again(watch, now))

    def forget(self, key: Key) -> None:
        """The job is not in a try any more."""
        self._watched.pop(key, None)

    def ended(self, pid: int) -> bool:
        """The worker of this pid has ended. Whether there is something to be done for that."""
        concerned = any(watch.pid == pid for watch in self._watched.values())
        if concerned:
            self._look_at = 0.0
        if pid in self._unexplained:
            self._explicable.append(pid)
            concerned = True
        return concerned

    def look_after(self) -> list[Rescued]:
        """Rescue those that nobody works on, and explain those of which the arbiter told later; the rescued ones."""
        self._explain()
        if not self._watched or monotonic() < self._look_at:
            return []
        abandoned = self._feed.abandoned(list(self._watched))
        now = monotonic()
        dead = []
        for key, watch in self._watched.items():
            started = abandoned.get(key)
            if started is None or started != watch.try_of:
                watch.free_since = None if started is None else now
                watch.try_of = started
            if started is not None and (each := self._found_dead(key, watch, now)):
                dead.append(each)
        rescued = self._rescue(dead) if dead else []
        # Those that are done by now are not watched any more when they have been read.
        self._feed.look_at(self._watched)
        self._look_at = now + min(_look_again(watch, now) for watch in self._watched.values())
        return rescued

    def _found_dead(self, key: Key, watch: _Watch, now: float) -> Dead | None:
        """The try, which nobody holds the lock of, if it is certain enough that nobody will."""
        assert watch.try_of is not None
        death = self._deaths.of(watch.host, watch.pid)
        if death is not None and death.at is not None:
            return Dead(key, watch.try_of, death.reason, death.text)
        for since, patience in ((watch.dead_since, _REASON_PATIENCE), (watch.free_since, SECOND_LOOK)):
            if since is not None and now - since >= patience:
                return Dead(key, watch.try_of, *(death[:2] if death is not None else ()))
        return None

    def _rescue(self, dead: Sequence[Dead]) -> list[Rescued]:
        reasons = {each.key: each.reason for each in dead}
        rescued = self._feed.rescue(dead)
        for job in rescued:
            log.warning(
                "Job %s of database %s found dead in try %d: its worker %s (pid %s) is gone, %s; %s",
                job.uuid,
                self._name,
                job.retry,
                job.worker,
                job.worker_pid,
                reasons[job.key] or "nobody knows why",
                _AFTERWARDS.get(job.state, job.state),
            )
            if reasons[job.key] is None and job.worker_pid is not None:
                while len(self._unexplained) >= MOST_DEATHS:
                    del self._unexplained[next(iter(self._unexplained))]
                self._unexplained[job.worker_pid] = job.key
        return rescued

    def _explain(self) -> None:
        """The arbiter was later than the rescue."""
        while self._explicable:
            pid = self._explicable.pop()
            key, death = self._unexplained.pop(pid, None), self._deaths.of(None, pid)
            if key is not None and death is not None:
                self._feed.explain(key, death.reason, death.text or "")


def _look_again(watch: _Watch, now: float) -> float:
    """Often in the beginning, when its end is likely, and then ever more seldom."""
    return min(max((now - watch.since) / 10, _LOOK_LEAST), _LOOK_MOST)
