"""For the tests of applications: what they have enqueued is looked at, and run, without a daemon and without a commit.

A test works in one unit, which is rolled back at its end: see `rolled_back`, and `procman.jobs.fixtures` for pytest.
What it has enqueued is seen by nobody else; `run_jobs` runs it in the same transaction, each job in a savepoint, with
the rules about results, retries and parents that hold for workers.

The database should be one of the tests' own: jobs that others have committed there are run as well.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

from procman import signaling
from procman.jobs import execute, record, states, steering
from procman.jobs.running import Current, working_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from procman.jobs.function import JobFunction
    from procman.jobs.record import JobRecord
    from procman.jobs.states import Attempt
    from procman.signaling import Unit

MOST_JOBS = 1000

_WAITING = """
SELECT uuid::text FROM procman.job WHERE phase IN ('live', 'waiting') AND state <> 'started' ORDER BY id
"""
_NEXT = """
UPDATE procman.job SET state = 'enqueued', date_enqueued = clock_timestamp() WHERE id = (
    SELECT id FROM procman.job WHERE phase = 'live' AND state = 'pending'
    AND (eta IS NULL OR eta <= clock_timestamp() OR %s)
    ORDER BY greatest(eta, clock_timestamp()) > clock_timestamp(), priority, date_created, id LIMIT 1)
RETURNING uuid::text
"""


@contextmanager
def rolled_back(database: str | None = None) -> Iterator[Unit]:
    """A unit for the block, of which nothing remains."""
    unit = signaling.begin(database)
    try:
        yield unit
    finally:
        unit.rollback()


def enqueued(function: JobFunction[..., Any] | None = None) -> list[JobRecord]:
    """The jobs that wait, of this function or of all, in the order in which they were made."""
    with signaling.cursor() as cr:
        cr.execute(_WAITING)
        jobs = record.read(cr, [uuid for (uuid,) in cr.fetchall()])
    return [job for job in jobs if function is None or job.function == function.reference]


def assert_enqueued(function: JobFunction[..., Any], *args: Any, **kwargs: Any) -> JobRecord:
    """The job that waits to call ``function`` with exactly these arguments, however they were passed.

    Raises AssertionError, which lists what there is instead.
    """
    wanted = _bound(function, args, kwargs)
    jobs = enqueued(function)
    for job in jobs:
        if _bound(function, job.args, job.kwargs) == wanted:
            return job
    calls = [_spelled(function, job.args, job.kwargs) for job in jobs]
    there = f"there are: {', '.join(calls)}" if calls else "there is no job of this function"
    raise AssertionError(f"{_spelled(function, args, kwargs)} is not enqueued; {there}")


def run_jobs(*, future: bool = False, catch: bool = False, most: int = MOST_JOBS) -> list[JobRecord]:
    """Run what is pending, and what that enqueues or lets go, by priority; returns the jobs as they are then.

    Jobs that are to wait until some time are left alone, unless ``future`` says that it has come. The first exception
    that fails a job is raised; with ``catch`` it is in the job's row only. AssertionError when they do not come to an
    end. Raises RuntimeError outside of a unit.
    """
    unit = signaling.current()
    if unit is None:
        raise RuntimeError("run_jobs() works in the unit of a test: see rolled_back()")
    ran: dict[str, None] = {}
    for _ in range(most):
        with unit.cursor() as cr:
            cr.execute(_NEXT, (future,))
            row = cr.fetchone()
            if row is None:
                return record.read(cr, list(ran))
            attempt = states.start(cr, row[0], "test", os.getpid())
        assert attempt is not None
        ran[row[0]] = None
        _InUnit(unit, attempt, catch=catch).run()
        with unit.cursor() as cr:
            steering.release_all(cr)
    raise AssertionError(f"{most} jobs have been run, and there are still others")


class _InUnit(execute.Try):
    """A try within the transaction of somebody else."""

    def __init__(self, unit: Unit, attempt: Attempt, *, catch: bool) -> None:
        super().__init__(unit.database, attempt)
        self._unit = unit
        self._catch = catch

    def _transact(self) -> None:
        began = monotonic()
        with self._unit.savepoint():
            with working_on(Current(self._database, self._attempt, outside=False)):
                result = execute.call(self._attempt)
            if self._unit.ended:
                raise RuntimeError("the job ended the transaction of the test")
            with self._unit.cursor() as cr:
                states.finish(cr, self._attempt, seconds=monotonic() - began, result=execute.stored(result))

    def _fail(self, error: BaseException) -> None:
        super()._fail(error)
        if not self._catch:
            raise error

    def _move(self, move: Callable[[Any], bool]) -> bool:
        with self._unit.cursor() as cr:
            return move(cr)


def _bound(function: JobFunction[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    bound = function.signature.bind(*args, **kwargs)
    bound.apply_defaults()
    # A tuple is kept as a list.
    return {name: list(value) if isinstance(value, tuple) else value for name, value in bound.arguments.items()}


def _spelled(function: JobFunction[..., Any], args: Any, kwargs: Any) -> str:
    parts = [*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())]
    return f"{function.function.__name__}({', '.join(parts)})"
