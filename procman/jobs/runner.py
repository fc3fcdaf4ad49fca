"""The job runner: reads what waits in every database, has it run by workers, and settles what becomes of it.

One thread that never waits but in `wait`. The rows decide, always: a notice only says where to look, an answer
only says when. A row that is ``started`` belongs to a worker for as long as that worker holds its lock; when the
lock is free, the try is over, whatever happened to the worker.

Nothing is lost when this process dies: what it has offered is found as ``enqueued``, what runs as ``started``.
"""

from __future__ import annotations

import logging
import select
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

import psycopg2

from procman import signaling
from procman.core.restart import Pauses
from procman.errors import DatabaseSetupError, DatabaseUnavailable, NoDatabase
from procman.jobs.exchange import Ending, Exchange
from procman.jobs.feed import SWEEP_EVERY, Feed
from procman.jobs.scheduler import ENQUEUED, PENDING, STARTED, Scheduler

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from procman.jobs.channels import Channel
    from procman.jobs.exchange import Target
    from procman.jobs.feed import Found, Row

log = logging.getLogger("procman.jobs")

MOST_EXCHANGES = 500
MOST_EVIDENCE = 20
# A worker needs a moment between `started` and its lock; a connection of one that died may live as long.
SECOND_LOOK = 2.0
_LOOK_EVERY = 1.0
_LOOK_SOON, _SOON = 0.1, 5.0
_PAUSE_FIRST, _PAUSE_MOST = 0.1, 1.0
_NAMES_EVERY = 30.0
_MOST_WAIT = 60.0

_AWAY = (DatabaseUnavailable, DatabaseSetupError, NoDatabase, psycopg2.Error)


@dataclass(slots=True)
class _Watch:
    """A try that nobody of ours waits for. ``dead``: its worker is known to have died."""

    since: float
    dead: bool
    free_since: float | None = None
    try_of: datetime | None = None


class _Link:
    """A database, and how well it can be reached."""

    def __init__(self, database: str, sweep_every: float) -> None:
        self.feed = Feed(database, sweep_every)
        self.watched: dict[int, _Watch] = {}
        self.look_at = 0.0
        self.retry_at = 0.0
        self.pauses = Pauses(_PAUSE_FIRST, _PAUSE_MOST)


