"""One database of the runner: connected or not, leading or standing by, and what it does while it leads.

It is a task of its own, so that a database that is slow or gone holds up nobody else. What it shares with the others
is the `Desk`: the queue of all databases, and the requests that are on their way.

The rows decide, always: a notice only says where to look, an answer only says when. A row that is ``started`` belongs
to a worker for as long as that worker holds its lock; when the lock is free, the try is over, whatever happened to
the worker.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Protocol

import psycopg2

from procman.core.restart import Pauses
from procman.errors import DatabaseSetupError, DatabaseUnavailable, NoDatabase
from procman.jobs.asking import Lookups
from procman.jobs.deaths import MOST as MOST_DEATHS
from procman.jobs.dialect import Dead, NoQueue, Offered
from procman.jobs.exchange import Ending
from procman.jobs.feed import Feed
from procman.jobs.leadership import NOBODY
from procman.jobs.scheduler import ENQUEUED, FAILED, PENDING, STARTED
from procman.jobs.tables import DATABASES_CHANNEL

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

# A worker needs a moment between `started` and its lock; a connection of one that died may live as long.
SECOND_LOOK = 2.0
# The end of a connection is seen before the arbiter has found out why its worker died, and told.
_REASON_PATIENCE = 0.2
_LOOK_LEAST, _LOOK_MOST = 0.05, 1.0
_OVER = ("done", "cancelled")
_PAUSE_FIRST, _PAUSE_MOST = 0.1, 1.0
BEAT_EVERY, BEAT_PATIENCE = 10.0, 5.0
ABSENT_FOR = 30.0
_AFTERWARDS = {
    "pending": "it is queued again",
    "failed": "it has failed, as it has no tries left",
    "cancelled": "it is cancelled, as another job of its identity key waits",
}
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


@dataclass(slots=True)
class _Watch:
    """A try that nobody of ours waits for. ``dead_since``: its worker is known to have died."""

    since: float
    host: str | None
    pid: int | None
    dead_since: float | None = None
    free_since: float | None = None
    try_of: datetime | None = None


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
        self._watched: dict[Key, _Watch] = {}
        self._unexplained: dict[int, Key] = {}  # by the pid of the worker: jobs that were rescued without a reason
        self._explicable: list[int] = []
        self._look_at = 0.0
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
        if any(watch.pid == pid for watch in self._watched.values()):
            self._look_at = 0.0
            self._wake()
        if pid in self._unexplained:
            self._explicable.append(pid)
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
        if self._watched:
            deadline = min(deadline, self._look_at)
        return min(deadline, self.feed.deadline, self._rest_at)

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
        self._watched.clear()
        self._unexplained.clear()
        self._explicable.clear()
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
        if self._watched and now >= self._look_at:
            self._look_after_watched()
            worked = True
        if self._explicable:
            self._explain()
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
                    self._watch(row, now)
            else:
                self._watched.pop(row.key, None)
            if row.state == ENQUEUED and not underway and found.first_sweep:
                orphans.append(row)
        for key in found.gone:
            self._watched.pop(key, None)
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

    def _release_children(self, found: Found) -> None:
        """Only the runner does: it looks at each job that is over anyway, and later than at its commit."""
        if over := [row.key for row in found.rows if row.awaited and row.state in _OVER]:
            self.feed.release_children(over)

    def _take_back(self, offers: Iterable[tuple[Key, datetime | None]]) -> None:
        taken = [Offered(key, "", at) for key, at in offers]
        self.feed.take_back(taken)
        self.feed.look_at(offer.key for offer in taken)

    # -- tries whose end nobody will tell ------------------------------------------------------------------

    def _watch(self, row: Row, now: float, *, broken: bool = False) -> None:
        watch = self._watched.setdefault(row.key, _Watch(now, row.worker_host, row.worker_pid))
        if broken and watch.dead_since is None:
            watch.dead_since = now
        self._look_at = now if broken else min(self._look_at, now + self._look_again(watch, now))

    def _look_again(self, watch: _Watch, now: float) -> float:
        """Often in the beginning, when its end is likely, and then ever more seldom."""
        return min(max((now - watch.since) / 10, _LOOK_LEAST), _LOOK_MOST)

    def _look_after_watched(self) -> None:
        """Rescue the tries that nobody works on: at once if the worker is known to be dead, else at the second look."""
        abandoned = self.feed.abandoned(list(self._watched))
        now = monotonic()
        dead = []
        for key, watch in self._watched.items():
            started = abandoned.get(key)
            if started is None or started != watch.try_of:
                watch.free_since = None if started is None else now
                watch.try_of = started
            if started is not None and (each := self._found_dead(key, watch, now)):
                dead.append(each)
        if dead:
            self._rescue(dead)
        # Those that are done by now are not watched any more when they have been read.
        self.feed.look_at(self._watched)
        self._look_at = now + min(self._look_again(watch, now) for watch in self._watched.values())

    def _found_dead(self, key: Key, watch: _Watch, now: float) -> Dead | None:
        """The try, which nobody holds the lock of, if it is certain enough that nobody will."""
        assert watch.try_of is not None
        death = self._desk.deaths.of(watch.host, watch.pid)
        if death is not None and death.at is not None:
            return Dead(key, watch.try_of, death.reason, death.text)
        for since, patience in ((watch.dead_since, _REASON_PATIENCE), (watch.free_since, SECOND_LOOK)):
            if since is not None and now - since >= patience:
                return Dead(key, watch.try_of, *(death[:2] if death is not None else ()))
        return None

    def _rescue(self, dead: Sequence[Dead]) -> None:
        reasons = {each.key: each.reason for each in dead}
        for job in self.feed.rescue(dead):
            self._desk.meter.rescued[self.database] += 1
            log.warning(
                "Job %s of database %s found dead in try %d: its worker %s (pid %s) is gone, %s; %s",
                job.uuid,
                self.name,
                job.retry,
                job.worker,
                job.worker_pid,
                reasons[job.key] or "nobody knows why",
                _AFTERWARDS.get(job.state, job.state),
            )
            self.feed.look_at([job.key])
            if reasons[job.key] is None and job.worker_pid is not None:
                while len(self._unexplained) >= MOST_DEATHS:
                    del self._unexplained[next(iter(self._unexplained))]
                self._unexplained[job.worker_pid] = job.key

    def _explain(self) -> None:
        """The arbiter was later than the rescue."""
        while self._explicable:
            pid = self._explicable.pop()
            key, death = self._unexplained.pop(pid, None), self._desk.deaths.of(None, pid)
            if key is not None and death is not None:
                self.feed.explain(key, death.reason, death.text or "")

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
                self._watch(row, monotonic(), broken=True)

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
