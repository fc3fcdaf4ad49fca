"""One run of an entry: claim, work and next call in one transaction.

The claim is a row lock of the unit's own transaction, so there is no instant in which the work is done and not
recorded, or recorded and not done, whoever is killed when. A savepoint after the claim lets a failure be recorded
under the same lock: a tick that has failed is not another worker's to fail on.

REPEATABLE READ makes a claim tell when it comes too late: a row that somebody has moved on since our snapshot
can't be locked (PostgreSQL, 13.2.2), SQLSTATE 40001.
"""

from __future__ import annotations

import logging
import random
import time
import traceback
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING

import psycopg2
import psycopg2.errors

from procman import signaling
from procman.crontab import schedule, store
from procman.errors import LOST_AGAINST_ANOTHER, DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from procman.crontab.entries import Entry
    from procman.crontab.store import Outlook, Report, Tick
    from procman.signaling import Unit

log = logging.getLogger("procman.cron")

MOST_ATTEMPTS = 5
_PAUSE = 0.02  # seconds before the second attempt; doubled each time, with full jitter


def claim(database: str, entries: Mapping[str, Entry], *, worker: str) -> Run | Outlook:
    """Claim what has been due for longest in ``database``; or else what lies ahead there.

    With a `Run` its unit has begun and is the current one; `Run.perform` or `Run.aborted` ends it. Raises
    DatabaseUnavailable, and psycopg2.Error when the table can't be used.
    """
    while True:
        unit = signaling.begin(database)
        try:
            cursor = unit.cursor()
            tick = store.claim(cursor, entries)
            if tick is not None:
                return Run(database, entries[tick.name], tick, unit, worker)
            found = store.outlook(cursor, entries)
        except psycopg2.errors.SerializationFailure:
            # Another worker was faster: it has moved on, and so have we when this comes again.
            unit.rollback()
        except BaseException:
            unit.rollback()
            raise
        else:
            unit.rollback()
            return found


class _Lost(Exception):
    """The attempt was rolled back through no fault of the function's; its cause tells."""


class Run:
    """A claimed tick of an entry, in a unit that has begun."""

    def __init__(self, database: str, entry: Entry, tick: Tick, unit: Unit, worker: str) -> None:
        self.entry = entry
        self._database = database
        self._worker = worker
        self._hold(tick, unit)

    def perform(self, may_repeat: Callable[[], bool]) -> bool:
        """Call the function, again as long as it loses against another transaction; true when all is well.

        ``may_repeat`` is asked before each repetition; what is not repeated is still due, for any worker. Raises
        DatabaseUnavailable or psycopg2.Error when what has become of it can't be recorded: it is still due then.
        """
        for attempt in range(1, MOST_ATTEMPTS):
            try:
                return self._attempt()
            except _Lost as lost:
                log.info("Cron %s is rolled back: %s", self.entry.name, _line(lost.__cause__))
            if not may_repeat():
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

    # -- one attempt ---------------------------------------------------------------------------------------

    def _hold(self, tick: Tick, unit: Unit) -> None:
        self._tick = tick
        self._unit = unit
        self._claimed = monotonic()
        self._committed = False

    def _attempt(self) -> bool:
        unit = self._unit
        try:
            with unit.cursor() as cursor:
                cursor.execute(f"SAVEPOINT {store.SAVEPOINT}")
            self.entry.function()
            if unit.ended:
                raise RuntimeError("the function has ended its unit itself, and with it the claim")
            report = self._report()
            with unit.cursor() as cursor:
                store.record_done(cursor, report)
            unit.commit()
            self._committed = True
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            # The application's boundary: whatever it raises is the result of this one call.
            if _is_lost(error, unit):
                unit.rollback()
                raise _Lost from error
            self._fail(error)
            return False
        log.info("Cron %s done in %.3f s", self.entry.name, report.seconds)
        return True

    def _claim_again(self) -> bool:
        unit = signaling.begin(self._database)
        try:
            tick = store.claim_again(unit.cursor(), self._tick)
        except psycopg2.errors.SerializationFailure:
            tick = None
        except BaseException:
            unit.rollback()
            raise
        if tick is None:
            unit.rollback()
            return False
        self._hold(tick, unit)
        return True

    # -- what is recorded ----------------------------------------------------------------------------------

    def _fail(self, error: BaseException) -> None:
        unit = self._unit
        if not unit.ended:
            try:
                with unit.cursor() as cursor:
                    store.replace_by_failure(cursor, self._report(error))
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
        report = self._report(error)
        try:
            with signaling.unit(self._database) as unit:
                store.record_failure(unit.cursor(), report)
        except psycopg2.errors.SerializationFailure:
            pass  # it is another worker's by now

    def _log_failure(self, error: BaseException) -> None:
        log.error("Cron %s failed after %.3f s", self.entry.name, self._seconds(), exc_info=error)

    def _report(self, error: BaseException | None = None) -> Report:
        seconds = self._seconds()
        text = "" if error is None else "".join(traceback.format_exception(error))
        return store.Report(self._tick, self._next_call(seconds), seconds, self._worker, text)

    def _seconds(self) -> float:
        return monotonic() - self._claimed

    def _next_call(self, seconds: float) -> datetime:
        # By the schedule in the table: a newer release may have changed it, and have no worker free to run this.
        plan = self.entry.schedule
        if self._tick.schedule != plan.text:
            try:
                plan = schedule.read(self._tick.schedule)
            except ValueError as error:
                log.warning("Cron %s goes by the schedule of this release: %s", self.entry.name, error)
        return plan.after(self._tick.planned, self._tick.began + timedelta(seconds=seconds))


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
