"""Running one job: what a worker does when the runner asks for it.

Two transactions. The first moves the row from enqueued to started, so that everybody sees it; the second locks
the row, does the work, writes ``done`` and commits: the work and its ``done`` are one. As long as that one is open
the lock is held, and PostgreSQL lets it go the moment the worker dies, so a try whose row is started and not
locked is dead. What a try leaves when it does not succeed is written by a third one.
"""

from __future__ import annotations

import json
import logging
import os
import random
import time
import traceback
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from uuid import UUID

import psycopg2

from procman import signaling
from procman.errors import LOST_AGAINST_ANOTHER, DatabaseUnavailable, NoDatabase, UnitAborted
from procman.jobs import states, values
from procman.jobs.function import find
from procman.jobs.retry import FailedJobError, RetryJob, wait_before
from procman.jobs.running import Current, Superseded, working_on
from procman.jobs.states import Attempt, Failure
from procman.observe import whom

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("procman.jobs")

# And lock_not_available: another transaction was in the way, which is nobody's fault and over soon.
IN_THE_WAY = (*LOST_AGAINST_ANOTHER, "55P03")
# Together well below the time after which the runner takes an unlocked try for dead.
_AT_ONCE = (0.02, 0.05, 0.1, 0.2, 0.4)
_IN_A_MOMENT = 5.0
_NEXT_RELEASE = 10.0

_MOST_RESULT = 64 * 1024
_MOST_MESSAGE = 4 * 1024
_MOST_INFO = 256 * 1024

_PACKAGE = os.path.dirname(os.path.dirname(__file__))
_INTERRUPTS = os.path.join(_PACKAGE, "workers", "")
_OURS = (_INTERRUPTS, os.path.join(_PACKAGE, "jobs", ""), os.path.join(_PACKAGE, "signaling", ""))


class Outcome(NamedTuple):
    """How to answer the runner, which looks at the row anyway; ``failed``: the unit counts as an error."""

    status: int
    failed: bool


class Watch(Protocol):
    """Who sees to the limits of the units of work in this worker."""

    def begin_unit(self, name: bytes) -> None:
        """A unit begins."""

    def bound_unit(self, seconds: float) -> None:
        """It may take so long, from its beginning on."""

    def end_unit(self, failed: bool = False) -> None:
        """It is over."""


def run(database: str, asked: str, *, worker: str = "", watch: Watch | None = None) -> Outcome:
    """Run the job if it is enqueued; a job in any other state is left alone. Or several, ``asked`` for with commas.

    ``watch`` has begun the unit for the first one. Raises DatabaseUnavailable when the server is away; then the runner
    finds the jobs and offers them again.
    """
    try:
        uuids = [str(UUID(uuid)) for uuid in asked.split(",")]
    except ValueError:
        return Outcome(400, failed=False)
    try:
        with signaling.lend(database) as connection, connection.cursor() as cr:
            attempts = states.start_all(cr, uuids, worker, os.getpid())
    except NoDatabase as error:
        log.warning("Job %s: %s", asked, error)
        return Outcome(404, failed=False)
    for uuid in set(uuids) - {attempt.uuid for attempt in attempts}:
        log.info("Job %s is left alone: it is not on offer, or not any more", uuid)
    if not attempts:
        return Outcome(200, failed=False)
    if len(attempts) > 1:
        from procman.jobs.batch import Batch

        return Batch(database, attempts, watch).run()
    introduce(attempts[0], watch)
    return Try(database, attempts[0]).run()


def introduce(attempt: Attempt, watch: Watch | None) -> None:
    """Say what the unit that has begun is about, and how long it may take."""
    whom.rename(f"job {attempt.function} {attempt.uuid}")
    if attempt.timeout is not None and watch is not None:
        watch.bound_unit(attempt.timeout)


