"""The schedule in PostgreSQL: the table ``procman.cron``, and the claims on its rows.

Due is what the database's clock says: hosts need not agree on the time. Within a transaction it is now(), the
time at which it began, so that what `claim` leaves and what `outlook` counts as due is the same.

Workers know no more than the entries of their own code; the table may have more: of another application, or of
another release. Those are ``foreign``, and left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from procman.crontab.policy import Cause, Course, Misfire

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

NOTIFY_CHANNEL = "procman_cron"  # of the triggers in 0003_cron.sql and 0009_cron.sql: something has come nearer

# As the index cron_rank has it. Nobody is behind his own next_call by more than the least priority there is, so that
# the index also tells where to stop.
_RANK = "(next_call AT TIME ZONE 'UTC' + priority * interval '1 second')"
_DUE = f"next_call <= now() AND {_RANK} <= now() AT TIME ZONE 'UTC' + 1000 * interval '1 second'"
_OURS = """name <> ALL (%(foreign)s::text[]) AND name <> ALL (ARRAY(SELECT name FROM procman.cron_disabled))"""
# Of entries that are there: others may be declared later.
_TRIGGERED = """EXISTS (
    SELECT FROM procman.cron_trigger JOIN procman.cron USING (name)
    WHERE at <= now() AND name <> ALL (ARRAY(SELECT name FROM procman.cron_disabled)))"""

_COLUMNS = """name, schedule, misfire, jitter, timeout, next_call, planned, cause, failure_count, first_failure, kills,
    runs, last_call, clock_timestamp()"""
_CLAIM = f"""
    SELECT {_COLUMNS}, {_TRIGGERED} FROM procman.cron
    WHERE {_DUE} AND {_OURS}
    ORDER BY {_RANK} LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
"""
_CLAIM_AGAIN = f"""
    SELECT {_COLUMNS}, false FROM procman.cron
    WHERE name = %s AND runs = %s FOR NO KEY UPDATE SKIP LOCKED
"""
_OUTLOOK = f"""
    SELECT clock_timestamp(), least(
            (SELECT min(next_call) FROM procman.cron WHERE next_call > now() AND {_OURS}),
            (SELECT min(at) FROM procman.cron_trigger WHERE at > now())),
        ARRAY(SELECT schedule FROM procman.cron WHERE {_DUE} AND {_OURS} ORDER BY {_RANK} LIMIT 100),
        {_TRIGGERED}
"""
# Without those that are in the code no more, as far as the same application has been imported since.
_FIGURES = """
    SELECT jsonb_build_object('entries', count(*), 'runs', coalesce(sum(runs), 0),
        'failing', count(*) FILTER (WHERE failure_count > 0 AND enabled),
        'disabled', count(*) FILTER (WHERE NOT enabled),
        'due', count(*) FILTER (WHERE next_call <= now() AND enabled),
        'late', coalesce(extract(epoch FROM now() - min(next_call)
            FILTER (WHERE next_call <= now() AND enabled AND NOT locked)), 0))
    FROM (
        SELECT runs, failure_count, next_call, name <> ALL (ARRAY(SELECT name FROM procman.cron_disabled)) AS enabled,
            cron.xmax IN (SELECT transactionid FROM pg_locks WHERE locktype = 'transactionid') AS locked
        FROM procman.cron JOIN (
            SELECT application, max(declared_at) AS latest FROM procman.cron GROUP BY application
        ) AS release USING (application)
        WHERE declared_at > latest - interval '1 minute'
    ) AS entry
