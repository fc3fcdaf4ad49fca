"""One run of an entry: claim, work and next call in one transaction.

The claim is a row lock of the unit's own transaction, so there is no instant in which the work is done and not
recorded, or recorded and not done, whoever is killed when. A savepoint after the claim lets a failure be recorded
under the same lock: a tick that has failed is not another worker's to fail on.

REPEATABLE READ makes a claim tell when it comes too late: a row that somebody has moved on since our snapshot
can't be locked (PostgreSQL, 13.2.2), SQLSTATE 40001.

Beside the claim, and before the function is called, the attempt is committed (`history`): what has killed its worker
is known by it, however often it does.
"""

from __future__ import annotations

import logging
import random
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.errors

from procman import signaling
from procman.crontab import call as calls
from procman.crontab import history, policy, schedule, store
from procman.crontab.call import Call
from procman.crontab.policy import Cause
from procman.errors import LOST_AGAINST_ANOTHER, DatabaseUnavailable, UnitAborted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from procman.crontab.entries import Entry
    from procman.crontab.history import Who
    from procman.crontab.policy import Course, Terms
    from procman.crontab.store import Outlook, Report, Tick
    from procman.signaling import Unit

log = logging.getLogger("procman.cron")

MOST_ATTEMPTS = 5
_PAUSE = 0.02  # seconds before the second attempt; doubled each time, with full jitter
_KEPT_FOR_US = 10.0  # seconds for which nobody else takes an entry between two portions; it takes milliseconds


@dataclass(slots=True)
class Post:
    """Where a worker stands: its database, what it can run there, and what it can't.

    ``beside`` gives a cursor in autocommit mode, apart from the unit's connection. ``keep``: that many successful runs
    of each entry stay in its history.
    """

    database: str
    entries: Mapping[str, Entry]
    who: Who
    keep: int
    beside: Callable[[], Any]
    foreign: list[str]


def claim(post: Post) -> Run | Outlook:
    """Claim what has been due for longest; or else what lies ahead.

    With a `Run` its unit has begun and is the current one; `Run.open`, `Run.perform` or `Run.aborted` ends it. Raises
    DatabaseUnavailable, and psycopg2.Error when the table can't be used.
    """
    while True:
        unit = signaling.begin(post.database)
        try:
            cursor = unit.cursor()
            tick = store.claim(cursor, post.foreign)
            if tick is None:
                found = store.outlook(cursor, post.foreign)
            elif tick.name in post.entries:
                return Run(post, tick, unit)
            else:
                post.foreign = store.foreign(cursor, post.entries)
        except psycopg2.errors.SerializationFailure:
            # Another worker was faster: it has moved on, and so have we when this comes again.
            unit.rollback()
            continue
        except BaseException:
            unit.rollback()
            raise
        unit.rollback()
        if tick is None:
            return found


class _Lost(Exception):
    """The attempt was rolled back through no fault of the function's; its cause tells."""


