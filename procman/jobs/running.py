"""The job that the current thread works on: what it may know of itself, and how it says how far it is."""

from __future__ import annotations

import logging
import math
from contextlib import contextmanager
from contextvars import ContextVar
from decimal import Decimal
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg2

from procman import signaling
from procman.errors import DatabaseUnavailable
from procman.jobs import record, states
from procman.observe import whom

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from procman.jobs.record import JobRecord
    from procman.jobs.states import Attempt

log = logging.getLogger("procman.jobs")

PROGRESS_EVERY = 0.5  # seconds between two notes of it in the database
_MOST_NOTE = 1024


class Superseded(BaseException):
    """The row is no longer in this try: cancelled, or given to somebody else. What the try does can't be committed.

    It derives from BaseException so that an application's ``except Exception`` does not swallow it.
    """


class Current:
    """The job in which this code runs.

    ``uuid``; ``number`` counts its tries, ``retry`` those of them that count; ``max_retries``: how many it has, 0: any
    number.
    """

    def __init__(self, database: str, attempt: Attempt, *, outside: bool = True) -> None:
        self.uuid = attempt.uuid
        self.number = attempt.number
        self.retry = attempt.retry
        self.max_retries = attempt.max_retries
        self._database = database
        self._attempt = attempt
        self._outside = outside
        self._noted_at = -math.inf

    def parents(self) -> list[JobRecord]:
        """The jobs that this one has waited for, in the order in which they were made; ``.result`` of each."""
        with signaling.cursor() as cr:
            return record.parents_of(cr, self._attempt.id)

    def progress(self, done: float, total: float | None, note: str) -> None:
        now = monotonic()
        last = total is not None and done >= total
        if now - self._noted_at < PROGRESS_EVERY and not last:
            return
        self._noted_at = now
        self._write(
            lambda cr: states.note_progress(cr, self._attempt, done, total, note[:_MOST_NOTE].replace("\0", "?"))
        )

    def _write(self, note: Callable[[Any], bool]) -> None:
        if not self._outside:
            with signaling.cursor() as cr:
                note(cr)
            return
        try:
            with signaling.lend(self._database) as connection, connection.cursor() as cr:
                if not note(cr):
                    raise Superseded
        except (DatabaseUnavailable, psycopg2.Error) as error:
            # It is only said to whoever looks.
            log.debug("The progress of job %s can't be noted: %s", self.uuid, error)


_current: ContextVar[Current | None] = ContextVar("procman_job", default=None)


def current() -> Current | None:
    """The job that this thread works on; None outside of jobs."""
    return _current.get()


@contextmanager
def working_on(job: Current) -> Iterator[None]:
    """`current` is this one in the block."""
    token = _current.set(job)
    try:
        yield
    finally:
        _current.reset(token)


def progress(done: float, total: float | None = None, note: str = "") -> None:
    """Say how far the current job is: ``done`` of ``total``, and what it is doing.

    Seen at once by `procmanctl jobs show`, `top` and the dashboard, while the job's own transaction is still open.
    To be called as often as you like: it is written down twice a second at most. Where the job has been cancelled
    meanwhile, this call ends it. Outside of jobs it does nothing. Raises ValueError for what is no number.
    """
    for each in (done, total):
        if each is not None and not (isinstance(each, int | float | Decimal) and math.isfinite(each)):
            raise ValueError(f"progress: expected numbers, got {each!r}")
    whom.show_progress(done, total)
    job = _current.get()
    if job is not None:
        job.progress(done, total, note)
