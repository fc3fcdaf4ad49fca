"""One database of the runner: connected or not, leading or standing by, and what it does while it leads.

It is a task of its own, so that a database that is slow or gone holds up nobody else. What it shares with the others
is the `Desk`: the queue of all databases, and the requests that are on their way.

The rows decide, always: a notice only says where to look, an answer only says when. A row that is ``started`` belongs
to a worker for as long as that worker holds its lock; when the lock is free, the try is over, whatever happened to
the worker.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Protocol

import psycopg2

from procman.core.restart import Pauses
from procman.errors import DatabaseSetupError, DatabaseUnavailable, NoDatabase
from procman.jobs.asking import Lookups
from procman.jobs.dialect import NoQueue, Offered
from procman.jobs.exchange import Ending
from procman.jobs.feed import Feed
from procman.jobs.leadership import NOBODY
from procman.jobs.scheduler import ENQUEUED, FAILED, PENDING, STARTED
from procman.jobs.tables import DATABASES_CHANNEL
from procman.jobs.tries import Tries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from procman.jobs.deaths import Deaths
    from procman.jobs.dialect import Dialect, Key, Row
    from procman.jobs.exchange import Exchange, Target
    from procman.jobs.feed import Found
    from procman.jobs.hub import Task
    from procman.jobs.meter import Meter
    from procman.jobs.scheduler import Scheduler

log = logging.getLogger("procman.jobs")

AWAY = (DatabaseUnavailable, DatabaseSetupError, NoDatabase, psycopg2.Error)

_OVER = ("done", "cancelled")
_PAUSE_FIRST, _PAUSE_MOST = 0.1, 1.0
BEAT_EVERY, BEAT_PATIENCE = 10.0, 5.0
ABSENT_FOR = 30.0
_REST_EVERY = 5.0  # for what has failed to be counted again


class Desk(Protocol):
    """What the links share."""

    scheduler: Scheduler
    target: Target
    deaths: Deaths
    meter: Meter

    def begin(self, database: str, offers: Sequence[Offered]) -> None:
        """Ask a worker to run a job, or several in one request."""

    def is_underway(self, database: str, key: Key) -> bool:
        """Whether a worker has been asked for it and has not answered yet."""

    def dispatch(self) -> None:
        """See which jobs can be started now, and give them to their links."""

    def follow(self) -> None:
        """Find out now which databases there are."""

    def paused(self, database: str, channels: dict[str, bool]) -> None:
        """What this database says of channels while everything runs."""


class Link:
    """A queue of ``database`` is served by its `run`; the desk puts jobs into ``chosen``, exchanges into ``ended``.

    ``name`` is what the scheduler and the log call it: that of the database, as long as it has one queue.
    """

    def __init__(self, desk: Desk, name: str, database: str, dialect: Dialect, sweep_every: float) -> None:
        self.name = name
        self.database = database
        self.feed = Feed(database, dialect, sweep_every)
        self.standing = NOBODY
        self.task: Task | None = None
        self._desk = desk
        self._chosen: list[Sequence[Key]] = []  # each of them is to be a request
        self._chosen_keys: set[Key] = set()
        self._offering = 0
        self._ended: dict[Key, Exchange] = {}
        self._tries = Tries(name, self.feed, desk.deaths)
        self._strays: dict[Key, datetime | None] = {}  # offered, though nobody here knows of a request
        self._beat_at = 0.0
        self._beaten = False
        self._channels_at = 0.0
        self._term: object = None
        self._leaving = False
        self._is_absent = False
        self._pauses = Pauses(_PAUSE_FIRST, _PAUSE_MOST)
        self._problem: str | None = None
        self._lookups = Lookups()
        self.resting: dict[tuple[str, str], int] = {}
        self._rest_at = 0.0

    # -- for the desk --------------------------------------------------------------------------------------

    @property
    def starting(self) -> int:
        """Requests that are to be made: their jobs were chosen, and no worker has been asked yet."""
        return len(self._chosen) + self._offering

    def choose(self, keys: Sequence[Key]) -> None:
        """Have these jobs started, in one request."""
        self._chosen.append(keys)
        self._chosen_keys.update(keys)
        self._wake()

    def answered(self, exchange: Exchange) -> None:
        """A worker has answered, or can't any more."""
        self._ended.update({offered.key: exchange for offered in exchange.offers})
        self._wake()

    @property
    def settled(self) -> bool:
        """It is known who leads, or why the database can't be had."""
        return self.standing.again > 0 or self._problem is not None

    def look_up(self, uuid: str, then: Callable[[Key | None], object]) -> None:
        """Hand ``then`` the key of a job, or None: there is none, or the database can't be asked."""
        if self.task is None or not self.feed.connected:
            then(None)
            return
        self._lookups.add(uuid, then)
        self._wake()

    def state(self) -> dict[str, str | None]:
        """Whether its jobs are started from here, and why not, for people and programs."""
        if self._problem is not None:
            state = "absent" if self._is_absent else "down"
        elif self.standing.leads(monotonic()):
            state = "leads"
        else:
            state = "stands by" if self.standing.other else "starting"
        return {"state": state, "leader": self.standing.other or None, "problem": self._problem}

    def look_after(self, pid: int) -> None:
        """The worker of this pid has ended: look after its jobs now, or, if it has led, after the lease."""
        if self._term is None:
            self.standing = self.standing._replace(again=0.0)
            self._wake()
        if self._tries.ended(pid):
            self._wake()

    def look_at_all(self) -> None:
        """Read all that matters again."""
        self.feed.sweep()
        self._wake()

    def _wake(self) -> None:
        if self.task is not None:
            self.task.wake()

    # -- its life ------------------------------------------------------------------------------------------

    def run(self, task: Task) -> None:
        """Serve the database, for as long as it is there, and whenever it is."""
        self.task = task
        try:
            while not self._leaving:
                try:
                    self._serve(task)
                    return
                except NoQueue as missing:
                    retry_at = self._absent(missing)
                except AWAY as error:
                    retry_at = self._lost(error)
                while monotonic() < retry_at and not self._leaving:
                    task.pause(retry_at)
        finally:
            self.task = None
            self._let_go()
            self.feed.close()

    def _serve(self, task: Task) -> None:
        self.feed.connect()
        self._is_absent, self._problem = False, None
        log.info("Database %s: waiting for jobs", self.name)
        self._beat_at, self._beaten = monotonic(), False
        while not self._leaving:
            if monotonic() >= self.standing.again:
                self._claim()
            if monotonic() >= self._beat_at:
                self._beat(task)
            self._take_notices()
            self._lookups.carry_out(self.feed.find)
            if not (self.standing.leads(monotonic()) and self._work()) and not self.feed.has_notices:
                task.pause(self._deadline(), self.feed.fileno())
        if self._term is not None:
            self.feed.release()

    def _deadline(self) -> float:
        deadline = min(self.standing.again, self._beat_at)
        if not self.standing.leads(monotonic()):
            return deadline
        return min(deadline, self._tries.deadline, self.feed.deadline, self._rest_at)

    def _absent(self, error: NoQueue) -> float:
        """The database has no such queue: when to look again."""
        self._let_go()
        self.feed.close()
        told = log.debug if self._is_absent else log.info
        told("Database %s: %s", self.name, error)
        self._is_absent, self._problem = True, str(error)
        return monotonic() + ABSENT_FOR

    def _lost(self, error: BaseException) -> float:
        """The database can't be reached: when to try again."""
        self._let_go()
        self.feed.close()
        pause = self._pauses.next()
        # Ever more seldom: a database that is gone for good would fill the log.
        told = log.debug if self._pauses.failures & (self._pauses.failures - 1) else log.warning
        told("Database %s lost, next try in %.1f s: %s", self.name, pause, _line(error))
        self._problem = " ".join(_line(error).split())
        self._desk.follow()
        return monotonic() + pause

    def _let_go(self) -> None:
        """Forget the jobs. Requests that are on their way go on: the rows will say what has become of them."""
        self.standing, self._term = NOBODY, None
        self._chosen.clear()
        self._chosen_keys.clear()
        self._offering = 0
        self._ended.clear()
        self._tries.clear()
        self._strays.clear()
        self._lookups.give_up()
        self.resting = {}
        self._rest_at = 0.0
        self._desk.scheduler.remove_database(self.name)
        self._desk.paused(self.name, {})

    # -- leading -------------------------------------------------------------------------------------------

    def _claim(self) -> None:
        before, standing = self.standing, self.feed.claim()
        self.standing = standing
        if not standing.until:
            if self._term is not None or before is NOBODY:
                log.info("Database %s: %s starts its jobs", self.name, standing.other or "another one")
            if self._term is not None:
                self._let_go()
                self.standing = standing
        elif self._term is None or standing.term != self._term:
            if self._term is not None:
                self._let_go()
                self.standing = standing
            self._term = standing.term
            log.info("Database %s: this one starts its jobs", self.name)
            self.feed.begin()
            self._channels_at = 0.0

    def leave(self) -> None:
        """Start nothing more, and let another runner lead, at once."""
        self._leaving = True
        self._wake()

    def _beat(self, task: Task) -> None:
        task.patience, patience = BEAT_PATIENCE, task.patience
        try:
            self.feed.beat()
        finally:
            task.patience = patience
        # The second beat tells whether the first one was heard.
        self._beat_at = monotonic() + (BEAT_EVERY if self._beaten else min(BEAT_EVERY, 1.0))
        self._beaten = True

    def _take_notices(self) -> None:
        for other in self.feed.take_notices():
            if other == self.feed.dialect.settings:
                self._channels_at = 0.0
            elif other == DATABASES_CHANNEL:
                self._desk.follow()
            elif not self.standing.leads(monotonic()):
                self.standing = self.standing._replace(again=0.0)

    def _work(self) -> bool:
        """Do what there is to do, once around; whether there was anything."""
        now = monotonic()
        worked = False
        if self._ended:
            self._settle()
            worked = True
        if now >= self._tries.deadline:
            self._look_after_tries()
            worked = True
        if now >= self._channels_at:
            self._desk.paused(self.name, self.feed.paused())
            self._channels_at = now + self.feed.sweep_every
            worked = True
        if self.feed.has_more or now >= self.feed.deadline:
            self._read()
            worked = True
        if now >= self._rest_at and self.feed.swept:
            self.resting = self.feed.resting()
            self._rest_at = now + self.feed.sweep_every
        if worked:
            self._desk.dispatch()
        if self._chosen and self.standing.leads(monotonic()):
            self._offer()
            worked = True
        return worked

    # -- rows ----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        scheduler = self._desk.scheduler
        failed_matter = scheduler.is_sequential if scheduler.has_sequential else None
        self._take_rows(self.feed.read(scheduler.keys(self.name), failed_matter))
        if self.feed.swept:
            self._pauses.over()

    def _take_rows(self, found: Found) -> None:
        now = monotonic()
        orphans = []
        for row in found.rows:
            if row.state == PENDING and self._is_older(row, found):
                continue
            self._desk.scheduler.put(row.job(self.name, now))
            underway = self._desk.is_underway(self.name, row.key)
            if row.state == STARTED:
                if not underway:
                    self._tries.watch(row)
            else:
                self._tries.forget(row.key)
            if row.state != ENQUEUED or underway:
                self._strays.pop(row.key, None)
            elif self._is_orphan(row, found):
                orphans.append(row)
        for key in found.gone:
            self._tries.forget(key)
            self._strays.pop(key, None)
            self._desk.scheduler.remove(self.name, key)
        self._release_children(found)
        if orphans:
            # Of a runner that is no more. If a worker still gets to the request, it finds the job not enqueued, or
            # enqueued anew: it runs once in either case.
            log.info("Database %s: %d jobs that were on their way are offered again", self.name, len(orphans))
            self._take_back([(row.key, row.date_enqueued) for row in orphans])

    def _is_older(self, row: Row, found: Found) -> bool:
        """More is known of the job than the row says: it was chosen while that was being read, or told."""
        return row.key in self._chosen_keys or (found.told and self._desk.scheduler.get(self.name, row.key) is not None)

    def _is_orphan(self, row: Row, found: Found) -> bool:
        """Offered by a runner that is no more; or by one that was stopped in the middle of that, or by hand."""
        if found.first_sweep or self._strays.get(row.key, "") == row.date_enqueued:
            self._strays.pop(row.key, None)
            return True
        self._strays[row.key] = row.date_enqueued
        return False

    def _look_after_tries(self) -> None:
        rescued = self._tries.look_after()
        self._desk.meter.rescued[self.database] += len(rescued)
        self.feed.look_at(job.key for job in rescued)

    def _release_children(self, found: Found) -> None:
        """Only the runner does: it looks at each job that is over anyway, and later than at its commit."""
        if over := [row.key for row in found.rows if row.awaited and row.state in _OVER]:
            self.feed.release_children(over)

    def _take_back(self, offers: Iterable[tuple[Key, datetime | None]]) -> None:
        taken = [Offered(key, "", at) for key, at in offers]
        self.feed.take_back(taken)
        self.feed.look_at(offer.key for offer in taken)

    # -- starting jobs, and what becomes of them -------------------------------------------------------------

    def _offer(self) -> None:
        chosen, self._chosen = self._chosen, []
        self._chosen_keys.clear()
        self._offering = len(chosen)
        keys = [key for request in chosen for key in request]
        offered = {offer.key: offer for offer in self.feed.offer(keys)}
        self._offering = 0
        # The others have been cancelled, postponed or taken meanwhile, or this one does not lead any more.
        self.feed.look_at(set(keys) - set(offered))
        if not offered:
            self.standing = self.standing._replace(again=0.0)
        # In the order of the choice, which UPDATE does not keep.
        for request in chosen:
            offers = [offered[key] for key in request if key in offered]
            if offers:
                self._desk.begin(self.name, offers)

    def _settle(self) -> None:
        """Look at the rows of the exchanges that have ended."""
        exchanges, self._ended = self._ended, {}
        found = self.feed.read_now(list(exchanges))
        self._take_rows(found)
        self._desk.meter.settled(found.rows)
        if any(row.state == FAILED or row.awaited for row in found.rows):
            self._rest_at = min(self._rest_at, monotonic() + _REST_EVERY)
        target = self._desk.target
        not_begun = [row for row in found.rows if row.state == ENQUEUED and _is_of(row, exchanges[row.key])]
        if not_begun:
            offers = [Offered(row.key, "", row.date_enqueued) for row in not_begun]
            self._refused(offers, exchanges[not_begun[0].key])
        elif any(row.state not in (ENQUEUED, PENDING) for row in found.rows) and target.accepted():
            log.info("Jobs are taken again by %s", target)
        for row in found.rows:
            # Who hangs up without an answer has died, if it was no proxy. And if its lock is free, it is certain.
            if row.state == STARTED and exchanges[row.key].ending is Ending.BROKEN:
                self._tries.watch(row, broken=True)

    def _refused(self, offers: Sequence[Offered], first: Exchange) -> None:
        """Jobs that nobody has begun go back as they were; whoever did not take them is left alone for a while."""
        self._take_back([(offered.key, offered.at) for offered in offers])
        self._desk.meter.refused[first.word] += len(offers)
        told = log.warning if self._desk.target.refused(monotonic()) else log.debug
        jobs = "1 job was" if len(offers) == 1 else f"{len(offers)} jobs were"
        told("%s not taken by %s, and offered again: %s (%s)", jobs, self._desk.target, first.detail, first.word)


def _is_of(row: Row, exchange: Exchange) -> bool:
    return any(row.key == offered.key and row.date_enqueued == offered.at for offered in exchange.offers)


def _line(error: BaseException) -> str:
    return str(error).strip() or type(error).__name__