class Runner:
    """``channels`` as `procman.jobs.channels.parse` returns them; ``target`` is who runs the jobs."""

    def __init__(self, channels: Mapping[str, Channel], target: Target, *, sweep_every: float = SWEEP_EVERY) -> None:
        self.scheduler = Scheduler(channels)
        self._target = target
        self._sweep_every = sweep_every
        self._links: dict[str, _Link] = {}
        self._names_at = 0.0
        self._exchanges: dict[tuple[str, int], Exchange] = {}
        self._evidence: dict[int, tuple[str, str]] = {}

    def keep_evidence(self, pid: int, reason: str, text: str) -> None:
        """The worker of this pid is about to be killed: why, and its stacks, for the row of the job that it is in."""
        while len(self._evidence) >= MOST_EVIDENCE:
            del self._evidence[next(iter(self._evidence))]
        self._evidence[pid] = reason, text

    # -- the loop ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of everything; jobs that run go on."""
        for exchange in self._exchanges.values():
            exchange.close()
        for link in self._links.values():
            link.feed.close()

    def turn(self) -> None:
        """Do what there is to do now."""
        now = monotonic()
        self._follow_names(now)
        for link in list(self._links.values()):
            with self._isolated(link):
                if not link.feed.connected:
                    self._connect(link, now)
                if link.feed.connected:
                    self._read(link)
                    self._look_after_watched(link)
        self._settle()
        self._dispatch()

    def wait(self, wake_fds: Iterable[int], most: float = _MOST_WAIT) -> None:
        """Wait until `turn` has something to do, or one of ``wake_fds`` is readable."""
        poll = select.poll()
        for fd in wake_fds:
            poll.register(fd, select.POLLIN)
        for link in self._links.values():
            if link.feed.fileno() >= 0:
                poll.register(link.feed.fileno(), select.POLLIN)
        exchanges = {}
        for exchange in self._exchanges.values():
            if exchange.fileno() >= 0:
                exchanges[exchange.fileno()] = exchange
                poll.register(exchange.fileno(), exchange.events)
        ready = {fd for fd, _ in poll.poll(1000 * min(most, self._seconds_to_wait()))}
        now = monotonic()
        for fd, exchange in exchanges.items():
            exchange.advance(now, ready=fd in ready)

    def _seconds_to_wait(self) -> float:
        if any(exchange.ending for exchange in self._exchanges.values()):
            return 0.0
        now = monotonic()
        deadlines = [self._names_at]
        deadlines += [exchange.deadline for exchange in self._exchanges.values() if exchange.deadline is not None]
        for link in self._links.values():
            if not link.feed.connected:
                deadlines.append(link.retry_at)
            elif link.feed.has_more:
                return 0.0
            else:
                deadlines.append(link.feed.deadline)
                if link.watched:
                    deadlines.append(link.look_at)
        deadlines.append(self._next_start(now))
        return max(0.0, min(deadlines) - now)

    def _next_start(self, now: float) -> float:
        if self._target.closed_until > now:
            return self._target.closed_until
        deadline = self.scheduler.deadline(now)
        return now + _MOST_WAIT if deadline is None else deadline

    # -- databases -----------------------------------------------------------------------------------------

    def _follow_names(self, now: float) -> None:
        """Take up databases that have come, let go of those that went."""
        if now < self._names_at:
            return
        self._names_at = now + _NAMES_EVERY
        try:
            names = signaling.databases()
        except _AWAY as error:
            log.warning("The databases can't be listed: %s", _line(error))
            self._names_at = now + _PAUSE_MOST
            return
        for name in set(self._links) - set(names):
            self._forget(self._links.pop(name))
            log.info("Database %s: not served any more", name)
        for name in names:
            if name not in self._links:
                self._links[name] = _Link(name, self._sweep_every)

    def _connect(self, link: _Link, now: float) -> None:
        if now < link.retry_at:
            return
        link.feed.connect()
        log.info("Database %s: waiting for jobs", link.feed.database)

    @contextmanager
    def _isolated(self, link: _Link) -> Iterator[None]:
        """What goes wrong with one database in this block is no matter of the others."""
        try:
            yield
        except _AWAY as error:
            self._forget(link)
            pause = link.pauses.next()
            link.retry_at = monotonic() + pause
            log.warning("Database %s lost, next try in %.1f s: %s", link.feed.database, pause, _line(error))
        else:
            if link.feed.connected and link.feed.swept:
                link.pauses.over()

    def _forget(self, link: _Link) -> None:
        # The exchanges go on: when the database is back, its rows say what they are about.
        link.feed.close()
        link.watched.clear()
        self.scheduler.remove_database(link.feed.database)

    # -- rows ----------------------------------------------------------------------------------------------

    def _read(self, link: _Link) -> None:
        feed = link.feed
        feed.take_notices()
        failed_matter = self.scheduler.is_sequential if self.scheduler.has_sequential else None
        self._take_rows(link, feed.read(self.scheduler.jobs(feed.database), failed_matter))

    def _take_rows(self, link: _Link, found: Found) -> None:
        database = link.feed.database
        now = monotonic()
        orphans = []
        for row in found.rows:
            self.scheduler.put(row.job(database, now))
            if row.state == STARTED:
                if (database, row.id) not in self._exchanges:
                    self._watch(link, row.id, now, dead=False)
            else:
                link.watched.pop(row.id, None)
            if row.state == ENQUEUED and (database, row.id) not in self._exchanges and found.first_sweep:
                orphans.append(row.id)
        for id in found.gone:  # noqa: A001
            link.watched.pop(id, None)
            self.scheduler.remove(database, id)
        if orphans:
            # Of a runner that is no more. If a worker still gets to the request, it finds the job not enqueued, or
            # enqueued anew: it runs once in either case.
            log.info("Database %s: %d jobs that were on their way are offered again", database, len(orphans))
            link.feed.take_back(orphans)
            link.feed.look_at(orphans)

    def _watch(self, link: _Link, id: int, now: float, *, dead: bool) -> None:  # noqa: A002
        watch = link.watched.setdefault(id, _Watch(now, dead))
        watch.dead = watch.dead or dead
        if dead:
            link.look_at = now
        elif link.look_at > now:
            link.look_at = min(link.look_at, now + self._look_again(watch, now))

    def _look_again(self, watch: _Watch, now: float) -> float:
        return _LOOK_SOON if watch.dead and now - watch.since < _SOON else _LOOK_EVERY

    def _look_after_watched(self, link: _Link) -> None:
        """Rescue the tries that nobody works on: at once if the worker is known to be dead, else at the second look."""
        now = monotonic()
        if not link.watched or now < link.look_at:
            return
        abandoned = link.feed.abandoned(list(link.watched))
        dead = []
        for id, watch in link.watched.items():  # noqa: A001
            started = abandoned.get(id)
            if started is None or started != watch.try_of:
                watch.free_since = None if started is None else now
                watch.try_of = started
            if started is not None and (watch.dead or now - (watch.free_since or now) >= SECOND_LOOK):
                dead.append((id, started))
        if dead:
            self._rescue(link, dead)
        # Those that are done by now are not watched any more when they have been read.
        link.feed.look_at(link.watched)
        link.look_at = now + min(self._look_again(watch, now) for watch in link.watched.values())

    def _rescue(self, link: _Link, tries: Sequence[tuple[int, datetime]]) -> None:
        for job in link.feed.rescue(tries):
            log.warning(
                "Job %s of database %s found dead with its worker %s (%s) after try %d: %s",
                job.uuid,
                link.feed.database,
                job.worker,
                job.worker_pid,
                job.retry,
                job.state,
            )
            if job.worker_pid in self._evidence:
                reason, text = self._evidence.pop(job.worker_pid)
                link.feed.explain(job.id, reason, text)
            link.feed.look_at([job.id])

    # -- starting jobs, and what becomes of them -------------------------------------------------------------

    def _dispatch(self) -> None:
        now = monotonic()
        if self._target.closed_until > now:
            return
        chosen: dict[str, list[int]] = {}
        room = MOST_EXCHANGES - len(self._exchanges)
        while room > 0 and (job := self.scheduler.next(now)):
            chosen.setdefault(job.database, []).append(job.id)
            room -= 1
        for database, ids in chosen.items():
            link = self._links[database]
            with self._isolated(link):
                offered = link.feed.offer(ids)
                # The others have been cancelled, postponed or taken meanwhile.
                link.feed.look_at(set(ids) - {each[0] for each in offered})
                # In the order of the choice, which UPDATE does not keep.
                order = {id: position for position, id in enumerate(ids)}  # noqa: A001
                for id, uuid, at in sorted(offered, key=lambda each: order[each[0]]):  # noqa: A001
                    self._begin(Exchange(self._target, database, id, uuid, at))

    def _begin(self, exchange: Exchange) -> None:
        key = exchange.database, exchange.id
        if key in self._exchanges:
            # The row went back to the queue while its worker went on: what that one answers is of no interest.
            self._exchanges[key].close()
        self._exchanges[key] = exchange
        exchange.advance(monotonic(), ready=False)

    def _settle(self) -> None:
        """Look at the rows of the exchanges that have ended."""
        ended: dict[str, list[Exchange]] = {}
        for key, exchange in list(self._exchanges.items()):
            if exchange.ending is not None:
                del self._exchanges[key]
                ended.setdefault(exchange.database, []).append(exchange)
        for database, exchanges in ended.items():
            link = self._links.get(database)
            if link is not None and link.feed.connected:
                with self._isolated(link):
                    self._settle_in(link, {exchange.id: exchange for exchange in exchanges})

    def _settle_in(self, link: _Link, exchanges: dict[int, Exchange]) -> None:
        found = link.feed.read_now(list(exchanges))
        self._take_rows(link, found)
        not_begun = [row for row in found.rows if row.state == ENQUEUED and _is_of(row, exchanges[row.id])]
        if not_begun:
            self._refused(link, [exchanges[row.id] for row in not_begun])
        elif any(row.state not in (ENQUEUED, PENDING) for row in found.rows) and self._target.accepted():
            log.info("Jobs are taken again by %s", self._target)
        for row in found.rows:
            # Who hangs up without an answer has died. From behind a proxy that is not certain.
            if row.state == STARTED and exchanges[row.id].ending is Ending.BROKEN and self._target.own:
                self._watch(link, row.id, monotonic(), dead=True)
        self._look_after_watched(link)

    def _refused(self, link: _Link, exchanges: Sequence[Exchange]) -> None:
        """Jobs that nobody has begun go back as they were; whoever did not take them is left alone for a while."""
        ids = [exchange.id for exchange in exchanges]
        link.feed.take_back(ids)
        link.feed.look_at(ids)
        first = exchanges[0]
        told = log.warning if self._target.refused(monotonic()) else log.debug
        told("%d jobs were not taken by %s: %s (%s)", len(ids), self._target, first.detail, _word(first.ending))


def _is_of(row: Row, exchange: Exchange) -> bool:
    return row.date_enqueued == exchange.offered


def _word(ending: Ending | None) -> str:
    return "" if ending is None else ending.value


def _line(error: BaseException) -> str:
    return str(error).strip() or type(error).__name__
