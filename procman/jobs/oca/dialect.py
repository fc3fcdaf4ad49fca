"""The queue of OCA's queue_job, the table ``queue_job`` of an Odoo database, as the runner reads and moves it.

Two things are different from what the module's own runner does. A job is marked as enqueued only while it is pending,
so that one that was cancelled in this moment is not run. And a job whose worker has died is queued again within
seconds, by the proof that `procman.jobs.oca.statements` describes; never because of its age.
"""

from __future__ import annotations

import logging
from array import array
from bisect import bisect_left
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from procman import signaling
from procman.errors import DatabaseUnavailable
from procman.jobs.dialect import Dead, Dialect, Key, NoQueue, Offered, Rescued, Row, Span
from procman.jobs.oca import statements as sql
from procman.jobs.oca.layout import Layout, look
from procman.jobs.oca.lock import SESSION, AdvisoryLock
from procman.jobs.scheduler import ENQUEUED, PENDING, STARTED
from procman.jobs.tables import DATABASES_CHANNEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from procman.jobs.deaths import Deaths

log = logging.getLogger("procman.jobs")

NOTIFY_CHANNEL = "queue_job"
RELOAD = "reload"  # the payload by which version 18 says that a channel's settings have changed

_ELSEWHERE = "an Odoo"
_LOCKED_FOR = 1.0


