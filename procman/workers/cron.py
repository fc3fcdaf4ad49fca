"""The cron worker: sleeps until the next call of any entry in any database, claims it, runs it.

One thread. Each database is watched over a connection of its own, on which PostgreSQL tells (LISTEN) that a call
has come nearer; besides that a worker wakes when the next call is due, and once a minute, in case a notification
was lost. All workers see the same times; who claims first runs. So that they do not all come in one instant, each
is late by a few milliseconds of its own.
"""

from __future__ import annotations

import logging
import math
import os
from datetime import timedelta
from select import POLLIN, poll
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg2

from procman import signaling
from procman.core.restart import Pauses
from procman.crontab import cron, execute, schedule, store
from procman.db.connection import database_name, in_short
from procman.db.migrate import migrate
from procman.errors import DatabaseSetupError, DatabaseUnavailable, UnitAborted
from procman.signaling.runtime import AUTO

if TYPE_CHECKING:
    from collections.abc import Mapping

    from procman.crontab import Entry
    from procman.crontab.store import Outlook
    from procman.workers.child import Child

log = logging.getLogger("procman.cron")

LONGEST_SLEEP = 60.0
_CLAIMED_LOOK = 5.0  # at most, to look after what another worker is running: it may have died
_PAUSE_FIRST, _PAUSE_MOST = 0.1, 1.0

_FAILURES = (DatabaseUnavailable, DatabaseSetupError, psycopg2.Error)


def serve(child: Child, application: Any) -> None:
    """Run the entries that the imported modules of ``application`` have registered, until retired."""
    CronWorker(child, cron.entries).run()


class CronWorker:
    def __init__(self, child: Child, entries: Mapping[str, Entry]) -> None:
        self._child = child
        self._entries = entries
        self._agendas: dict[str, Agenda] = {}
        self._discover_at: float | None = None

    def run(self) -> None:
        """Run what is due until the child retires."""
        if not self._entries:
            log.warning("No cron function is registered: this worker has nothing to do")
        elif self._child.database is None:
            log.warning("No database is configured: %d cron functions are never run", len(self._entries))
        else:
            self._discover()
        for agenda in list(self._agendas.values())[:1]:
            agenda.open()  # the main database; a failure is logged and tried again later
        self._child.ready()
        try:
            self._serve()
        finally:
            for agenda in self._agendas.values():
                agenda.close()

    def _serve(self) -> None:
        child = self._child
        while child.retiring is None:
            now = monotonic()
            if self._discover_at is not None and self._discover_at <= now:
                self._discover()
            for agenda in list(self._agendas.values()):
                if agenda.look_at <= now and child.retiring is None:
                    agenda.visit()
            self._wait()

    def _discover(self) -> None:
        """Find out which databases there are; those that come and go are followed when they are discovered."""
        spec = self._child.database
        if spec is None:
            return
        try:
            names = signaling.databases()
        except _FAILURES as error:
            log.warning("The databases can't be listed: %s", _line(error))
            names = tuple(self._agendas) or (database_name(spec.url),)
        for name in names:
            if name not in self._agendas:
                self._agendas[name] = Agenda(name, self._child, self._entries)
        for name in set(self._agendas) - set(names):
            self._agendas.pop(name).close()
        if AUTO in spec.databases:
            self._discover_at = monotonic() + LONGEST_SLEEP

    def _wait(self) -> None:
        """Until something is due, notified or said by the arbiter; at once if something is due already."""
        child = self._child
        deadlines = [agenda.look_at for agenda in self._agendas.values()]
        deadlines += [at for at in (self._discover_at, child.age_deadline) if at is not None]
        waiter = poll()
        listening = {fd: agenda for agenda in self._agendas.values() if (fd := agenda.fileno()) is not None}
        for fd in (*child.wake_fds, *listening):
            waiter.register(fd, POLLIN)
        seconds = max(0.0, min(deadlines) - monotonic()) if deadlines else None
        # Rounded up: a millisecond too early is a look in vain.
        ready = [fd for fd, _ in waiter.poll(None if seconds is None else math.ceil(seconds * 1000))]
        for fd in ready:
            if fd in listening:
                listening[fd].hear()
        if any(fd not in listening for fd in ready):
            child.attend()
        if child.retiring is None and child.age_deadline is not None:
            child.check_limits()


class Agenda:
    """The entries of one database, as this worker sees them. ``look_at``: when `visit` is to be called."""

    def __init__(self, database: str, child: Child, entries: Mapping[str, Entry]) -> None:
        self.look_at = 0.0
        self._database = database
        self._child = child
        self._entries = entries
        self._connection: Any = None
        self._registered = False
        self._due = False
        self._pauses = Pauses(_PAUSE_FIRST, _PAUSE_MOST)
        self._trouble = ""
        # Of its own, and no secret: within a pool by the slot, among machines by chance.
        self._stagger = (child.seat.slot - 1) % 8 * 0.005 + os.getpid() % 5 * 0.001

    def open(self) -> None:
        """Listen and register the entries, unless that is done; a failure is logged, and tried again later."""
        if self._connection is None:
            try:
                self._connect()
            except _FAILURES as error:
                self._lose(error)

    def visit(self) -> None:
        """Run one entry if any is due; else find out when the next one is."""
        try:
            if self._connection is None:
                self._connect()
            if not self._registered:
                self._register()
            if self._due:
                self._claim()
            else:
                self._look()
        except _FAILURES as error:
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
        with self._connection.cursor() as cursor:
            # First listen, then look: what commits after the look is notified.
            cursor.execute(f"LISTEN {store.NOTIFY_CHANNEL}")
        self._due = False
        self._register()
        count = len(self._entries)
        log.info("Watching %d cron %s in database %s", count, "entry" if count == 1 else "entries", self._database)

    def _register(self) -> None:
        with self._connection.cursor() as cursor:
            self._registered = store.register(cursor, self._entries)

    def _look(self) -> None:
        # Cleared before: whatever comes from here on may be newer than what is seen.
        self._connection.notifies.clear()
        with self._connection.cursor() as cursor:
            found = store.outlook(cursor, self._entries)
        self._due = bool(found.due)
        self.look_at = 0.0 if self._due else self._wake_at(found)

    def _claim(self) -> None:
        found = execute.claim(self._database, self._entries, worker=self._child.name)
        if isinstance(found, execute.Run):
            self._run(found)
            return
        self._due = False
        self.look_at = self._wake_at(found)

    def _wake_at(self, found: Outlook) -> float:
        """When to look again. What is due here is being run by others, and due again at its next regular time."""
        waits = [LONGEST_SLEEP]
        if found.next_call is not None:
            waits.append((found.next_call - found.now) / timedelta(seconds=1))
        if found.due or not self._registered:
            waits.append(_CLAIMED_LOOK)
        for text in found.due:
            try:
                waits.append((schedule.read(text).after(found.now, found.now) - found.now) / timedelta(seconds=1))
            except ValueError:
                pass  # of another release; it is looked after as above
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

    def _lose(self, error: BaseException) -> None:
        """Hang up and come back later, after growing pauses; the same trouble is told once."""
        self.close()
        self.look_at = monotonic() + self._pauses.next()
        trouble = _line(error)
        level = logging.DEBUG if trouble == self._trouble else logging.WARNING
        log.log(level, "Cron of database %s is interrupted: %s", self._database, trouble)
        self._trouble = trouble


def _line(error: BaseException) -> str:
    return in_short(error) if isinstance(error, psycopg2.Error) else str(error).strip() or type(error).__name__
