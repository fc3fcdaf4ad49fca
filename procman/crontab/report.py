"""What operators see of entries, and do with them; each call is about one database.

Rows are dicts that JSON can say; times are ISO 8601. Nothing here waits for an entry that is being run. All of it
raises DatabaseUnavailable, DatabaseSetupError and psycopg2.Error.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from procman import signaling
from procman.crontab import policy, schedule, triggers
from procman.crontab.policy import Cause, Course, Misfire, Terms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from procman.db.connection import Connection

# An entry is running when its last attempt is at the run that comes next, and somebody holds its row: which is asked
# for without touching it: every transaction that has locked a row holds a lock on its own number (PostgreSQL, 54.12).
_LISTING = """
    SELECT jsonb_build_object(
        'name', name, 'schedule', schedule, 'state', CASE
            WHEN disabled.name IS NOT NULL THEN 'disabled'
            WHEN running THEN 'running'
            WHEN gone THEN 'gone'
            WHEN next_call IS NULL THEN 'waiting'
            WHEN next_call <= clock_timestamp() THEN 'due'
            ELSE 'waiting' END,
        'next_call', next_call, 'planned', planned, 'cause', cause, 'priority', priority, 'misfire', misfire,
        'jitter', jitter, 'timeout', timeout, 'last_call', last_call, 'last_seconds', last_seconds,
        'last_status', last_status, 'last_worker', last_worker, 'last_error', last_error,
        'failure_count', failure_count, 'first_failure', first_failure, 'runs', runs, 'done', done,
        'remaining', remaining, 'disabled_since', disabled.since, 'disabled_reason', disabled.reason,
        'triggers', (SELECT count(*) FROM procman.cron_trigger WHERE cron_trigger.name = cron.name),
        'running_since', CASE WHEN running THEN began END, 'running_worker', CASE WHEN running THEN worker END,
        'running_host', CASE WHEN running THEN host END, 'running_pid', CASE WHEN running THEN pid END)
    FROM procman.cron LEFT JOIN procman.cron_disabled AS disabled USING (name)
        LEFT JOIN procman.cron_attempt AS attempt USING (name),
        LATERAL (SELECT coalesce(attempt.number = runs, false) AND cron.xmax IN (
            SELECT transactionid FROM pg_locks WHERE locktype = 'transactionid')) AS of_attempt (running),
        LATERAL (SELECT EXISTS (SELECT FROM procman.cron AS other WHERE other.application = cron.application
            AND other.declared_at > cron.declared_at + interval '1 minute')) AS of_release (gone)
    WHERE %(name)s::text IS NULL OR name = %(name)s ORDER BY name
"""
_HISTORY = """
    SELECT to_jsonb(run) - 'id' FROM procman.cron_run AS run WHERE name = %s ORDER BY number DESC, id DESC LIMIT %s
"""
_SINCE = "SELECT to_jsonb(run) - 'id' FROM procman.cron_run AS run WHERE name = %s AND began >= %s ORDER BY id LIMIT 1"
_DISABLE = "INSERT INTO procman.cron_disabled (name, reason) VALUES (%s, %s) ON CONFLICT DO NOTHING"
_ENABLE = "DELETE FROM procman.cron_disabled WHERE name = %s"
_FREE = """
    SELECT schedule, misfire, jitter, next_call, planned, cause, clock_timestamp() FROM procman.cron
    WHERE name = %s FOR NO KEY UPDATE SKIP LOCKED
"""
_RESUME = """
    UPDATE procman.cron SET next_call = %s, planned = %s, cause = %s, failure_count = 0, first_failure = NULL, kills = 0
    WHERE name = %s
"""


def listing(database: str, name: str | None = None) -> list[dict[str, Any]]:
    """All entries, or the one of this name."""
    with signaling.lend(database) as connection:
        return _rows(connection, _LISTING, {"name": name})


def names(database: str) -> list[str]:
    """Of all entries."""
    with signaling.lend(database) as connection:
        return _rows(connection, "SELECT name FROM procman.cron ORDER BY name", ())


def history(database: str, name: str, limit: int) -> list[dict[str, Any]]:
    """The last runs of an entry, the latest first."""
    with signaling.lend(database) as connection:
        return _rows(connection, _HISTORY, (name, limit))


def trigger(database: str, name: str) -> datetime:
    """Have the entry run as soon as a worker is free; since when runs are for this."""
    with signaling.lend(database) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        (now,) = cursor.fetchone()
        triggers.write(cursor, name, [None])
        assert isinstance(now, datetime)
        return now


def run_since(database: str, name: str, since: datetime) -> dict[str, Any] | None:
    """The first run that has begun since then, when it has ended."""
    with signaling.lend(database) as connection:
        found = _rows(connection, _SINCE, (name, since))
    return found[0] if found else None


def disable(database: str, name: str, reason: str) -> bool:
    """Have it run no more; what is running goes on. False when it was disabled already."""
    with signaling.lend(database) as connection, connection.cursor() as cursor:
        cursor.execute(_DISABLE, (name, reason))
        return bool(cursor.rowcount)


def enable(database: str, name: str) -> bool:
    """Have it run again, at its next regular time, and without its failures. False when it was not disabled."""
    with signaling.unit(database) as unit, unit.cursor() as cursor:
        cursor.execute(_ENABLE, (name,))
        if not cursor.rowcount:
            return False
        cursor.execute(_FREE, (name,))
        row = cursor.fetchone()
        if row is not None:  # else it is still being run, and goes on by the end of that
            course = _resumed(database, name, row)
            cursor.execute(_RESUME, (course.due, course.planned, course.cause.value, name))
        return True


def _resumed(database: str, name: str, row: Sequence[Any]) -> Course:
    text, misfire, jitter, due, planned, cause, now = row
    course = Course(due, planned, Cause(cause))
    if course.cause is Cause.TRIGGER:
        return course  # somebody has asked for it
    terms = Terms(schedule.read(text), Misfire(misfire), jitter)
    return policy.resumed(terms, policy.offset(jitter, name, database), course, now)


def _rows(connection: Connection, statement: str, values: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return [value for (value,) in cursor.fetchall()]