class Run:
    """A claimed tick of an entry, in a unit that has begun. ``given_up``: the entry is not run any more, and why."""

    def __init__(self, post: Post, tick: Tick, unit: Unit) -> None:
        self.entry = post.entries[tick.name]
        self.given_up = ""
        self._post = post
        self._may_go_on: Callable[[], bool] = lambda: True
        self._terms = _terms(self.entry, tick)
        self._shift = policy.offset(tick.jitter, tick.name, post.database)
        self._tick = tick
        self._unit = unit
        self._claimed = monotonic()
        self._committed = False
        self._in_portions = False

    @property
    def timeout(self) -> float | None:
        """Seconds that it may take."""
        return self._tick.timeout

    @property
    def triggered(self) -> bool:
        """Triggers were due when it was claimed, of whatever entry."""
        return self._tick.triggered

    def open(self) -> bool:
        """Whether the function is to be called; if not, all is recorded and the unit has ended. Raises as `perform`."""
        try:
            tick, now = self._tick, self._tick.began
            course = policy.opened(self._terms, self._shift, tick.course, now)
            skipped = course.due is None or course.due > now
            if not skipped:
                self._tick = replace(tick, course=course)
                dead = history.note(self._post.beside(), tick, self._post.who)
                course = policy.killed(self._terms, self._shift, course, dead, now) if dead else course
                if course is self._tick.course:
                    return True
            self._move_on(course, skipped=skipped)
        except BaseException:
            self._unit.rollback()
            raise
        return False

    def perform(self, may_go_on: Callable[[], bool]) -> bool:
        """Call the function, again as long as it loses against another transaction; true when all is well.

        ``may_go_on`` is asked before each repetition; what is not repeated is still due, for any worker. Raises
        DatabaseUnavailable or psycopg2.Error when what has become of it can't be recorded: it is still due then.
        """
        self._may_go_on = may_go_on
        for attempt in range(1, MOST_ATTEMPTS):
            try:
                return self._attempt()
            except _Lost as lost:
                log.info("Cron %s is rolled back: %s", self.entry.name, _line(lost.__cause__))
            if not may_go_on():
                return False
            # Who lost together would meet again: full jitter.
            time.sleep(random.random() * _PAUSE * 2**attempt)
            if not self._claim_again():
                log.info("Cron %s has been left to another worker", self.entry.name)
                return True
        try:
            return self._attempt()
        except _Lost as lost:
            self._fail_alone(lost.__cause__ or lost)
            return False

    def aborted(self, error: BaseException) -> None:
        """A limit has ended `perform`: roll back and record that. Never raises for a database that is away."""
        signaling.roll_back_leftover()
        if self._committed:
            return
        try:
            self._fail_alone(error)
        except (DatabaseUnavailable, psycopg2.Error) as away:
            log.warning("The failure of cron %s can't be recorded: %s", self.entry.name, _line(away))

    def portion(self, call: Call) -> float:
        """Commit what the function has done so far, and go on under the claim. Seconds that are left of its turn.

        Between the two transactions nobody holds the row; the time of the next call, which was moved a little into
        the future, keeps others away. When we are killed there, it is due by then.
        """
        unit = self._unit
        with unit.cursor() as cursor:
            store.portion(cursor, self._tick, _KEPT_FOR_US, call.done, call.remaining)
        unit.commit()
        self._in_portions = True
        self._unit = signaling.begin(self._post.database)
        if store.claim_again(self._unit.cursor(), self._tick) is None:
            raise RuntimeError("the entry was changed between two portions of its run")
        self._set_savepoint()
        return max(0.0, calls.TURN - self._seconds()) if self._may_go_on() else 0.0

    # -- one attempt ---------------------------------------------------------------------------------------

    def _attempt(self) -> bool:
        try:
            self._set_savepoint()
            with self._as_current() as call:
                self.entry.function()
            if self._unit.ended:
                raise RuntimeError("the function has ended its unit itself, and with it the claim")
            report = self._report_done(call)
            with self._unit.cursor() as cursor:
                store.record(cursor, report)
            self._unit.commit()
            self._committed = True
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            # The application's boundary: whatever it raises is the result of this one call.
            if _is_lost(error, self._unit):
                self._give_back()
                self._unit.rollback()
                raise _Lost from error
            self._fail(error)
            return False
        log.info("Cron %s %s in %.3f s", self.entry.name, report.outcome, report.seconds)
        return True

    @contextmanager
    def _as_current(self) -> Iterator[Call]:
        course = self._tick.course
        planned = course.planned
        if planned is not None and planned + self._shift > self._tick.began:
            planned = None
        call = Call(
            self.entry.name, planned=planned, cause=course.cause.value, last_call=self._tick.last_call, run=self
        )
        token = calls.current.set(call)
        try:
            yield call
        finally:
            calls.current.reset(token)

    def _set_savepoint(self) -> None:
        with self._unit.cursor() as cursor:
            cursor.execute(f"SAVEPOINT {store.SAVEPOINT}")

    def _claim_again(self) -> bool:
        unit = signaling.begin(self._post.database)
        try:
            tick = store.claim_again(unit.cursor(), self._tick)
            if tick is not None:
                history.note(self._post.beside(), tick, self._post.who)
        except psycopg2.errors.SerializationFailure:
            tick = None
        except BaseException:
            unit.rollback()
            raise
        if tick is None:
            unit.rollback()
            return False
        self._tick = replace(tick, course=self._tick.course)
        self._unit = unit
        self._claimed = monotonic()
        return True

    def _give_back(self) -> None:
        # While the row is still locked, or at least nobody is likely to have taken it.
        try:
            history.give_back(self._post.beside(), self._tick, self._post.who)
        except (DatabaseUnavailable, psycopg2.Error) as error:
            log.debug("Not given back: %s", _line(error))

    # -- what is recorded ----------------------------------------------------------------------------------

    def _move_on(self, course: Course, *, skipped: bool) -> None:
        with self._unit.cursor() as cursor:
            store.move_on(cursor, self._tick, course, skipped=skipped, given_up=self._give_up(course))
        self._unit.commit()
        if skipped:
            log.warning("Cron %s is skipped: nobody ran it when it was due", self.entry.name)
        else:
            log.error(
                "Cron %s has ended with its worker %d times: it is due again at %s",
                self.entry.name,
                course.failures,
                course.due,
            )

    def _fail(self, error: BaseException) -> None:
        unit = self._unit
        if not unit.ended:
            try:
                with unit.cursor() as cursor:
                    store.replace_by_failure(cursor, self._report_failed(error))
            except psycopg2.Error as refused:
                log.debug("Not in the transaction of the claim: %s", _line(refused))
            else:
                self._log_failure(error)
                return
            finally:
                # When all is committed already, this drops what the function wanted to send and to invalidate.
                unit.rollback()
        self._fail_alone(error)

    def _fail_alone(self, error: BaseException) -> None:
        """The claim is gone; until the failure is recorded, another worker may take the tick."""
        self._log_failure(error)
        report = self._report_failed(error)
        try:
            with signaling.unit(self._post.database) as unit:
                store.record_without_claim(unit.cursor(), report)
        except psycopg2.errors.SerializationFailure:
            pass  # it is another worker's by now

    def _log_failure(self, error: BaseException) -> None:
        log.error("Cron %s failed after %.3f s", self.entry.name, self._seconds(), exc_info=error)

    def _report_done(self, call: Call) -> Report:
        # Who says that there is more, and has done nothing of it, is not asked again at once.
        remaining = bool(call.remaining) and call.done != 0
        now = self._now()
        course = policy.done(self._terms, self._shift, self._tick.course, self._tick.began, now, remaining=remaining)
        outcome = "partial" if call.remaining else "done"
        return self._report(course, outcome, done=call.done, remaining=call.remaining)

    def _report_failed(self, error: BaseException) -> Report:
        # Of a run that has committed a part of its work the rest is to be done, whatever it was begun for.
        course = replace(self._tick.course, cause=Cause.PORTION) if self._in_portions else self._tick.course
        course = policy.failed(self._terms, self._shift, course, self._tick.began, self._now())
        reason = str(error.reason) if isinstance(error, UnitAborted) else None
        text = "".join(traceback.format_exception(error))
        return self._report(course, "failed", reason=reason, error=text, given_up=self._give_up(course))

    def _report(self, course: Course, outcome: str, **more: Any) -> Report:
        who = self._post.who
        return store.Report(
            tick=self._tick,
            course=course,
            outcome=outcome,
            seconds=self._seconds(),
            worker=who.worker,
            host=who.host,
            pid=who.pid,
            keep=self._post.keep,
            **more,
        )

    def _give_up(self, course: Course) -> str:
        if course.given_up:
            self.given_up = (
                f"failed {course.failures} times since {course.first_failure:%Y-%m-%d %H:%M} without a success"
            )
        return self.given_up

    def _seconds(self) -> float:
        return monotonic() - self._claimed

    def _now(self) -> datetime:
        return self._tick.began + timedelta(seconds=self._seconds())


def _terms(entry: Entry, tick: Tick) -> Terms:
    # By those in the table: a newer release may have changed them, and have no worker free to run this.
    plan = entry.terms.schedule
    if tick.schedule != plan.text:
        try:
            plan = schedule.read(tick.schedule)
        except ValueError as error:
            log.warning("Cron %s goes by the schedule of this release: %s", entry.name, error)
    return replace(entry.terms, schedule=plan, misfire=tick.misfire, jitter=tick.jitter)


def _is_lost(error: BaseException, unit: Unit) -> bool:
    """Whether it is worth while to do all of it again: another transaction was first, or the connection went."""
    if getattr(error, "pgcode", None) in LOST_AGAINST_ANOTHER:
        return True
    if not isinstance(error, DatabaseUnavailable | psycopg2.Error):
        return False
    if unit.ended:  # by a commit on a connection that was lost; whether it came through the next claim will tell
        return isinstance(error, DatabaseUnavailable)
    return bool(unit.connection().closed)


def _line(error: BaseException | None) -> str:
    return str(error).strip() or type(error).__name__
