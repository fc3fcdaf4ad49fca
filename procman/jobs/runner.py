"""The job runner: one queue over all databases, in memory, and workers that are asked to run what is first in it.

One thread that waits in one place (`procman.jobs.hub`). Each database is served by a `Link` of its own; here is what
they share: the scheduler, which decides, the requests that are on their way, and who can take them.

Nothing is lost when this process dies: what it has offered is found as ``enqueued``, what runs as ``started``.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING

from procman import signaling
from procman.core.spec import JobQueue
from procman.jobs.capacity import LOOK_EVERY, Capacity
from procman.jobs.deaths import Deaths
from procman.jobs.exchange import Exchange
from procman.jobs.feed import SWEEP_EVERY
from procman.jobs.hub import READ, Hub
from procman.jobs.link import AWAY, Desk, Link
from procman.jobs.meter import Meter
from procman.jobs.oca.dialect import QueueJob
from procman.jobs.scheduler import Scheduler
from procman.jobs.tables import Tables
from procman.jobs.vacuum import EVERY as TIDY_EVERY
from procman.jobs.vacuum import Housekeeper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from procman.core.channels import Channel
    from procman.jobs.dialect import Dialect, Key, Offered
    from procman.jobs.exchange import Target
    from procman.jobs.hub import Task
    from procman.jobs.vacuum import Ages

log = logging.getLogger("procman.jobs")

# In one request: each has a lock of its own in the server's table (max_locks_per_transaction, 19.12).
MOST_BATCH = 100

_NAMES_EVERY = 30.0
_NAMES_PAUSE = 1.0
_MOST_WAIT = 60.0
_LEAVE_PATIENCE = 1.0


class Runner(Desk):
    """``channels`` as `procman.core.channels.parse` returns them; ``target`` is who runs the jobs.

    ``worker`` is the name of this one, for people. ``queues`` are those that are served where a database has them.
    ``ages`` says how long jobs that are over are kept; without, for ever.
    """

    def __init__(
        self,
        channels: Mapping[str, Channel],
        target: Target,
        *,
        capacity: Capacity | None = None,
        worker: str = "",
        sweep_every: float = SWEEP_EVERY,
        queues: Sequence[JobQueue] = (JobQueue.PROCMAN,),
        ages: Ages | None = None,
        tidy_every: float = TIDY_EVERY,
    ) -> None:
        self.scheduler = Scheduler(channels)
        self.target = target
        self.capacity = Capacity() if capacity is None else capacity
        self.deaths = Deaths()
        self.meter = Meter()
        self._worker = worker
        self.links: dict[str, Link] = {}
        self._sweep_every = sweep_every
        self._queues = queues
        self._hub = Hub()
        self._exchanges: dict[tuple[str, Key], Exchange] = {}  # by each of their jobs
        self._underway = 0
        self._paused: dict[str, dict[str, bool]] = {}
        self._listed = False
        self._blocked = False
        self._awake = False
        self._wake_fds: tuple[int, ...] = ()
        self._follower = self._hub.spawn(self._follow_names)
        if ages is not None:
            self._hub.spawn(Housekeeper(self.links, ages, tidy_every).run)

    # -- the loop ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of everything; jobs that run go on."""
        for exchange in set(self._exchanges.values()):
            exchange.close()
        self._hub.close()

    def turn(self, wake_fds: tuple[int, ...] = (), most: float = _MOST_WAIT) -> bool:
        """Wait until there is something to do, for so many seconds at most, and do it.

        Whether one of ``wake_fds`` was readable, which may be closed before the next turn if it is not among them then.
        """
        if wake_fds != self._wake_fds:
            self._watch(wake_fds)
        self._awake = False
        self.dispatch()
        now = monotonic()
        self._hub.run(min(now + most, self._next_start(now)) - now)
        return self._awake

    def _watch(self, wake_fds: tuple[int, ...]) -> None:
        for fd in self._wake_fds:
            self._hub.unwatch(fd)
        self._wake_fds = wake_fds
        for fd in wake_fds:
            self._hub.watch(fd, READ, self._wake)

    def _wake(self) -> None:
        self._awake = True

    @property
    def worked(self) -> float:
        """For how many seconds it has done something, and not waited."""
        return self._hub.worked

    def _next_start(self, now: float) -> float:
        if self.target.closed_until > now:
            return self.target.closed_until
        deadline = self.scheduler.deadline(now)
        latest = now + (LOOK_EVERY if self._blocked else _MOST_WAIT)
        return latest if deadline is None else min(latest, deadline)

    @property
    def settled(self) -> bool:
        """Each database is led, or stood by for, or can't be had."""
        return self._listed and all(link.settled for link in self.links.values())

    def leave(self) -> None:
        """Start nothing more, and let other runners lead, at once."""
        for link in self.links.values():
            link.leave()
        deadline = monotonic() + _LEAVE_PATIENCE
        while any(link.task is not None for link in self.links.values()) and monotonic() < deadline:
            self._hub.run(deadline - monotonic())

    # -- databases -----------------------------------------------------------------------------------------

    def _follow_names(self, task: Task) -> None:
        """Take up databases that have come, let go of those that went."""
        while True:
            pause = _NAMES_EVERY
            try:
                self._serve(signaling.databases(now=True))
            except AWAY as error:
                log.warning("The databases can't be listed: %s", str(error).strip())
                pause = _NAMES_PAUSE
            self._listed = True
            asked = monotonic()
            task.pause(asked + pause)
            while monotonic() < asked + _NAMES_PAUSE:
                task.pause(asked + _NAMES_PAUSE)

    def follow(self) -> None:
        self._follower.wake()

    def _serve(self, databases: Sequence[str]) -> None:
        wanted = {self._name(database, queue): (database, queue) for database in databases for queue in self._queues}
        for name in self.links.keys() - wanted.keys():
            link = self.links.pop(name)
            if link.task is not None:
                link.task.end()
            log.info("Database %s: not served any more", name)
        for name, (database, queue) in wanted.items():
            if name not in self.links:
                self.links[name] = link = Link(self, name, database, self._dialect(queue), self._sweep_every)
                self._hub.spawn(link.run)

    def _name(self, database: str, queue: JobQueue) -> str:
        return database if queue == self._queues[0] else f"{database} ({queue})"

    def _dialect(self, queue: JobQueue) -> Dialect:
        if queue == JobQueue.QUEUE_JOB:
            return QueueJob(self.deaths if self.target.own else None)
        return Tables(self._worker)

    # -- what the links share ------------------------------------------------------------------------------

    def dispatch(self) -> None:
        now = monotonic()
        if self.target.closed_until > now:
            return
        room = self.room()
        # Others than our own workers know nothing of several jobs in a request.
        most = MOST_BATCH if self.target.own else 1
        while room > 0 and (jobs := self.scheduler.next_batch(now, most)):
            self.links[jobs[0].database].choose([job.key for job in jobs])
            room -= 1
        # Users come and go without a word, so it is looked for room again and again, while something waits for it.
        self._blocked = room <= 0 and self.capacity.shared and self.scheduler.waiting > 0

    def room(self) -> int:
        """How many more requests can be made, as far as there are workers for them."""
        return self.capacity.room(self.underway)

    @property
    def underway(self) -> int:
        """How many requests there are that workers have not answered yet, or are about to get."""
        return self._underway + sum(link.starting for link in self.links.values())

    def begin(self, database: str, offers: Sequence[Offered]) -> None:
        for offered in offers:
            # The row went back to the queue while its worker went on: what that one answers is of no interest.
            self._forget(database, offered.key)
        link = self.links[database]
        uuids = ",".join(offered.uuid for offered in offers)
        request = self.target.request(link.database, uuids, link.feed.dialect.fields(link.database))
        exchange = Exchange(self._hub, self.target, database, request, offers, self._answered)
        self._exchanges.update({(database, offered.key): exchange for offered in offers})
        self._underway += 1
        exchange.begin()

    def _forget(self, database: str, key: Key) -> None:
        exchange = self._exchanges.pop((database, key), None)
        if exchange is not None and not any(self._is_of(offered, exchange) for offered in exchange.offers):
            self._underway -= 1
            exchange.close()

    def _is_of(self, offered: Offered, exchange: Exchange) -> bool:
        return self._exchanges.get((exchange.database, offered.key)) is exchange

    def _answered(self, exchange: Exchange) -> None:
        exchange.offers = [offered for offered in exchange.offers if self._is_of(offered, exchange)]
        for offered in exchange.offers:
            del self._exchanges[exchange.database, offered.key]
        self._underway -= 1
        link = self.links.get(exchange.database)
        if link is not None:
            link.answered(exchange)

    def is_underway(self, database: str, key: Key) -> bool:
        return (database, key) in self._exchanges

    def paused(self, database: str, channels: dict[str, bool]) -> None:
        """A channel is shared by all databases: one that is paused in any of them is paused."""
        before = self._said()
        self._paused[database] = channels
        after = self._said()
        for name in before.keys() | after.keys():
            if before.get(name) != after.get(name):
                self._pause(name, after.get(name))

    def _pause(self, channel: str, paused: bool | None) -> None:
        if paused is None:
            self.scheduler.follow_configuration(channel)
        elif paused:
            self.scheduler.pause(channel)
        else:
            self.scheduler.resume(channel)
        log.info("Channel %s: %s", channel, {True: "paused", False: "going on", None: "as configured"}[paused])

    def _said(self) -> dict[str, bool]:
        said: dict[str, bool] = {}
        for channels in self._paused.values():
            for name, paused in channels.items():
                said[name] = said.get(name, False) or paused
        return said

    def configure(self, channels: Mapping[str, Channel]) -> None:
        """Go by these channels from now on; what runs goes on, and what waits goes on waiting."""
        self.scheduler.configure(channels)
        for link in self.links.values():
            link.look_at_all()  # what has failed may hold up others now
        log.info("The channels are configured anew: there are %d", len(channels))

    # -- what the arbiter tells ----------------------------------------------------------------------------

    def worker_ended(self, pid: int, reason: str) -> None:
        """The worker of this pid has ended."""
        self.deaths.ended(pid, reason)
        for link in self.links.values():
            link.look_after(pid)