class QueueJob(Dialect):
    """One database. ``deaths`` are those of the workers that run its jobs, if they are this daemon's."""

    name = "queue_job"
    notices = NOTIFY_CHANNEL
    settings = RELOAD

    def __init__(self, deaths: Deaths | None = None) -> None:
        self.leadership = AdvisoryLock()
        self._deaths = deaths
        self._layout: Layout | None = None
        self._database = ""
        self._live: array[int] = array("q")
        self._seen: set[int] = set()  # workers that have had a session in this database
        self._looked_for: set[int] = set()
        self._words: dict[str, str] = {}
        self._locked: dict[Key, float] = {}  # jobs that somebody else may be about to change: when to offer them again
        self._rival = False

    # -- connections ---------------------------------------------------------------------------------------

    def connect(self, database: str, *, listen: bool) -> Any:
        connection = signaling.open_session(database, listen=listen, install=False)
        try:
            with connection.cursor() as cr:
                if listen:
                    cr.execute(f"LISTEN {DATABASES_CHANNEL}; {SESSION}")
                else:
                    self._find(cr, database)
        except BaseException:
            connection.close()
            raise
        return connection

    def _find(self, cr: Any, database: str) -> None:
        layout = look(cr)
        if layout is None:
            raise NoQueue("no Odoo with queue_job is installed")
        if layout != self._layout:
            log.info("Database %s: queue_job %s, %s", database, layout.version or "of some version", _described(layout))
        if not layout.notifies:
            log.warning(
                "Database %s: the trigger queue_job_notify is missing, so new jobs are found once a minute only; "
                "update the module: odoo-bin -d %s -u queue_job",
                database,
                database,
            )
        self._layout, self._database, self._rival = layout, database, False
        self._seen.clear()
        self._looked_for.clear()
        # "enqueued" may be lost in a crash, as with procman's own.
        cr.execute(f"SET synchronous_commit = off; {SESSION}")

    def fields(self, database: str) -> str:
        """As of 19, Odoo takes the database from here only."""
        return f"X-Odoo-Database: {database if database.isascii() else quote(database)}\r\n"

    # -- reading -------------------------------------------------------------------------------------------

    def understand(self, payload: str) -> Span | Key | None:
        return None if payload == RELOAD else payload

    def by_key(self, cr: Any, keys: Sequence[Key]) -> list[Row]:
        # From here on a job is known by its id, which takes half the memory of a uuid.
        ids, uuids = [key for key in keys if isinstance(key, int)], [key for key in keys if isinstance(key, str)]
        rows = self._rows(cr, sql.BY_ID, ids) if ids else []
        if uuids:
            known = {row.id for row in rows}
            rows += [row for row in self._rows(cr, sql.BY_UUID, uuids) if row.id not in known]
        self._look_for_rivals(rows)
        return [self._postponed(row) for row in rows]

    def _postponed(self, row: Row) -> Row:
        left = self._locked.pop(row.key, 0.0) - monotonic()
        if row.state != PENDING or left <= 0:
            return row
        return row._replace(wait=max(left, row.wait or 0.0))

    def find(self, cr: Any, uuid: str) -> Key | None:
        return next((row.key for row in self._rows(cr, sql.BY_UUID, [uuid])), None)

    def live(self, cr: Any, span: Span, most: int) -> list[Row]:
        if span.first == 0:
            cr.execute(sql.LIVE_IDS)
            self._live = array("q", sorted(id for (id,) in cr.fetchall()))  # noqa: A001
        begin = bisect_left(self._live, span.first)
        rows: list[Row] = []
        while len(rows) < most and begin < len(self._live):
            ids = self._live[begin : begin + most - len(rows)]
            rows += self._rows(cr, sql.LIVE, ids.tolist())
            begin += len(ids)
        if begin == len(self._live):
            self._live = array("q")
        return sorted(rows, key=lambda row: row.id)

    def running(self, cr: Any) -> list[Row]:
        if look(cr) != self._layout:
            raise DatabaseUnavailable("the module queue_job has been changed")
        return self._rows(cr, sql.RUNNING)

    def failed(self, cr: Any, matters: Callable[[str], bool]) -> list[Row]:
        cr.execute(sql.FAILED_CHANNELS)
        channels = [channel for (channel,) in cr.fetchall() if matters(channel)]
        return self._rows(cr, sql.FAILED, channels) if channels else []

    def paused(self, cr: Any) -> dict[str, bool]:
        if self._layout is None or not self._layout.pauses:
            return {}
        cr.execute(sql.PAUSED)
        return dict(cr.fetchall())

    def _rows(self, cr: Any, statement: str, *parameters: Any) -> list[Row]:
        cr.execute(statement, parameters)
        words = self._words
        rows = [
            Row(key, id, words.setdefault(state, state), words.setdefault(channel, channel), *rest)
            for key, id, state, channel, *rest in cr  # noqa: A001
        ]
        if len(words) > 10_000:  # channels named after customers, say
            words.clear()
        if self._layout is not None and not self._layout.locks:
            self._see_workers(cr, {row.worker_pid for row in rows if row.state == STARTED and row.worker_pid})
        host = None if self._deaths is not None else _ELSEWHERE
        return [row._replace(worker_host=host) for row in rows] if host else rows

    def _see_workers(self, cr: Any, pids: set[int]) -> None:
        if pids - self._looked_for:
            self._looked_for |= pids
            cr.execute(sql.SESSIONS)
            self._seen.update(pid for (pid,) in cr.fetchall())

    def _look_for_rivals(self, rows: Iterable[Row]) -> None:
        # Before its version 16 queue_job's runner takes no lock. It marks jobs in whole seconds.
        if self._rival:
            return
        for row in rows:
            if row.state == ENQUEUED and row.date_enqueued is not None and row.date_enqueued.microsecond == 0:
                self._rival = True
                log.warning(
                    "Database %s: somebody else starts jobs too, as Odoo's own job runner does: "
                    "switch that off with ODOO_QUEUE_JOB_CHANNELS=root:0 in Odoo's environment",
                    self._database,
                )
                return

    # -- moving --------------------------------------------------------------------------------------------

    def offer(self, cr: Any, keys: Sequence[Key]) -> list[Offered]:
        cr.execute(sql.OFFER, (list(keys),))
        offered = [Offered(*row) for row in cr.fetchall()]
        again = monotonic() + _LOCKED_FOR
        self._locked = dict.fromkeys(set(keys) - {offer.key for offer in offered}, again)
        return offered

    def take_back(self, cr: Any, offers: Sequence[Offered]) -> None:
        cr.execute(sql.TAKE_BACK, ([offer.key for offer in offers], [offer.at for offer in offers]))

    def abandoned(self, cr: Any, keys: Sequence[Key]) -> dict[Key, datetime]:
        by_lock = self._layout is not None and self._layout.locks
        cr.execute(sql.ABANDONED_BY_LOCK if by_lock else sql.ABANDONED_BY_SESSION, self._proof(keys))
        return dict(cr.fetchall())

    def rescue(self, cr: Any, dead: Sequence[Dead]) -> list[Rescued]:
        by_lock = self._layout is not None and self._layout.locks
        values = {
            **self._proof([each.key for each in dead]),
            "tries": [each.try_of for each in dead],
            "reasons": [each.reason for each in dead],
            "texts": [each.text and each.text.replace("\0", "?") for each in dead],
        }
        cr.execute(sql.RESCUE_BY_LOCK if by_lock else sql.RESCUE_BY_SESSION, values)
        return [Rescued(*row) for row in cr.fetchall()]

    def release(self, cr: Any, over: Sequence[Key] | None) -> list[Key]:
        """Odoo's workers do so, after a job is done; one that dies in between leaves its children waiting for ever."""
        if over is not None:
            return []
        cr.execute(sql.RELEASE)
        return [id for (id,) in cr.fetchall()]  # noqa: A001

    def _proof(self, keys: Sequence[Key]) -> dict[str, Any]:
        dead = [] if self._deaths is None else self._deaths.pids()
        return {"keys": list(keys), "seen": list(self._seen), "dead": dead}


def _described(layout: Layout) -> str:
    if layout.locks:
        return "jobs of dead workers are known by their locks"
    return "which has no locks: jobs of dead workers are known by their sessions, where Odoo gives these names"
