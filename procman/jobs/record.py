"""A job as applications see it: where it stands, and what it has returned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from procman import signaling
from procman.errors import ProcmanError
from procman.jobs import steering, values

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

_COLUMNS = """
    job.uuid::text, job.function, job.state, job.channel, job.priority, job.description, job.identity_key,
    job.graph::text, job.eta, job.retry, job.max_retries, job.date_created, job.date_started, job.date_done,
    job.exec_time, job.args, job.kwargs, job.result, job.exc_name, job.exc_message
"""
_BY_UUID = f"SELECT {_COLUMNS} FROM procman.job AS job WHERE uuid = ANY(%s::uuid[]) ORDER BY id"
_PARENTS = f"""
SELECT {_COLUMNS} FROM procman.job_dependency AS edge JOIN procman.job AS job ON job.id = edge.parent
WHERE edge.child = %s ORDER BY job.id
"""


class NotDone(ProcmanError):
    """The result of a job was asked for that has none, because it has not succeeded (yet)."""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job's row, as it was read. ``retry`` counts the tries; times are in UTC; ``exec_time`` is in seconds."""

    uuid: str
    function: str
    state: str
    channel: str
    priority: int
    description: str | None
    identity_key: str | None
    graph: str | None
    eta: datetime | None
    retry: int
    max_retries: int
    date_created: datetime
    date_started: datetime | None
    date_done: datetime | None
    exec_time: float | None
    stored_args: Any
    stored_kwargs: Any
    stored_result: Any
    exc_name: str | None
    exc_message: str | None

    @property
    def args(self) -> list[Any]:
        return list(values.decode(self.stored_args))

    @property
    def kwargs(self) -> dict[str, Any]:
        return dict(values.decode(self.stored_kwargs))

    @property
    def result(self) -> Any:
        """What the function has returned. Raises NotDone unless the state is ``done``."""
        if self.state != "done":
            why = f": {self.exc_name}: {self.exc_message}" if self.exc_name else ""
            raise NotDone(f"job {self.uuid} is {self.state}{why}")
        return values.decode(self.stored_result)


def get(uuid: str) -> JobRecord:
    """The job, as the current unit sees it. Raises LookupError if there is none (any more)."""
    with signaling.cursor() as cr:
        found = read(cr, [uuid])
    if not found:
        raise LookupError(f"there is no job {uuid}")
    return found[0]


def cancel(uuid: str, *, running: bool = False) -> bool:
    """Cancel the job, and those that wait for it, if the current unit commits; false if it has begun or is over.

    With ``running`` also when it has begun, and then at once: its worker's transaction is ended, whatever becomes of
    the unit.
    """
    with signaling.cursor() as cr:
        return bool(steering.cancel(cr, [uuid], running=running))


def requeue(uuid: str, *, done: bool = False) -> bool:
    """Queue a job that has failed or was cancelled once more, with all its tries, if the current unit commits.

    With ``done`` also one that has succeeded. False if it is in no such state, or if an equal job waits.
    """
    with signaling.cursor() as cr:
        return bool(steering.requeue(cr, [uuid], done=done))


def read(cr: Any, uuids: Sequence[str]) -> list[JobRecord]:
    """Those that there are, in the order in which they were made."""
    cr.execute(_BY_UUID, (list(uuids),))
    return [JobRecord(*row) for row in cr.fetchall()]


def parents_of(cr: Any, id: int) -> list[JobRecord]:  # noqa: A002
    """The jobs that this one has waited for, in the order in which they were made."""
    cr.execute(_PARENTS, (id,))
    return [JobRecord(*row) for row in cr.fetchall()]
