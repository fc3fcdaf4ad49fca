"""What can be said of a job beside its arguments: checked when it is said, and as its row keeps it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from procman.core.channels import full_name
from procman.jobs.retry import check_pattern

if TYPE_CHECKING:
    from collections.abc import Iterable

    from procman.jobs.retry import RetryPattern


class Template(NamedTuple):
    """A text with the names of arguments in braces."""

    text: str


# From the arguments of the call; None: no key.
KeyFunction = Callable[..., str | None]
Eta = datetime | timedelta | float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Of a job function, or of one job: see `procman.job`. ``description`` is a template, too."""

    channel: str = "root"
    priority: int = 10
    retries: int = 5
    retry_pattern: RetryPattern | None = None
    identity_key: str | Template | KeyFunction | None = None
    timeout: float | timedelta | None = None
    description: str | None = None
    batch: int | None = None
    eta: Eta = None
    after: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_channel(self.channel)
        _check_integer("priority", self.priority, -(2**31))
        _check_integer("retries", self.retries, 0)
        check_pattern(self.retry_pattern)
        key = self.identity_key
        if not (key is None or callable(key) or (isinstance(key, str | Template) and key)):
            raise ValueError(f"identity_key: expected a text or a function of the arguments, got {key!r}")
        _seconds_of(self.timeout)
        if not (self.description is None or isinstance(self.description, str)):
            raise ValueError(f"description: expected a text, got {self.description!r}")
        if self.batch is not None:
            _check_integer("batch", self.batch, 1)
        _moment(self.eta)

    def but(self, **given: Any) -> Settings:
        """The same, with what is given and not None."""
        known = {field.name for field in fields(self)}
        if unknown := given.keys() - known:
            raise TypeError(f"{', '.join(sorted(unknown))}: no option of a job; there are {', '.join(sorted(known))}")
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def columns(self) -> dict[str, Any]:
        """For the row; ``eta`` is a time, or ``seconds`` a time from now."""
        pattern = check_pattern(self.retry_pattern)
        at, seconds = _moment(self.eta)
        return {
            "channel": full_name(self.channel),
            "priority": self.priority,
            "max_retries": self.retries,
            "retry_pattern": pattern and json.dumps(pattern),
            "timeout": _seconds_of(self.timeout),
            "batch": self.batch,
            "eta": at,
            "seconds": seconds,
        }


def uuids_of(jobs: str | Iterable[str]) -> tuple[str, ...]:
    """One or several, as `Settings.after`."""
    return (jobs,) if isinstance(jobs, str) else tuple(jobs)


def _check_channel(channel: object) -> None:
    if not isinstance(channel, str) or not channel.strip() or not {",", ":", "\n", "\0"}.isdisjoint(channel):
        raise ValueError(f"channel: expected a name such as 'root.mail', got {channel!r}")


def _check_integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
        raise ValueError(f"{name}: expected a whole number, got {value!r}")


def _seconds_of(timeout: object) -> float | None:
    if timeout is None:
        return None
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ValueError(f"timeout: expected seconds, or a timedelta, greater than 0, got {timeout!r}")
    return float(seconds)


def _moment(eta: object) -> tuple[datetime | None, float | None]:
    """A point in time, or seconds from now."""
    if eta is None:
        return None, None
    if isinstance(eta, datetime):
        if eta.tzinfo is None:
            raise ValueError(f"eta: {eta} has no time zone")
        return eta, None
    seconds = eta.total_seconds() if isinstance(eta, timedelta) else eta
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise TypeError(f"eta: expected a datetime, a timedelta or seconds, got {eta!r}")
    return None, float(seconds)
