"""Runs besides the schedule: wishes of applications and operators, and how they come to the entries."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from procman import signaling

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Moment = datetime | float | None

_INSERT = """
    INSERT INTO procman.cron_trigger (name, at)
    SELECT %(name)s, coalesce(at, clock_timestamp() + make_interval(secs => seconds))
    FROM unnest(%(at)s::timestamptz[], %(seconds)s::double precision[]) AS moment (at, seconds)
"""
# Whoever is being run is left alone: what is wanted meanwhile is for the next run. The entry's row tells from here on
# that it is due, so the wish is gone with the same statement.
_MOVE = """
    WITH due AS (
        SELECT name, min(at) AS at FROM procman.cron_trigger
        WHERE at <= now() AND name <> ALL (ARRAY(SELECT name FROM procman.cron_disabled)) GROUP BY name
    ), free AS (
        SELECT cron.name, due.at FROM procman.cron JOIN due USING (name) FOR NO KEY UPDATE OF cron SKIP LOCKED
    ), moved AS (
        UPDATE procman.cron SET next_call = least(next_call, free.at), cause = 'trigger'
        FROM free WHERE cron.name = free.name RETURNING cron.name
    ), gone AS (
        DELETE FROM procman.cron_trigger USING moved WHERE cron_trigger.name = moved.name AND at <= now()
    )
    SELECT count(*) FROM moved
"""


def moments(at: Moment | Iterable[datetime | float]) -> list[Moment]:
    """When, one by one. Raises TypeError or ValueError for what is no time."""
    if at is None or isinstance(at, str | bytes) or not hasattr(at, "__iter__"):
        return [_checked(at)]
    return [_checked(one) for one in at]


def insert(name: str, at: list[Moment], *, known: Mapping[str, Any] | None = None) -> None:
    """In the current unit, or one of its own. Raises LookupError for an entry that is neither ``known`` nor declared
    in the database.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a cron entry is a str, not {type(name).__name__}")
    with signaling.cursor() as cr:
        if name not in (known or ()):
            cr.execute("SELECT EXISTS (SELECT FROM procman.cron WHERE name = %s)", (name,))
            row = cr.fetchone()
            if row is None or not row[0]:
                raise LookupError(f"there is no cron entry {name!r}")
        write(cr, name, at)


def write(cursor: Any, name: str, at: list[Moment]) -> None:
    """In the transaction of this cursor."""
    if at:
        times = [one if isinstance(one, datetime) else None for one in at]
        seconds = [None if isinstance(one, datetime) else one or 0.0 for one in at]
        cursor.execute(_INSERT, {"name": name, "at": times, "seconds": seconds})


def move(cursor: Any) -> int:
    """Move what is due into the rows of the entries; how many are due by that. In a transaction of its own."""
    cursor.execute(_MOVE)
    return int(cursor.fetchone()[0])


def _checked(at: Any) -> Moment:
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise ValueError(f"at: {at} has no time zone")
        return at
    seconds = at.total_seconds() if isinstance(at, timedelta) else at
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise TypeError(f"at: expected a datetime, a timedelta or seconds from now, got {at!r}")
    return float(seconds)