"""
_FOREIGN = "SELECT name FROM procman.cron WHERE name <> ALL (%s)"

_RECORD = """
    WITH entry AS (
        UPDATE procman.cron SET next_call = %(due)s, planned = %(planned)s, cause = %(cause)s, last_call = %(began)s,
            last_seconds = %(seconds)s, last_worker = %(worker)s, last_status = %(outcome)s, last_error = %(error)s,
            failure_count = %(failures)s, first_failure = %(first_failure)s, kills = %(kills)s, runs = runs + 1,
            done = %(done)s, remaining = %(remaining)s
        WHERE {where} RETURNING name, runs
    ), forgotten AS (
        DELETE FROM procman.cron_run USING entry
        WHERE cron_run.name = entry.name AND number <= entry.runs - %(keep)s AND outcome IN ('done', 'partial')
    ), given_up AS (
        INSERT INTO procman.cron_disabled (name, reason)
        SELECT name, %(given_up)s FROM entry WHERE %(given_up)s <> '' ON CONFLICT DO NOTHING
    )
    INSERT INTO procman.cron_run (name, number, cause, planned, due, began, seconds, outcome, reason, worker, host, pid,
        done, remaining, error)
    SELECT name, runs, %(for_cause)s, %(for_planned)s, %(for_due)s, %(began)s, %(seconds)s, %(outcome)s, %(reason)s,
        %(worker)s, %(host)s, %(pid)s, %(done)s, %(remaining)s, %(error)s
    FROM entry
"""
_OWN = "name = %(name)s"
# When the claim is gone: unless it is another worker's by now.
_UNCLAIMED = """name = (
    SELECT name FROM procman.cron WHERE name = %(name)s AND runs = %(runs)s FOR NO KEY UPDATE SKIP LOCKED)"""

_MOVE_ON = """
    WITH entry AS (
        UPDATE procman.cron SET next_call = %(due)s, planned = %(planned)s, cause = %(cause)s,
            failure_count = %(failures)s, first_failure = %(first_failure)s, kills = %(kills)s, runs = runs + 1,
            last_status = CASE WHEN %(skipped)s THEN last_status ELSE 'killed' END
        WHERE name = %(name)s RETURNING name, runs
    ), given_up AS (
        INSERT INTO procman.cron_disabled (name, reason)
        SELECT name, %(given_up)s FROM entry WHERE %(given_up)s <> '' ON CONFLICT DO NOTHING
    )
    INSERT INTO procman.cron_run (name, number, cause, planned, due, began, outcome)
    SELECT name, runs, %(for_cause)s, %(for_planned)s, %(for_due)s, %(began)s, 'skipped' FROM entry WHERE %(skipped)s
"""
_PORTION = """
    UPDATE procman.cron SET next_call = clock_timestamp() + make_interval(secs => %s), cause = 'portion',
        done = %s, remaining = %s
    WHERE name = %s
"""

SAVEPOINT = "procman_cron"

_MOST_ERROR_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True)
class Tick:
    """One claimed call of an entry, under the terms of its row. ``began``: when, by the database's clock."""

    name: str
    schedule: str
    misfire: Misfire
    jitter: float
    timeout: float | None
    course: Course
    runs: int
    last_call: datetime | None
    began: datetime
    triggered: bool  # triggers are due, of whatever entry

    @classmethod
    def of(cls, row: Any) -> Tick:
        """From `_COLUMNS`."""
        name, schedule, misfire, jitter, timeout, due, planned, cause, failures, first, kills, *rest = row
        course = Course(due, planned, Cause(cause), failures, first, kills)
        return cls(name, schedule, Misfire(misfire), jitter, timeout, course, *rest)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What lies ahead at ``now``: the next call that is not due yet, and the schedules of those that are.

    ``triggered``: there are triggers that are due.
    """

    now: datetime
    next_call: datetime | None
    due: tuple[str, ...]
    triggered: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What has become of a tick, and how it goes on."""

    tick: Tick
    course: Course
    outcome: str
    seconds: float
    worker: str
    host: str
    pid: int
    keep: int
    reason: str | None = None
    done: float | None = None
    remaining: float | None = None
    error: str = ""
    given_up: str = ""

    def values(self, encoding: str) -> dict[str, Any]:
        """The parameters of the statements, for a database of that encoding."""
        return {
            "name": self.tick.name,
            "runs": self.tick.runs,
            "began": self.tick.began,
            **_for_course(self.tick.course),
            **_of_course(self.course),
            "seconds": self.seconds,
            "outcome": self.outcome,
            "reason": self.reason,
            "worker": self.worker,
            "host": self.host,
            "pid": self.pid,
            "keep": self.keep,
            "done": self.done,
            "remaining": self.remaining,
            "error": storable(self.error[-_MOST_ERROR_CHARACTERS:], encoding) or None,
            "given_up": self.given_up,
        }


