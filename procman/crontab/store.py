"""The schedule in PostgreSQL: the table ``procman.cron``.

Due is what the database's clock says: hosts need not agree on the time. Within a transaction it is now(), the
time at which it began, so that what `claim` leaves and what `outlook` counts as due is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from procman.crontab.entries import Entry

NOTIFY_CHANNEL = "procman_cron"  # of the triggers in 0003_cron.sql: a call has come nearer

_KNOWN = "SELECT name, schedule, last_call FROM procman.cron WHERE name = ANY(%s)"
_ADD = "INSERT INTO procman.cron (name, schedule, next_call) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
# Not INSERT ... ON CONFLICT DO UPDATE: that waits for whoever runs the entry, even when nothing is to be updated.
_CHANGE = """
    UPDATE procman.cron SET schedule = %s, next_call = %s
    WHERE name = (SELECT name FROM procman.cron WHERE name = %s FOR NO KEY UPDATE SKIP LOCKED)
"""
_CLAIM = """
    SELECT name, schedule, next_call, clock_timestamp() FROM procman.cron
    WHERE name = ANY(%s) AND next_call <= now()
    ORDER BY next_call LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
"""
_CLAIM_TICK = """
    SELECT name, schedule, next_call, clock_timestamp() FROM procman.cron
    WHERE name = %s AND next_call = %s FOR NO KEY UPDATE SKIP LOCKED
"""
_OUTLOOK = """
    SELECT clock_timestamp(),
        (SELECT min(next_call) FROM procman.cron WHERE name = ANY(%(names)s) AND next_call > now()),
        ARRAY(SELECT schedule FROM procman.cron WHERE name = ANY(%(names)s) AND next_call <= now()
              ORDER BY next_call LIMIT 100)
"""
_DONE = """
    UPDATE procman.cron SET next_call = %(next_call)s, last_call = %(began)s, last_seconds = %(seconds)s,
        last_worker = %(worker)s, last_status = 'done', last_error = NULL, failure_count = 0
    WHERE name = %(name)s
"""
_FAILED = """
    UPDATE procman.cron SET next_call = %(next_call)s, last_call = %(began)s, last_seconds = %(seconds)s,
        last_worker = %(worker)s, last_status = 'failed', last_error = %(error)s, failure_count = failure_count + 1
"""

SAVEPOINT = "procman_cron"

_MOST_ERROR_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True)
class Tick:
    """One claimed call of an entry: when it was ``planned``, and when it ``began``, by the database's clock."""

    name: str
    schedule: str
    planned: datetime
    began: datetime


@dataclass(frozen=True, slots=True)
class Outlook:
    """What lies ahead at ``now``: the next call that is not due yet, and the schedules of those that are."""

    now: datetime
    next_call: datetime | None
    due: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What has become of a tick."""

    tick: Tick
    next_call: datetime
    seconds: float
    worker: str
    error: str = ""

    def values(self, encoding: str) -> dict[str, Any]:
        """The parameters of the statements, for a database of that encoding."""
        return {
            "name": self.tick.name,
            "planned": self.tick.planned,
            "began": self.tick.began,
            "next_call": self.next_call,
            "seconds": self.seconds,
            "worker": self.worker,
            "error": _storable(self.error[-_MOST_ERROR_CHARACTERS:], encoding),
        }


def register(cursor: Any, entries: Mapping[str, Entry]) -> bool:
    """Add the entries that are missing, change the schedules that are others; on a connection in autocommit mode.

    False when one that is to be changed is being run right now: then it is to be tried again later.
    """
    cursor.execute("SELECT clock_timestamp()")
    (now,) = cursor.fetchone()
    cursor.execute(_KNOWN, (list(entries),))
    known = {name: (schedule, last) for name, schedule, last in cursor.fetchall()}
    complete = True
    for name, entry in entries.items():
        text = entry.schedule.text
        if name not in known:
            cursor.execute(_ADD, (name, text, entry.schedule.first(now)))
        elif known[name][0] != text:
            cursor.execute(_CHANGE, (text, entry.schedule.first(now, known[name][1]), name))
            complete = complete and cursor.rowcount == 1
    return complete


def claim(cursor: Any, names: Iterable[str]) -> Tick | None:
    """Lock the entry that has been due for longest and that nobody runs; None when there is none.

    Raises psycopg2's SerializationFailure when another worker has run it since the transaction began.
    """
    cursor.execute(_CLAIM, (list(names),))
    row = cursor.fetchone()
    return None if row is None else Tick(*row)


def claim_again(cursor: Any, tick: Tick) -> Tick | None:
    """Lock the same tick in a new transaction; None when it has been run, or is being run, by another worker."""
    cursor.execute(_CLAIM_TICK, (tick.name, tick.planned))
    row = cursor.fetchone()
    return None if row is None else Tick(*row)


def outlook(cursor: Any, names: Iterable[str]) -> Outlook:
    """What is due and what comes next. In the transaction of a `claim` in vain, all that is due is locked."""
    cursor.execute(_OUTLOOK, {"names": list(names)})
    now, next_call, due = cursor.fetchone()
    return Outlook(now, next_call, tuple(due))


def record_done(cursor: Any, report: Report) -> None:
    """In the transaction of the claim: the tick is done."""
    cursor.execute(_DONE, report.values(_encoding(cursor)))


def replace_by_failure(cursor: Any, report: Report) -> None:
    """Undo what the function did, record that it failed, and commit: one message, and the claim held until its end."""
    values = report.values(_encoding(cursor))
    cursor.execute(f"ROLLBACK TO SAVEPOINT {SAVEPOINT}; {_FAILED} WHERE name = %(name)s; COMMIT", values)


def record_failure(cursor: Any, report: Report) -> bool:
    """In a transaction without a claim: the tick has failed. False when it is another worker's by now."""
    unclaimed = "SELECT name FROM procman.cron WHERE name = %(name)s AND next_call = %(planned)s"
    values = report.values(_encoding(cursor))
    cursor.execute(f"{_FAILED} WHERE name = ({unclaimed} FOR NO KEY UPDATE SKIP LOCKED)", values)
    return bool(cursor.rowcount)


def _encoding(cursor: Any) -> str:
    # Only to UTF8 every character can be converted; what can't would make the record of a failure fail.
    server = cursor.connection.info.parameter_status("server_encoding")
    return "utf-8" if server == "UTF8" else "ascii"


def _storable(text: str, encoding: str) -> str:
    return text.replace("\0", "\\0").encode(encoding, "backslashreplace").decode(encoding)
