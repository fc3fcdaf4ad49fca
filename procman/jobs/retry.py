"""When a job is tried again, and the exceptions by which it says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from procman.errors import ProcmanError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    # Tries done so far → seconds to wait, or from how many to how many.
    RetryPattern = Mapping[int, float | tuple[float, float]]

DEFAULT_WAIT = 600.0


class RetryJob(ProcmanError):
    """Raised by a job that wants to be tried again, ``seconds`` from now (default: by its retry pattern).

    With ``ignore_retry`` this try does not count. Any other exception fails the job at once.
    """

    def __init__(self, message: str = "", *, seconds: float | None = None, ignore_retry: bool = False) -> None:
        super().__init__(message)
        self.seconds = seconds
        self.ignore_retry = ignore_retry


# As those know it who come from OCA's queue_job.
RetryableJobError = RetryJob


class FailedJobError(ProcmanError):
    """A job failed for good, such as by asking for one more try than it has."""


def check_pattern(pattern: RetryPattern | None) -> dict[str, float | list[float]] | None:
    """The pattern as it is stored; raises ValueError or TypeError for one that can't be meant."""
    if not pattern:
        return None
    stored: dict[str, float | list[float]] = {}
    for tries, wait in pattern.items():
        if isinstance(tries, bool) or not isinstance(tries, int) or tries < 1:
            raise ValueError(f"retry_pattern: {tries!r}: expected how many tries were done, 1 or more")
        waits = list(wait) if isinstance(wait, list | tuple) else [wait]
        if not all(isinstance(each, int | float) and each >= 0 for each in waits) or len(waits) > 2:
            raise ValueError(f"retry_pattern: {wait!r}: expected seconds, or a pair of them")
        stored[str(tries)] = waits[0] if len(waits) == 1 else waits
    return stored


def wait_before(pattern: Mapping[str, Any] | None, tries: int, uniform: Callable[[float, float], float]) -> float:
    """Seconds until the next try after so many; ``uniform(a, b)`` draws where the pattern gives a range.

    The entry for the most tries that are not more than these counts; before the first one it is 600 s.
    """
    wait: Any = DEFAULT_WAIT
    for least in sorted(map(int, pattern or {})):
        if least <= tries:
            wait = (pattern or {})[str(least)]
    if isinstance(wait, list):
        return uniform(wait[0], wait[-1])
    return float(wait)
