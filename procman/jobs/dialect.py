"""What the runner wants of a queue's tables in one database: its words, and the `Dialect` that knows the SQL.

There are procman's own tables (`procman.jobs.tables`) and those of OCA's queue_job. A dialect says what to execute and
what a row means; when, how often, in which batches and on which connection is known to `procman.jobs.feed`. Its methods
may wait for PostgreSQL, and raise psycopg2.Error when that fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from procman.jobs.scheduler import PENDING, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from procman.jobs.leadership import Leadership
    from procman.jobs.vacuum import Ages

Key = int | str  # names a job within its database


class NoQueue(Exception):
    """The database has no such queue, at present."""


class Span(NamedTuple):
    """The jobs with these ids and those in between."""

    first: int
    last: int


class Row(NamedTuple):
    """A job's row as it was read; ``wait`` is how long until its eta. The worker is that of its last try.

    ``awaited``: others wait for it to be done, as far as the reading has looked for that. ``batch``: with how many in
    all it may share a request. ``waited`` is how long its first try had to wait from when it could start, and
    ``seconds`` how long the last one took, as far as that is known.
    """

    key: Key
    id: int
    state: str
    channel: str
    priority: int
    created: float
    wait: float | None
    date_enqueued: datetime | None
    date_started: datetime | None
    worker_host: str | None
    worker_pid: int | None
    awaited: bool = False
    batch: int = 0
    waited: float | None = None
    seconds: float | None = None

    def job(self, database: str, now: float) -> Job:
        """As the scheduler wants it. Its clock is ours, and the difference is what PostgreSQL says."""
        eta = now + self.wait if self.wait is not None and self.wait > 0 and self.state == PENDING else 0.0
        order = self.priority, self.created, self.id
        return Job(*order, database, self.key, eta, self.channel, self.state, self.batch)


class Offered(NamedTuple):
    """A job that was marked as enqueued; ``at`` tells this offer from others of the same job."""

    key: Key
    uuid: str
    at: datetime | None


class Dead(NamedTuple):
    """A try that nobody works on any more: which, and what is known of the end of its worker."""

    key: Key
    try_of: datetime
    reason: str | None = None
    text: str | None = None


class Rescued(NamedTuple):
    """A job that was found dead, and what became of it."""

    key: Key
    uuid: str
    state: str
    retry: int
    worker: str | None
    worker_pid: int | None


class Dialect(Protocol):
    """One database's queue."""

    name: str  # of the queue, for people
    notices: str  # the channel to LISTEN on
    settings: str  # the notice that the settings of channels have changed
    leadership: Leadership

    def connect(self, database: str, *, listen: bool) -> Any:
        """A connection in autocommit mode: the one that listens, or the one that asks and writes. Raises NoQueue."""

    def fields(self, database: str) -> str:
        """What a request for a job of this database has in its head beside the usual; each line with its end."""

    def understand(self, payload: str) -> Span | Row | Key | None:
        """Which rows a notice is about; the row itself, if it has been told whole."""

    def by_key(self, cr: Any, keys: Sequence[Key]) -> list[Row]:
        """These rows, in whatever state; those that are no longer there are left out."""

    def live(self, cr: Any, span: Span, most: int) -> list[Row]:
        """Those of the span that are pending, enqueued or started, by id; no more than so many."""

    def running(self, cr: Any) -> list[Row]:
        """All that are enqueued or started."""

    def failed(self, cr: Any, matters: Callable[[str], bool]) -> list[Row]:
        """All that have failed, in channels where that matters."""

    def paused(self, cr: Any) -> dict[str, bool]:
        """What was said of channels while everything runs: paused, or explicitly not."""

    def find(self, cr: Any, uuid: str) -> Key | None:
        """The key of the job of this uuid."""

    def resting(self, cr: Any) -> dict[tuple[str, str], int]:
        """How many jobs there are, by channel and state, that have failed or wait for others."""
        return {}

    def abandoned(self, cr: Any, keys: Sequence[Key]) -> dict[Key, datetime]:
        """Which of these jobs are started and worked on by nobody; with the tries that they are in."""

    def release(self, cr: Any, over: Sequence[Key] | None) -> list[Key]:
        """Let those go that waited for these jobs and wait for nothing any more; None: for any jobs. Which ones.

        Where workers do so themselves there is nothing to do.
        """
        return []

    def offer(self, cr: Any, keys: Sequence[Key]) -> list[Offered]:
        """pending → enqueued, for those that are pending and due, as long as this process leads."""

    def take_back(self, cr: Any, offers: Sequence[Offered]) -> None:
        """enqueued → pending, for those that are still in this very offer."""

    def rescue(self, cr: Any, dead: Sequence[Dead]) -> list[Rescued]:
        """started → pending or failed, for those that are still in this try and that nobody works on."""

    def explain(self, cr: Any, key: Key, reason: str, text: str) -> None:
        """Say why the worker of a job has ended that was rescued before that was known, if there is a place for it."""
        return

    def forget(self, cr: Any, ages: Ages) -> bool:
        """Delete some of the jobs that are over and old enough; whether there may be more of them.

        Where somebody else does so there is nothing to do.
        """
        return False
