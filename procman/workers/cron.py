"""The cron worker: sleeps until the next call of any entry in any database, claims it, runs it.

One thread. Each database is watched over a connection of its own (`cron_agenda`), on which PostgreSQL tells (LISTEN)
that a call has come nearer; besides that a worker wakes when the next call is due, and twice a minute, in case a
notification was lost, or the connection. All workers see the same times; who claims first runs. So that they do not all
come in one instant, each is late by a few milliseconds of its own.

Asleep it waits for the arbiter as well, and answers when it is asked for a sign of life: it is never taken for one
that hangs, however short the limits are.
"""

from __future__ import annotations

import json
import logging
import math
from itertools import islice
from select import POLLIN, poll
from time import monotonic
from typing import TYPE_CHECKING, Any

from procman import signaling
from procman.core.databases import discovers
from procman.crontab import cron
from procman.db.connection import database_name
from procman.workers.cron_agenda import FAILURES, LONGEST_SLEEP, Agenda, in_one_line

if TYPE_CHECKING:
    from procman.core.lifecycle import Evidence
    from procman.crontab import Cron
    from procman.workers.child import Child

log = logging.getLogger("procman.cron")

_MOST_DATABASES = 500  # of which figures fit into a message


def serve(child: Child, application: Any) -> None:
    """Run the entries that the imported modules of ``application`` have registered, until retired."""
    CronWorker(child, cron).run()


class CronWorker:
    def __init__(self, child: Child, declared: Cron) -> None:
        self._child = child
        self._declared = declared
        self._agendas: dict[str, Agenda] = {}
        self._discover_at: float | None = None
        self._figures: dict[str, dict[str, float]] = {}  # the last ones, by database
        child.on_evidence = self._explain

    def run(self) -> None:
        """Run what is due until the child retires."""
        if not self._declared.entries:
            log.warning("No cron function is registered: this worker has nothing to do")
        elif self._child.database is None:
            log.warning("No database is configured: %d cron functions are never run", len(self._declared.entries))
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
            self._publish()
            self._wait()

    def _discover(self) -> None:
        """Find out which databases there are; those that come and go are followed when they are discovered."""
        spec = self._child.database
        if spec is None:
            return
        try:
            names = signaling.databases()
        except FAILURES as error:
            log.warning("The databases can't be listed: %s", in_one_line(error))
            names = tuple(self._agendas) or (database_name(spec.url),)
        for name in names:
            if name not in self._agendas:
                self._agendas[name] = Agenda(name, self._child, self._declared)
        for name in set(self._agendas) - set(names):
            self._agendas.pop(name).close()
        if discovers(spec.databases):
            self._discover_at = monotonic() + LONGEST_SLEEP

    def _publish(self) -> None:
        if any(agenda.figures is not None for agenda in self._agendas.values()):
            for name, agenda in self._agendas.items():
                if agenda.figures is not None:
                    self._figures[name], agenda.figures = agenda.figures, None
            figures = {name: self._figures[name] for name in self._agendas if name in self._figures}
            self._child.publish(json.dumps(dict(islice(figures.items(), _MOST_DATABASES))))

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

    def _explain(self, evidence: Evidence) -> None:
        for agenda in self._agendas.values():
            agenda.explain(evidence)
