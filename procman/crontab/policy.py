"""What follows from what became of a run: when the entry is due next, and whether it is given up. Pure.

Two times are kept apart. ``planned`` is the regular time by the schedule that comes next, or is overdue, and from which
the schedule goes on; ``due`` is when a worker may begin: at the planned time with the entry's jitter, or sooner for a
trigger or for what a run has left to do, or later after a failure. A run that begins when its planned time has come
has done with that time, whatever else it was for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from procman.crontab.schedule import Schedule

GRACE = timedelta(seconds=60)  # a call that begins so much too late was missed, for `Misfire.SKIP`
FIRST_PAUSE = timedelta(seconds=1)  # after the first failure; twice as long after each one more
LONGEST_PAUSE = timedelta(hours=1)
MOST_KILLS = 5  # runs of one call that ended with their workers, until the call is given up
# As Odoo 18 has it: what has failed so often, and for so long, is not tried any more.
FAILURES_TO_GIVE_UP = 5
TIME_TO_GIVE_UP = timedelta(days=7)

DEFAULT_PRIORITY = 10
LEAST_PRIORITY = 1000  # the largest number; each step is worth a second of waiting


class Misfire(StrEnum):
    """What becomes of calls that nobody ran when they were due."""

    SKIP = "skip"  # nothing
    ONCE = "once"  # one run for all of them
    ALL = "all"  # a run for each, and for those as well that came while the entry was being run


class Cause(StrEnum):
    """Why an entry is due."""

    SCHEDULE = "schedule"
    TRIGGER = "trigger"
    PORTION = "portion"  # the last run has left something to do


@dataclass(frozen=True, slots=True)
class Terms:
    """How an entry is to be run: what its decorator says. ``jitter`` and ``timeout`` are in seconds."""

    schedule: Schedule
    misfire: Misfire = Misfire.ONCE
    jitter: float = 0.0
    priority: int = DEFAULT_PRIORITY
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Course:
    """Where an entry is in its course, and how it has fared.

    ``failures`` are those in a row, runs that ended with their workers among them; ``kills`` are the latter, of the
    call that is due.
    """

    due: datetime | None
    planned: datetime | None
    cause: Cause = Cause.SCHEDULE
    failures: int = 0
    first_failure: datetime | None = None
    kills: int = 0
    given_up: bool = False


def offset(jitter: float, name: str, database: str) -> timedelta:
    """How much later than planned the entry is due: always the same for one entry in one database.

    So the distance between runs stays what the schedule says, and neither all entries nor all databases come at once.
    """
    digest = blake2b(f"{database}\0{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return timedelta(seconds=jitter * int.from_bytes(digest) / 2**64)


def pause(failures: int) -> timedelta:
    """How long to leave an entry alone that has failed so often in a row."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * (1 << min(max(failures - 1, 0), 30)))


def begin(terms: Terms, shift: timedelta, now: datetime, last: datetime | None = None) -> Course:
    """The course of an entry that is new at ``now``, or was run ``last`` under another schedule."""
    planned = terms.schedule.first(now, last)
    return Course(_due(planned, shift), planned)


def resumed(terms: Terms, shift: timedelta, course: Course, now: datetime) -> Course:
    """The course of an entry that is enabled again: what would have been run meanwhile is over, and so are failures."""
    planned = course.planned
    if planned is not None and planned + shift <= now:
        planned = terms.schedule.after(planned, now - shift)
    if planned is None:
        planned = terms.schedule.first(now, now)
    return Course(_due(planned, shift), planned)


def opened(terms: Terms, shift: timedelta, course: Course, now: datetime) -> Course:
    """The course at the moment in which a worker is about to run the entry; not due any more: nothing is to be run."""
    planned = course.planned
    late = course.cause is Cause.SCHEDULE and planned is not None and now - shift - planned > GRACE
    if terms.misfire is not Misfire.SKIP or not late or planned is None:
        return course
    planned = terms.schedule.after(planned, now - shift - GRACE)
    return replace(course, due=_due(planned, shift), planned=planned)


def done(
    terms: Terms, shift: timedelta, course: Course, began: datetime, now: datetime, *, remaining: bool = False
) -> Course:
    """After a run that succeeded; ``remaining``: it has left something to do."""
    planned = _after(terms, shift, course, began, now)
    due = _due(planned, shift)
    if remaining:
        # Behind all that have come to be due by now: everybody gets a turn.
        return Course(now, planned, Cause.PORTION)
    return Course(due if due is None or terms.misfire is not Misfire.ALL else max(due, now), planned)


def failed(terms: Terms, shift: timedelta, course: Course, began: datetime, now: datetime) -> Course:
    """After a run that failed. A call of the schedule is over; what a trigger or a portion wanted is tried again."""
    return _over(terms, shift, _one_more_failure(course, 1, now), began, now)


def killed(terms: Terms, shift: timedelta, course: Course, dead: int, now: datetime) -> Course:
    """After ``dead`` runs of the same call have ended with their workers.

    The call is run again: at once after the first time, since workers end for many reasons, and then after growing
    pauses; when it has taken `MOST_KILLS` workers with it, it is over like one that failed.
    """
    kills = course.kills + dead
    if kills == 1 and course.failures == 0:
        return course
    course = replace(_one_more_failure(course, dead, now), kills=kills)
    if kills >= MOST_KILLS:
        return _over(terms, shift, course, now, now)
    return replace(course, due=now + pause(course.failures))


def _one_more_failure(course: Course, number: int, now: datetime) -> Course:
    first = course.first_failure or now
    failures = course.failures + number
    given_up = failures >= FAILURES_TO_GIVE_UP and now - first >= TIME_TO_GIVE_UP
    return replace(course, failures=failures, first_failure=first, given_up=given_up)


def _over(terms: Terms, shift: timedelta, course: Course, began: datetime, now: datetime) -> Course:
    """The call is over without success: when is the next one?"""
    resume = now + pause(course.failures)
    planned = _after(terms, shift, course, began, resume)
    due = _due(planned, shift)
    if course.cause is not Cause.SCHEDULE:
        return replace(course, due=resume, planned=planned, kills=0)
    return replace(course, due=due and max(due, resume), planned=planned, kills=0)


def _after(terms: Terms, shift: timedelta, course: Course, began: datetime, now: datetime) -> datetime | None:
    """The next planned time, after ``now`` unless every one counts; the same if it had not come when the run began."""
    planned = course.planned
    if planned is None:
        return terms.schedule.first(now, now)  # there is none, or one has never been written down
    if planned + shift > began:
        return planned
    return terms.schedule.after(planned, planned if terms.misfire is Misfire.ALL else now - shift)


def _due(planned: datetime | None, shift: timedelta) -> datetime | None:
    return None if planned is None else planned + shift