def claim(cursor: Any, foreign: Iterable[str]) -> Tick | None:
    """Lock the entry that has been due for longest and that nobody runs; None when there is none.

    Raises psycopg2's SerializationFailure when another worker has run it since the transaction began.
    """
    cursor.execute(_CLAIM, {"foreign": list(foreign)})
    row = cursor.fetchone()
    return None if row is None else Tick.of(row)


def claim_again(cursor: Any, tick: Tick) -> Tick | None:
    """Lock the same tick in a new transaction; None when it has been run, or is being run, by another worker."""
    cursor.execute(_CLAIM_AGAIN, (tick.name, tick.runs))
    row = cursor.fetchone()
    return None if row is None else Tick.of(row)


def outlook(cursor: Any, foreign: Iterable[str]) -> Outlook:
    """What is due and what comes next. In the transaction of a `claim` in vain, all that is due is locked."""
    cursor.execute(_OUTLOOK, {"foreign": list(foreign)})
    now, next_call, due, triggered = cursor.fetchone()
    return Outlook(now, next_call, tuple(due), triggered)


def foreign(cursor: Any, names: Iterable[str]) -> list[str]:
    """The entries that are none of these."""
    cursor.execute(_FOREIGN, (list(names),))
    return [name for (name,) in cursor.fetchall()]


def figures(cursor: Any) -> dict[str, float]:
    """What monitoring wants to know of the entries; late: seconds for which the one that waits for longest has."""
    cursor.execute(_FIGURES)
    found: dict[str, float] = cursor.fetchone()[0]
    return found


def record(cursor: Any, report: Report) -> None:
    """In the transaction of the claim: what has become of the tick, into the entry's row and into its history."""
    cursor.execute(_RECORD.format(where=_OWN), report.values(_encoding(cursor)))


def replace_by_failure(cursor: Any, report: Report) -> None:
    """Undo what the function did, record that it failed, and commit: one message, and the claim held until its end."""
    values = report.values(_encoding(cursor))
    cursor.execute(f"ROLLBACK TO SAVEPOINT {SAVEPOINT}; {_RECORD.format(where=_OWN)}; COMMIT", values)


def record_without_claim(cursor: Any, report: Report) -> bool:
    """In a transaction without a claim: the tick has failed. False when it is another worker's by now."""
    cursor.execute(_RECORD.format(where=_UNCLAIMED), report.values(_encoding(cursor)))
    return bool(cursor.rowcount)


def move_on(cursor: Any, tick: Tick, course: Course, *, skipped: bool, given_up: str = "") -> None:
    """In the transaction of the claim: another course, and no run; it is ``skipped``, or has killed its workers."""
    values = {"name": tick.name, "began": tick.began, "skipped": skipped, "given_up": given_up}
    cursor.execute(_MOVE_ON, {**values, **_for_course(tick.course), **_of_course(course)})


def portion(cursor: Any, tick: Tick, seconds: float, done: float | None, remaining: float | None) -> None:
    """In the transaction of the claim, which is about to be committed: keep the entry to ourselves for ``seconds``."""
    cursor.execute(_PORTION, (seconds, done, remaining, tick.name))


def _of_course(course: Course) -> dict[str, Any]:
    return {
        "due": course.due,
        "planned": course.planned,
        "cause": course.cause.value,
        "failures": course.failures,
        "first_failure": course.first_failure,
        "kills": course.kills,
    }


def _for_course(course: Course) -> dict[str, Any]:
    return {"for_cause": course.cause.value, "for_planned": course.planned, "for_due": course.due}


def _encoding(cursor: Any) -> str:
    # Only to UTF8 every character can be converted; what can't would make the record of a failure fail.
    server = cursor.connection.info.parameter_status("server_encoding")
    return "utf-8" if server == "UTF8" else "ascii"


def storable(text: str, encoding: str) -> str:
    """The text with nothing in it that PostgreSQL refuses."""
    return text.replace("\0", "\\0").encode(encoding, "backslashreplace").decode(encoding)
