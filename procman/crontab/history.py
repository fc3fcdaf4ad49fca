"""What is remembered of runs: attempts that are on their way, those that ended with their workers, and how long.

An attempt is committed before its function is called, on a connection beside the claim, and under its protection:
so nobody else notes one for the same entry. What a killed worker can't say itself, its successor says, who finds the
attempt unfinished; why it was killed, and where it was then, the arbiter tells the other workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from procman.crontab.store import storable

if TYPE_CHECKING:
    from procman.crontab.store import Tick

VACUUM_ROWS = 1000  # at a time

_NOTE = """
    WITH dead AS (
        SELECT * FROM procman.cron_attempt WHERE name = %(name)s AND number = %(number)s
    ), noted AS (
        INSERT INTO procman.cron_run
            (name, number, cause, planned, due, began, outcome, reason, worker, host, pid, stacks)
        SELECT name, number + 1, %(cause)s, %(planned)s, %(due)s, began, 'killed', coalesce(reason, 'lost'), worker,
            host, pid, stacks
        FROM dead
    )
    INSERT INTO procman.cron_attempt (name, number, began, worker, host, pid)
    VALUES (%(name)s, %(number)s, %(began)s, %(worker)s, %(host)s, %(pid)s)
    ON CONFLICT (name) DO UPDATE SET
        dead = CASE WHEN cron_attempt.number = excluded.number THEN cron_attempt.dead + 1 ELSE 0 END,
        number = excluded.number, began = excluded.began, worker = excluded.worker, host = excluded.host,
        pid = excluded.pid, reason = NULL, stacks = NULL
    RETURNING dead
"""
_GIVE_BACK = """
    UPDATE procman.cron_attempt SET number = NULL WHERE name = %s AND number = %s AND host = %s AND pid = %s
"""
# The attempt first: whoever finds it dead in between copies what is there by then.
_EXPLAIN_ATTEMPT = """
    UPDATE procman.cron_attempt SET reason = coalesce(reason, %(reason)s), stacks = coalesce(stacks, %(stacks)s)
    WHERE host = %(host)s AND pid = %(pid)s
        AND number = (SELECT runs FROM procman.cron WHERE cron.name = cron_attempt.name)
"""
_EXPLAIN_RUN = """
    UPDATE procman.cron_run SET reason = CASE reason WHEN 'lost' THEN %(reason)s ELSE reason END,
        stacks = coalesce(stacks, %(stacks)s)
    WHERE host = %(host)s AND pid = %(pid)s AND outcome = 'killed'
        AND began > clock_timestamp() - interval '1 day'
"""
_VACUUM = """
    DELETE FROM procman.cron_run WHERE id = ANY (ARRAY(
        SELECT id FROM procman.cron_run
        WHERE began < clock_timestamp() - make_interval(secs => %s) AND outcome NOT IN ('done', 'partial')
        ORDER BY began LIMIT %s FOR UPDATE SKIP LOCKED))
"""
# What the code has not had for that long, although the same application has been imported since, and nobody has run.
_VACUUM_ENTRIES = """
    WITH gone AS (
        DELETE FROM procman.cron WHERE name = ANY (ARRAY(
            SELECT name FROM procman.cron JOIN (
                SELECT application, max(declared_at) AS latest FROM procman.cron GROUP BY application
            ) AS release USING (application)
            WHERE declared_at < latest - make_interval(secs => %(age)s)
                AND coalesce(last_call, declared_at) < clock_timestamp() - make_interval(secs => %(age)s)
            LIMIT 100 FOR UPDATE OF cron SKIP LOCKED))
        RETURNING name
    ), attempts AS (DELETE FROM procman.cron_attempt USING gone WHERE cron_attempt.name = gone.name),
    runs AS (DELETE FROM procman.cron_run USING gone WHERE cron_run.name = gone.name),
    triggers AS (DELETE FROM procman.cron_trigger USING gone WHERE cron_trigger.name = gone.name),
    switches AS (DELETE FROM procman.cron_disabled USING gone WHERE cron_disabled.name = gone.name)
    SELECT count(*) FROM gone
"""


@dataclass(frozen=True, slots=True)
class Who:
    """The worker that runs it."""

    worker: str
    host: str
    pid: int


def note(cursor: Any, tick: Tick, who: Who) -> int:
    """Note that we are about to begin; how many attempts at the same run have ended with their workers.

    On a connection in autocommit mode, by whoever holds the claim.
    """
    course = tick.course
    values = {
        "name": tick.name,
        "number": tick.runs,
        "cause": course.cause.value,
        "planned": course.planned,
        "due": course.due,
        "began": tick.began,
        "worker": who.worker,
        "host": who.host,
        "pid": who.pid,
    }
    cursor.execute(_NOTE, values)
    return int(cursor.fetchone()[0])


def give_back(cursor: Any, tick: Tick, who: Who) -> None:
    """We live, and have not run it: nobody shall take it for dead. Before the claim is let go."""
    cursor.execute(_GIVE_BACK, (tick.name, tick.runs, who.host, who.pid))


def explain(cursor: Any, host: str, pid: int, reason: str, stacks: str) -> None:
    """Why the worker of this pid was killed, and where it was."""
    values = {"host": host, "pid": pid, "reason": reason, "stacks": storable(stacks, "ascii") or None}
    cursor.execute(_EXPLAIN_ATTEMPT, values)
    cursor.execute(_EXPLAIN_RUN, values)


def vacuum(cursor: Any, age: float) -> bool:
    """Forget some of what is older than ``age`` seconds; true when there may be more.

    Runs that succeeded go by their number, when their entry is run again.
    """
    cursor.execute(_VACUUM, (age, VACUUM_ROWS))
    more = bool(cursor.rowcount == VACUUM_ROWS)
    cursor.execute(_VACUUM_ENTRIES, {"age": age})
    return more
