"""The call that is being run, as its function sees it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime

TURN = 10.0  # seconds for which a run may go on although others wait


class Portions(Protocol):
    """Who runs the call."""

    def portion(self, call: Call) -> float: ...


class Call:
    """``planned``: the regular time that it is for, None when it is for a trigger alone; ``cause``: why it is run,
    ``"schedule"``, ``"trigger"`` or ``"portion"``; ``last_call``: when the last run before it began that succeeded.
    """

    def __init__(
        self, name: str, *, planned: datetime | None, cause: str, last_call: datetime | None, run: Portions
    ) -> None:
        self.name = name
        self.planned = planned
        self.cause = cause
        self.last_call = last_call
        self.done: float | None = None
        self.remaining: float | None = None
        self._run = run

    def progress(self, *, done: float | None = None, remaining: float | None = None) -> None:
        """See `Cron.progress`."""
        self.done = _number("done", done, self.done)
        self.remaining = _number("remaining", remaining, self.remaining)

    def commit(self, *, done: float | None = None, remaining: float | None = None) -> float:
        """See `Cron.commit`."""
        self.progress(done=done, remaining=remaining)
        return self._run.portion(self)


current: ContextVar[Call | None] = ContextVar("procman_cron_call", default=None)  # that of this thread


def _number(name: str, given: float | None, before: float | None) -> float | None:
    if given is None:
        return before
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < float("inf"):
        raise ValueError(f"{name}: expected a number of at least 0, got {given!r}")
    return float(given)
