"""How declared entries come into the table, and which of two releases has its way.

While a reload is under way, and on several machines, workers of two releases see the same rows. What was imported
latest wins: who was imported before that changes nothing, however often it comes back. All workers that a template has
forked are of one import, and have one name for it. Ages are told by the
database's clock, from the time that has passed since the import, so that machines need not agree on the time.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from procman.crontab import policy
from procman.crontab.policy import Course, Terms

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from procman.crontab.entries import Cron, Entry

_KNOWN = """
    SELECT name, schedule, misfire, jitter, priority, timeout, declared_at, declared_by, next_call, planned, cause,
        last_call
    FROM procman.cron WHERE name = ANY (%s)
"""
_VALUES = """
    (%(name)s::text[], %(schedule)s::text[], %(misfire)s::text[], %(jitter)s::double precision[],
     %(priority)s::integer[], %(timeout)s::double precision[], %(due)s::timestamptz[], %(planned)s::timestamptz[])
     AS new (name, schedule, misfire, jitter, priority, timeout, due, planned)
"""
_ADD = f"""
    INSERT INTO procman.cron (name, application, declared_at, declared_by, schedule, misfire, jitter, priority, timeout,
        next_call, planned)
    SELECT name, %(application)s, %(declared)s, %(by)s, schedule, misfire, jitter, priority, timeout, due, planned
    FROM unnest{_VALUES} ON CONFLICT DO NOTHING
"""
# Not INSERT ... ON CONFLICT DO UPDATE: that waits for whoever runs the entry.
_FREE = """
    SELECT name FROM procman.cron
    WHERE name = ANY (%(name)s) AND declared_at < %(declared)s AND declared_by <> %(by)s FOR NO KEY UPDATE SKIP LOCKED
"""
_CHANGE = f"""
    UPDATE procman.cron SET application = %(application)s, declared_at = %(declared)s, declared_by = %(by)s,
        schedule = new.schedule,
        misfire = new.misfire, jitter = new.jitter, priority = new.priority, timeout = new.timeout,
        next_call = new.due, planned = new.planned
    FROM unnest{_VALUES} WHERE cron.name = new.name AND cron.name IN ({_FREE})
"""
_CONFIRM = f"""
    UPDATE procman.cron SET application = %(application)s, declared_at = %(declared)s, declared_by = %(by)s
    WHERE name IN ({_FREE})
"""


def register(cursor: Any, declared: Cron, *, application: str, database: str) -> bool:
    """Add the entries that are missing, change those that are not as they are in the code.

    On a connection in autocommit mode. False when one that is to be changed is being run right now: then it is to be
    tried again later.
    """
    cursor.execute("SELECT clock_timestamp()")
    (now,) = cursor.fetchone()
    at, by = now - timedelta(seconds=declared.age), declared.imported
    entries = declared.entries
    cursor.execute(_KNOWN, (list(entries),))
    known = {row[0]: _Row(*row) for row in cursor.fetchall()}
    missing, changed, same = [], [], []
    for name, entry in entries.items():
        row = known.get(name)
        shift = policy.offset(entry.terms.jitter, name, database)
        if row is None:
            missing.append((entry, policy.begin(entry.terms, shift, now)))
        elif row.declared_by != by and row.declared_at < at:
            if row.is_under(entry.terms):
                same.append(name)
            else:
                changed.append((entry, row.course_under(entry.terms, shift, now)))
    common = {"application": application, "declared": at, "by": by}
    if missing:
        cursor.execute(_ADD, {**common, **_columns(missing)})
    complete = True
    if changed:
        cursor.execute(_CHANGE, {**common, **_columns(changed)})
        complete = cursor.rowcount == len(changed)
    if same:
        cursor.execute(_CONFIRM, {**common, "name": same})
        complete = complete and cursor.rowcount == len(same)
    return complete


class _Row:
    """A row as it is."""

    def __init__(
        self,
        name: str,
        text: str,
        misfire: str,
        jitter: float,
        priority: int,
        timeout: float | None,
        declared_at: datetime,
        declared_by: str,
        due: datetime | None,
        planned: datetime | None,
        cause: str,
        last_call: datetime | None,
    ) -> None:
        self.name = name
        self.declared_at = declared_at
        self.declared_by = declared_by
        self._terms = (text, misfire, jitter, priority, timeout)
        self._course = Course(due, planned, policy.Cause(cause))
        self._last_call = last_call

    def is_under(self, terms: Terms) -> bool:
        return self._terms == _texts(terms)

    def course_under(self, terms: Terms, shift: timedelta, now: datetime) -> Course:
        """Where it goes on: another schedule begins anew, and what a trigger has asked for stays due."""
        course = self._course
        planned = course.planned
        if self._terms[0] != terms.schedule.text:
            planned = policy.begin(terms, shift, now, self._last_call).planned
        due = None if planned is None else planned + shift
        if course.cause is not policy.Cause.SCHEDULE and course.due is not None:
            due = course.due if due is None else min(due, course.due)
        return Course(due, planned, course.cause)


def _texts(terms: Terms) -> tuple[str, str, float, int, float | None]:
    return terms.schedule.text, terms.misfire.value, terms.jitter, terms.priority, terms.timeout


def _columns(pairs: Iterable[tuple[Entry, Course]]) -> dict[str, list[Any]]:
    rows = [(entry.name, *_texts(entry.terms), course.due, course.planned) for entry, course in pairs]
    names = ("name", "schedule", "misfire", "jitter", "priority", "timeout", "due", "planned")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
