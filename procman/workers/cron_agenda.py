"""The entries of one database, as one cron worker sees them: when to look again, what to claim, whom to tell."""

from __future__ import annotations

import logging
import os
import socket
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg2

from procman import signaling
from procman.core.restart import Pauses
from procman.core.spec import CronWork
from procman.crontab import execute, history, registration, schedule, store, triggers
from procman.crontab.history import Who
from procman.db.connection import in_short
from procman.db.migrate import migrate
from procman.errors import DatabaseSetupError, DatabaseUnavailable, UnitAborted

if TYPE_CHECKING:
    from procman.core.lifecycle import Evidence
    from procman.crontab import Cron
    from procman.crontab.store import Outlook
    from procman.workers.child import Child

log = logging.getLogger("procman.cron")

LONGEST_SLEEP = 30.0
_CLAIMED_LOOK = 5.0  # at most, to look after what another worker is running: it may have died
_VACUUM_EVERY = 3600.0
_FIGURES_EVERY = 15.0
_PAUSE_FIRST, _PAUSE_MOST = 0.1, 1.0

FAILURES = (DatabaseUnavailable, DatabaseSetupError, psycopg2.Error)


class Agenda:
    """``look_at``: when `visit` is to be called, on CLOCK_MONOTONIC."""

    def __init__(self, database: str, child: Child, declared: Cron) -> None:
        work = child.spec.work
        if not isinstance(work, CronWork):
            raise TypeError(f"a cron pool has a CronWork, not {work!r}")
        self.look_at = 0.0
        self._database = database
        self._child = child
        self._declared = declared
        self._work = work
        self._connection: Any = None
        who = Who(child.name, socket.gethostname(), os.getpid())
        self._post = execute.Post(database, declared.entries, who, work.history_runs, self._cursor, [])
        self._registered = False
        self._register_at = 0.0
        self._vacuum_at = monotonic() + LONGEST_SLEEP
        self.figures: dict[str, float] | None = None  # of late, until they are taken
        self._figures_at = 0.0
        self._due = 0  # so many entries as far as is known
        self._triggered = False
        self._pauses = Pauses(_PAUSE_FIRST, _PAUSE_MOST)
        self._trouble = ""
        # Of its own, and no secret: within a pool by the slot, among machines by chance.
        self._stagger = (child.seat.slot - 1) % 8 * 0.02 + os.getpid() % 10 * 0.001

    def open(self) -> None:
        """Listen and register the entries, unless that is done; a failure is logged, and tried again later."""
        if self._connection is None:
            try:
                self._connect()
            except FAILURES as error:
                self._lose(error)

    def visit(self) -> None:
        """Run one entry if any is due; else find out when the next one is."""
        try:
            if self._connection is None:
                self._connect()
            self._keep_house()
            if self._triggered:
                self._due += self._move_triggers()
            if self._due:
                self._claim()
            else:
                self._look()
        except FAILURES as error:
            self._lose(error)
        else:
            self._pauses.over()
            self._trouble = ""

    def fileno(self) -> int | None:
        """What becomes readable when PostgreSQL tells something."""
        return None if self._connection is None else self._connection.fileno()

    def hear(self) -> None:
        """Read what PostgreSQL tells: a call has come nearer, or the end of the connection."""
        try:
            self._connection.poll()
        except psycopg2.Error as error:
            self._lose(error)
        else:
            if self._connection.notifies:
                self._connection.notifies.clear()
                self.look_at = min(self.look_at, monotonic() + self._stagger)
                # Even if there is so much to do that it never looks: triggers are moved before the next claim.
                self._triggered = True

    def explain(self, evidence: Evidence) -> None:
        """Write into the history why a worker of this machine was killed, if it was in the middle of a run."""
        if self._connection is None:
            return
        try:
            with self._cursor() as cursor:
                history.explain(cursor, self._post.who.host, evidence.pid, str(evidence.reason), evidence.text)
        except FAILURES as error:
            self._lose(error)

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- steps ---------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        self._connection = signaling.connect(self._database)
        # Once more after each loss: the database may have been made anew under its old name.
        migrate(self._connection)
        with self._cursor() as cursor:
            # First listen, then look: what commits after the look is notified.
            cursor.execute(f"LISTEN {store.NOTIFY_CHANNEL}")
        self._due, self._triggered = 0, True
        self._register()
        count = len(self._post.entries)
        log.info("Watching %d cron %s in database %s", count, "entry" if count == 1 else "entries", self._database)

    def _cursor(self) -> Any:
        return self._connection.cursor()

    def _keep_house(self) -> None:
        now = monotonic()
        if not self._registered and self._register_at <= now:
            self._register()
        if self._registered and self._figures_at <= now:
            with self._cursor() as cursor:
                self.figures = store.figures(cursor)
            self._figures_at = now + _FIGURES_EVERY
        if self._vacuum_at <= now:
            with self._cursor() as cursor:
                more = history.vacuum(cursor, self._work.history_age)
            self._vacuum_at = now + (LONGEST_SLEEP if more else _VACUUM_EVERY)

    def _register(self) -> None:
        with self._cursor() as cursor:
            self._registered = registration.register(
                cursor, self._declared, application=",".join(self._work.modules), database=self._database
            )
            self._post.foreign = store.foreign(cursor, self._post.entries)
        self._register_at = monotonic() + _CLAIMED_LOOK

    def _move_triggers(self) -> int:
        with self._cursor() as cursor:
            moved = triggers.move(cursor)
        # What is left are entries that are being run; whoever runs them comes by here after that.
        self._triggered = False
        return moved

    def _look(self) -> None:
        # Cleared before: whatever comes from here on may be newer than what is seen.
        self._connection.notifies.clear()
        with self._cursor() as cursor:
            found = store.outlook(cursor, self._post.foreign)
        self._due = len(found.due)
        if not self._due:
            self._sleep(found)
        else:
            self.look_at, self._triggered = 0.0, found.triggered

    def _sleep(self, found: Outlook) -> None:
        if found.triggered and (moved := self._move_triggers()):
            self._due, self.look_at = moved, 0.0
        else:
            self.look_at = self._wake_at(found)

    def _claim(self) -> None:
        found = execute.claim(self._post)
        if isinstance(found, execute.Run):
            self._due -= 1  # when all that was seen to be due is done, a look is cheaper than a claim in vain
            self._triggered = self._triggered or found.triggered
            if found.open():
                self._run(found)
            self._tell(found)
            return
        self._due = 0
        self._sleep(found)

    def _wake_at(self, found: Outlook) -> float:
        """When to look again. What is due here is being run by others, and due again at its next regular time."""
        waits = [LONGEST_SLEEP]
        if found.next_call is not None:
            waits.append((found.next_call - found.now) / timedelta(seconds=1))
        if found.due or found.triggered or not self._registered:
            waits.append(_CLAIMED_LOOK)
        for text in found.due:
            try:
                following = schedule.read(text).after(found.now, found.now)
            except ValueError:
                continue  # of another release; it is looked after as above
            if following is not None:
                waits.append((following - found.now) / timedelta(seconds=1))
        if self._connection.notifies:
            return 0.0  # come in with the answer, so that nothing will be readable
        return monotonic() + max(0.0, min(waits)) + self._stagger

    def _run(self, run: execute.Run) -> None:
        """Bracket the run as a unit of this worker."""
        child = self._child
        failed, ended = True, False
        try:
            child.begin_unit(f"cron {run.entry.name}")
            child.record.in_database(self._database)
            if run.timeout is not None:
                child.bound_unit(run.timeout)
            try:
                failed = not run.perform(lambda: child.retiring is None)
            finally:
                child.end_unit(failed=failed)
                ended = True
        except UnitAborted as aborted:
            # It may strike at any point up to the end of end_unit(), and not after it.
            if not ended:
                child.end_unit(failed=True)
            run.aborted(aborted)

    def _tell(self, run: execute.Run) -> None:
        if run.given_up:
            text = f"Cron {run.entry.name} in database {self._database} is deactivated: {run.given_up}"
            log.error("%s; `procmanctl cron enable` has it run again", text)
            self._child.deactivated(run.entry.name, self._database, text)

    def _lose(self, error: BaseException) -> None:
        """Hang up and come back later, after growing pauses; the same trouble is told once."""
        self.close()
        self.look_at = monotonic() + self._pauses.next()
        trouble = in_one_line(error)
        level = logging.DEBUG if trouble == self._trouble else logging.WARNING
        log.log(level, "Cron of database %s is interrupted: %s", self._database, trouble)
        self._trouble = trouble


def in_one_line(error: BaseException) -> str:
    """What the error says."""
    return in_short(error) if isinstance(error, psycopg2.Error) else str(error).strip() or type(error).__name__
