"""When an entry is due: pure arithmetic on moments that are given, all of them in UTC.

Both kinds of schedule keep their phase: the next time after a moment is the first regular one that lies ahead of it.

A schedule has a text, by which the database remembers it and from which `read` makes the same schedule again.
So a worker can compute the next time of an entry whose schedule another release has changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from procman.config.problems import Wrong
from procman.config.values import Duration, Given

if TYPE_CHECKING:
    from datetime import tzinfo

SHORTEST = 0.01  # seconds

NEVER = "@never"
_EVERY = "@every "
_ZONE = "CRON_TZ="


@dataclass(frozen=True)
class Every:
    """At a fixed distance, counted from the first call."""

    interval: timedelta

    @property
    def text(self) -> str:
        """Such as ``@every 10s``."""
        seconds = f"{self.interval.total_seconds():.6f}".rstrip("0").rstrip(".")
        return f"{_EVERY}{seconds}s"

    def first(self, now: datetime, last: datetime | None = None) -> datetime:
        """The first call of an entry that is new, or was called ``last`` under another schedule."""
        return now if last is None else max(now, last + self.interval)

    def after(self, planned: datetime, now: datetime) -> datetime:
        """The next call, after the one that was ``planned`` and after ``now``."""
        missed = max(timedelta(), now - planned) // self.interval
        return planned + (missed + 1) * self.interval


@dataclass(frozen=True)
class Expression:
    """By a cron expression: five fields, or six with the seconds first, in the time of a zone.

    Fields are those of Debian's cron, and ``L`` and ``#`` as in ``MON#1``. Daylight saving as in cron(8) of
    Debian: what is to run at certain hours runs once a day also on the days of the switch, right after the gap if
    its time is skipped, the first time if its time comes twice; what runs at every hour or every few minutes goes
    by the time that really passes.
    """

    fields: str
    zone: str = "UTC"

    @property
    def text(self) -> str:
        """Such as ``CRON_TZ=Europe/Brussels */5 * * * *``."""
        return f"{_ZONE}{self.zone} {self.fields}"

    @cached_property
    def _tzinfo(self) -> tzinfo:
        return UTC if self.zone == "UTC" else ZoneInfo(self.zone)

    def first(self, now: datetime, last: datetime | None = None) -> datetime:
        """The first call of an entry that is new, or was called ``last`` under another schedule."""
        return self.after(now, now)

    def after(self, planned: datetime, now: datetime) -> datetime:
        """The next call, after the one that was ``planned`` and after ``now``."""
        floor = max(planned, now)
        # Asked within the hour that comes twice, CronSim also names times of that hour's first coming.
        for found in CronSim(self.fields, floor.astimezone(self._tzinfo)):
            moment = found.astimezone(UTC)
            # Compared in UTC: times of one zone are compared by what the clock on the wall shows.
            if moment > floor:
                return moment
        raise ValueError(f"cron expression {self.fields!r} names no time within fifty years")


@dataclass(frozen=True)
class Never:
    """Not by itself: only when it is triggered."""

    @property
    def text(self) -> str:
        """``@never``."""
        return NEVER

    def first(self, now: datetime, last: datetime | None = None) -> None:
        """There is none."""

    def after(self, planned: datetime, now: datetime) -> None:
        """There is none."""


Schedule = Every | Expression | Never


_FIELDS = "five fields: minute, hour, day of month, month, day of week"


def every(interval: float | str) -> Every:
    """A schedule from seconds or a duration such as ``"10s"``; raises ValueError for anything else."""
    try:
        seconds = Duration().read(Given(interval, ("every",), ""))
    except Wrong as wrong:
        raise ValueError(f"every: {wrong.problems[0].message}") from None
    if seconds < SHORTEST:
        raise ValueError(f"every: {interval!r} is too often; at least {SHORTEST:g} seconds")
    return Every(timedelta(seconds=seconds))


def expression(fields: str, zone: str = "UTC") -> Expression:
    """A schedule from a cron expression and the name of a time zone; raises ValueError when one is wrong."""
    if not isinstance(fields, str):
        raise TypeError(f"a cron expression is a str, not {type(fields).__name__}")
    made = Expression(" ".join(fields.split()), _checked_zone(zone))
    try:
        made.first(datetime.now(UTC))
    except CronSimError as error:
        raise ValueError(f"cron expression {fields!r}: {error}; expected {_FIELDS}") from None
    return made


@lru_cache(maxsize=1000)
def read(text: str) -> Schedule:
    """The schedule of that text; raises ValueError when there is none."""
    if text == NEVER:
        return Never()
    if text.startswith(_EVERY):
        return every(text.removeprefix(_EVERY))
    zone, _, fields = text.partition(" ")
    if not zone.startswith(_ZONE):
        raise ValueError(f"{text!r} is no schedule")
    return expression(fields, zone.removeprefix(_ZONE))


def _checked_zone(name: str) -> str:
    if name == "UTC":
        return name  # known without a database of time zones
    try:
        ZoneInfo(name)
    except (OSError, LookupError, ValueError, TypeError):
        # ZoneInfo's own: ZoneInfoNotFoundError, ValueError for a path, OSError for a directory such as "Europe".
        raise ValueError(f"there is no time zone {name!r} on this machine") from None
    return name