class Try:
    """One try of a job that has been started."""

    def __init__(self, database: str, attempt: Attempt) -> None:
        self._database = database
        self._attempt = attempt
        self._began = monotonic()

    def run(self) -> Outcome:
        """Do the work, and write down what has become of it."""
        try:
            self._work()
        except (Exception, SystemExit, KeyboardInterrupt, Superseded, UnitAborted) as error:
            # The application's boundary: whatever it raises is the end of this one job.
            return self.settle(error)
        log.info("%s done in %.3f s", self._attempt, monotonic() - self._began)
        return Outcome(200, failed=False)

    def settle(self, error: BaseException) -> Outcome:
        """Write down that the try has come to nothing, and why."""
        name = str(self._attempt)
        match error:
            case Superseded():
                log.warning("%s was cancelled, or taken for dead; what it did is undone", name)
                return Outcome(200, failed=False)
            case UnitAborted():
                log.warning("%s was ended by a limit: %s", name, error.reason)
                signaling.roll_back_leftover()
                self._fail(error)
                return Outcome(503, failed=True)
            case RetryJob() | DatabaseUnavailable():
                return self._try_again(name, error)
        log.error("%s failed", name, exc_info=error)
        self._fail(error)
        return Outcome(500, failed=True)

    def put_back(self, why: Failure) -> None:
        """Have it tried again at once; this try does not count."""
        self._write(lambda cr: states.postpone(cr, self._attempt, why, wait=0.0, counted=False))

    def _work(self) -> None:
        """Do it, at once again when another transaction was in the way."""
        for pause in (*_AT_ONCE, None):
            try:
                self._transact()
            except Exception as error:  # looked at, and passed on
                if not signaling.lost_against_another(error, IN_THE_WAY):
                    raise
                if pause is None:
                    raise RetryJob(str(error).strip(), seconds=_IN_A_MOMENT, ignore_retry=True) from error
                log.info("Job %s lost against another transaction: %s", self._attempt.uuid, str(error).strip())
            else:
                return
            time.sleep(pause * random.uniform(0.5, 1.0))

    def _transact(self) -> None:
        with signaling.unit(self._database) as unit:
            with unit.cursor() as cr:
                if not states.hold(cr, self._attempt):
                    raise Superseded
            with working_on(Current(self._database, self._attempt)):
                result = call(self._attempt)
            if unit.ended:
                raise RuntimeError("the job ended the transaction that its `done` belongs to")
            with unit.cursor() as cr:
                seconds = monotonic() - self._began
                if not states.finish(cr, self._attempt, seconds=seconds, result=stored(result)):
                    raise Superseded

    def _try_again(self, name: str, error: RetryJob | DatabaseUnavailable) -> Outcome:
        attempt = self._attempt
        wait: float | None = _IN_A_MOMENT
        counted = True
        if isinstance(error, RetryJob):
            wait, counted = error.seconds, not error.ignore_retry
        if counted and 0 < attempt.max_retries <= attempt.retry:
            last = FailedJobError(f"Max. retries ({attempt.max_retries}) reached: {error}")
            last.__cause__ = error
            log.error("%s failed: %s", name, last)
            self._fail(last)
            return Outcome(500, failed=True)
        if wait is None:
            wait = wait_before(attempt.retry_pattern, attempt.retry, random.uniform)
        failure = describe(error)
        outcome = "retry" if isinstance(error, RetryJob) else "dead"
        if self._write(lambda cr: states.postpone(cr, attempt, failure, wait=wait, counted=counted, outcome=outcome)):
            log.info("%s is tried again in %.0f s: %s", name, wait, error)
        return Outcome(200, failed=False)

    def _fail(self, error: BaseException) -> None:
        failure = describe(error)
        seconds = monotonic() - self._began
        reason = error.reason if isinstance(error, UnitAborted) else None
        self._write(lambda cr: states.fail(cr, self._attempt, failure, seconds=seconds, reason=reason))

    def _write(self, move: Callable[[Any], bool]) -> bool:
        """Make a move in a transaction of its own; false if the job is no longer in this try."""
        try:
            moved = self._move(move)
        except psycopg2.errors.UniqueViolation:
            # An equal job came to wait in the very moment; now it is seen.
            moved = self._move(move)
        if not moved:
            log.warning("Job %s was cancelled, or taken for dead, meanwhile", self._attempt.uuid)
        return moved

    def _move(self, move: Callable[[Any], bool]) -> bool:
        with signaling.lend(self._database) as connection, connection.cursor() as cr:
            return move(cr)


class OfAnotherRelease(RetryJob):
    """The job can't be called by this worker, which has other code than whoever enqueued it: perhaps by another one.

    So it is while a pool is being reloaded. When it is so at each try, the job has failed.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, seconds=_NEXT_RELEASE)


def call(attempt: Attempt) -> Any:
    """What the function returns. Raises OfAnotherRelease for one that is none, or would not take the arguments."""
    try:
        function = find(attempt.function)
        args, kwargs = values.decode(attempt.args), values.decode(attempt.kwargs)
        function.signature.bind(*args, **kwargs)
    except (ImportError, LookupError, TypeError, ValueError) as error:
        raise OfAnotherRelease(f"{attempt.function} can't be called: {error}") from error
    return function(*args, **kwargs)


def describe(error: BaseException) -> Failure:
    """The exception as the row keeps it, with its traceback, within limits."""
    kind = type(error)
    told = traceback.TracebackException.from_exception(error)
    _leave_out_ours(told)
    info = "".join(told.format())
    return Failure(
        name=f"{kind.__module__}.{kind.__qualname__}",
        message=str(error).strip()[:_MOST_MESSAGE],
        # The end says what happened.
        info=info[-_MOST_INFO:],
    )


def _leave_out_ours(told: traceback.TracebackException) -> None:
    """How procman has come to call the function, and how it has interrupted it, is the same each time."""
    frames = list(told.stack)
    theirs = [number for number, frame in enumerate(frames) if not frame.filename.startswith(_OURS)]
    if theirs:
        last = len(frames)
        while frames[last - 1].filename.startswith(_INTERRUPTS):
            last -= 1
        told.stack = traceback.StackSummary.from_list(frames[theirs[0] : last])
    for other in (told.__cause__, told.__context__):
        if other is not None:
            _leave_out_ours(other)


def stored(result: Any) -> str | None:
    """The result as JSON; what can't be kept so, or is very long, is kept as the beginning of its ascii()."""
    if result is None:
        return None
    try:
        text = values.encode(result, "result")
    except (TypeError, ValueError):
        text = ""
    return text if 0 < len(text) <= _MOST_RESULT else json.dumps(ascii(result)[:_MOST_MESSAGE])
