"""Several jobs in one transaction: what a worker does when the runner asks for jobs that want to share a commit.

Each job has a savepoint, so one that fails takes back its own work and nothing else; all that succeed are ``done`` by
the commit that makes their work last. What can't be told apart is not guessed at: when the transaction itself is lost -
the connection, a conflict that shows at the commit, a job that ended it - those whose work is not committed are run
once more, each in a transaction of its own, as if they had never shared one. When a limit ends one of them the worker
is on its way out, and the others go back to the queue. Who has been tried once is not put into a batch again.

Each job is a unit for the limits, and for those who look on.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Any

from psycopg2.extensions import TRANSACTION_STATUS_INTRANS

from procman import signaling
from procman.errors import UnitAborted
from procman.jobs import states
from procman.jobs.execute import IN_THE_WAY, Outcome, Try, call, introduce, stored
from procman.jobs.running import Current, Superseded, working_on
from procman.jobs.states import Attempt, Failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from procman.jobs.execute import Watch
    from procman.signaling.units import Unit

log = logging.getLogger("procman.jobs")


class _Left(Exception):
    """The job wanted to end the process, and ends itself only."""

    def __init__(self, why: BaseException) -> None:
        super().__init__(why)
        self.why = why


class _Lost(Exception):
    """The transaction is not the one any more in which all of them were to be done."""


class Batch:
    """``watch`` has begun the unit for the first of them."""

    def __init__(self, database: str, attempts: Sequence[Attempt], watch: Watch | None) -> None:
        self._database = database
        self._waiting = list(attempts)  # the first one is being worked on
        self._watch = watch
        self._begun = 0
        self._has_failed = False  # the one that was worked on last
        self._transaction = 0
        self._done: list[tuple[Attempt, float, str | None]] = []
        self._failed: list[tuple[Attempt, BaseException]] = []
        self._alone: list[Attempt] = []

    def run(self) -> Outcome:
        """Run all of them, and write down what has become of each."""
        began, total = monotonic(), len(self._waiting)
        try:
            self._together()
        except UnitAborted as aborted:
            return self._end(aborted)
        except (Exception, Superseded) as error:
            # The jobs' own hooks run before the commit, so it can be anything: then each job shall meet it alone.
            log.warning("%d jobs have lost the transaction that they shared: %s", total, str(error).strip())
            self._after_the_loss()
        else:
            log.info("%d of %d jobs done together in %.3f s", len(self._done), total, monotonic() - began)
        self._settle_failed()
        status = 200
        for attempt in self._alone:
            self._next(attempt)
            status, self._has_failed = Try(self._database, attempt).run()
        return Outcome(status, failed=self._has_failed)

    def _next(self, attempt: Attempt) -> None:
        """From here on it is this one that is worked on."""
        if self._begun and self._watch is not None:
            self._watch.end_unit(self._has_failed)
            self._watch.begin_unit(f"job {attempt.uuid}".encode())
        self._begun += 1
        self._has_failed = False
        introduce(attempt, self._watch)

    # -- in one transaction --------------------------------------------------------------------------------

    def _together(self) -> None:
        with signaling.unit(self._database) as unit:
            with unit.cursor() as cr:
                self._transaction, held = states.hold_all(cr, self._waiting)
            self._waiting = [attempt for attempt in self._waiting if attempt.id in held]
            while self._waiting:
                self._next(self._waiting[0])
                self._one(unit, self._waiting[0])
                del self._waiting[0]
            if self._done:
                with unit.cursor() as cr:
                    if states.finish_all(cr, self._done) != len(self._done):
                        raise _Lost("one of them was taken for dead")

    def _one(self, unit: Unit, attempt: Attempt) -> None:
        began = monotonic()
        try:
            with unit.next_savepoint(), working_on(Current(self._database, attempt)):
                result = stored(_call(attempt))
            seconds = monotonic() - began
        except Exception as error:
            # The application's boundary: whatever it raises is the end of this one job.
            self._has_failed = True
            if not _goes_on(unit):
                raise self._loss(unit, attempt) from error
            if signaling.lost_against_another(error, IN_THE_WAY):
                self._alone.append(attempt)  # in the snapshot of this transaction it would lose again
            else:
                self._failed.append((attempt, error.why if isinstance(error, _Left) else error))
        else:
            if not _goes_on(unit):
                raise self._loss(unit, attempt)
            self._done.append((attempt, seconds, result))

    def _loss(self, unit: Unit, attempt: Attempt) -> _Lost:
        """The transaction has gone during this job: by itself, or because it was ended by the job."""
        if not unit.ended and unit.connection().closed:
            return _Lost("the connection was closed")
        del self._waiting[0]
        self._failed.append((attempt, RuntimeError("the job ended the transaction that its `done` belongs to")))
        return _Lost(f"{attempt} has ended it")

    # -- otherwise -----------------------------------------------------------------------------------------

    def _after_the_loss(self) -> None:
        """Find out whose work is there, and leave the others to a transaction of their own."""
        with signaling.lend(self._database) as connection, connection.cursor() as cr:
            if self._transaction and states.has_committed(cr, self._transaction):
                states.finish_all(cr, self._done)
            else:
                self._alone = [attempt for attempt, _, _ in self._done] + self._alone
        self._alone += self._waiting

    def _settle_failed(self) -> None:
        for attempt, error in self._failed:
            Try(self._database, attempt).settle(error)

    def _end(self, aborted: UnitAborted) -> Outcome:
        """A limit has ended the one that was worked on; the others are left to another worker."""
        signaling.roll_back_leftover()
        culprit, others = self._waiting[:1], self._waiting[1:]
        for attempt in culprit:
            Try(self._database, attempt).settle(aborted)
        self._settle_failed()
        why = Failure("procman.UnitAborted", f"{aborted.reason} of a job with which it shared a transaction", None)
        for attempt in (*(attempt for attempt, _, _ in self._done), *self._alone, *others):
            Try(self._database, attempt).put_back(why)
        return Outcome(503, failed=True)


def _call(attempt: Attempt) -> Any:
    try:
        return call(attempt)
    except (SystemExit, KeyboardInterrupt) as error:
        # For the savepoint it is an error as any other.
        raise _Left(error) from error


def _goes_on(unit: Unit) -> bool:
    """Whether it is in its transaction still, and can do more in it."""
    if unit.ended:
        return False
    connection = unit.connection()
    return not connection.closed and connection.info.transaction_status == TRANSACTION_STATUS_INTRANS
