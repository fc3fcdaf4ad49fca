"""What a job waits for that is known to the scheduler: an `Explanation`, whose text is meant for people.

What a job waits for by its row - parents that are not done - is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from procman.jobs.queues import CHANNEL_AT, CHANNELS, DATABASE_AT, DATABASES, ID_AT, IDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from procman.jobs.queues import Database, Job, Lane, Node
    from procman.jobs.tree import Tree

_IN_CHANNEL = CHANNELS << CHANNEL_AT
_IN_DATABASE_TOO = _IN_CHANNEL | DATABASES << DATABASE_AT
_MOST_LISTED = 10


@dataclass(frozen=True, slots=True)
class Other:
    """Another job: the database that it is in, and its key there."""

    database: str
    key: int | str

    def __str__(self) -> str:
        return f"{self.key} of {self.database}"


@dataclass(frozen=True, slots=True)
class NotDue:
    """It is not to start before its time, ``seconds`` from now."""

    seconds: float

    def __str__(self) -> str:
        return f"not before its time, in {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class Paused:
    """Its channel, or one above, is paused."""

    channel: str

    def __str__(self) -> str:
        return f"channel {self.channel} is paused"


@dataclass(frozen=True, slots=True)
class Full:
    """As many run in its channel, or in one above, as may; ``jobs`` are those that do."""

    channel: str
    running: int
    capacity: int
    jobs: tuple[Other, ...]

    def __str__(self) -> str:
        return f"channel {self.channel} is full: {self.running} of {self.capacity} run ({_listed(self.jobs)})"


@dataclass(frozen=True, slots=True)
class DatabaseFull:
    """As many of its database run in the channel as may."""

    channel: str
    database: str
    running: int
    limit: int

    def __str__(self) -> str:
        return f"{self.running} of {self.limit} of database {self.database} run in channel {self.channel}"


@dataclass(frozen=True, slots=True)
class Throttled:
    """Something has just started in the channel; the next may in ``seconds``."""

    channel: str
    seconds: float

    def __str__(self) -> str:
        return f"channel {self.channel} is throttled, for another {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class HeldUp:
    """A job of its sequential channel has failed, and has to be settled first."""

    channel: str
    failed: tuple[Other, ...]

    def __str__(self) -> str:
        return f"channel {self.channel} is sequential, and held up by what has failed in it: {_listed(self.failed)}"


@dataclass(frozen=True, slots=True)
class Behind:
    """A job that comes before it in its sequential channel waits for its time, ``seconds`` from now."""

    channel: str
    earlier: Other
    seconds: float

    def __str__(self) -> str:
        return f"channel {self.channel} is sequential, and {self.earlier} comes first, in {self.seconds:.1f} s"


Obstacle = NotDue | Paused | Full | DatabaseFull | Throttled | HeldUp | Behind


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Of a job that waits: all that keeps it from starting, and how many that are due come before it.

    ``ahead``: in its channel, ``ahead_in_all`` in all channels, of all databases, though not all of them must compete
    for the same slots. ``by_turns``: some channel is shared fairly, so jobs of other databases do not come before
    it all at once. A job that runs has neither obstacles nor anybody ahead.
    """

    job: Job
    obstacles: tuple[Obstacle, ...] = ()
    ahead: int = 0
    ahead_in_all: int = 0
    by_turns: bool = False

    def lines(self) -> list[str]:
        """The reasons as sentences, the next one to be overcome first."""
        lines = [str(obstacle) for obstacle in self.obstacles]
        if self.ahead or self.ahead_in_all:
            turns = ", by turns of the databases" if self.by_turns else ""
            lines.append(f"{self.ahead} in its channel and {self.ahead_in_all} in all are before it{turns}")
        return lines


def explain(tree: Tree, job: Job, packed: int, now: float) -> Explanation:
    """Why this job, which waits, is not being started."""
    database, node = tree.whose(packed)
    obstacles: list[Obstacle] = [NotDue(job.eta - now)] if job.eta > now else []
    for step in node.path:
        obstacles += _of_channel(tree, step, database, packed, now)
    ahead, in_all = _ahead(tree, packed, node, database, now)
    return Explanation(
        job=job,
        obstacles=tuple(obstacles),
        ahead=ahead,
        ahead_in_all=in_all,
        by_turns=any(step.channel.fair for step in node.path),
    )


def _of_channel(tree: Tree, node: Node, database: Database, packed: int, now: float) -> Iterator[Obstacle]:
    if node.paused:
        yield Paused(node.name)
    capacity = node.channel.capacity
    if capacity is not None and node.running >= capacity:
        yield Full(node.name, node.running, capacity, tuple(_running_in(tree, node.name)))
    if node.throttled_until > now:
        yield Throttled(node.name, node.throttled_until - now)
    share = node.shares.get(database.number)
    if share is not None and share.limit is not None and share.running >= share.limit:
        yield DatabaseFull(node.name, database.name, share.running, share.limit)
    if node.channel.sequential:
        yield from _of_sequence(tree, node, tree.lane(node, database), database, packed, now)


def _of_sequence(
    tree: Tree, node: Node, lane: Lane, database: Database, packed: int, now: float
) -> Iterator[HeldUp | Behind]:
    if lane.failed:
        databases = [database] if node.by_database else tree.databases.values()
        failed = (job for each in databases for job in each.failed.values() if job.channel == node.name)
        yield HeldUp(node.name, tuple(Other(job.database, job.key) for job in failed))
    tree.front(lane, now)
    if lane.later and lane.later[0][1] < packed:
        at, first = lane.later[0]
        whose = tree.whose(first)[0]
        yield Behind(node.name, Other(whose.name, whose.key_of(first >> ID_AT & IDS)), at - now)


def _running_in(tree: Tree, channel: str) -> Iterator[Other]:
    below = channel + "."
    for database in tree.databases.values():
        for job in database.running.values():
            if job.channel == channel or job.channel.startswith(below):
                yield Other(job.database, job.key)


def _ahead(tree: Tree, packed: int, node: Node, database: Database, now: float) -> tuple[int, int]:
    """How many come before it in its lane, and in all. A look at everything that waits: 60 ms for a million."""
    mine = in_all = 0
    low = (database.low | node.low) if node.by_database else node.low
    mask = _IN_DATABASE_TOO if node.by_database else _IN_CHANNEL
    for each in tree.databases.values():
        before = [other for other in each.waiting.values() if other < packed]
        if each.etas:
            before = [other for other in before if each.etas.get(other >> ID_AT & IDS, 0.0) <= now]
        in_all += len(before)
        mine += sum(1 for other in before if other & mask == low)
    return mine, in_all


def _listed(others: tuple[Other, ...]) -> str:
    shown = ", ".join(map(str, others[:_MOST_LISTED]))
    return f"{shown} and {len(others) - _MOST_LISTED} more" if len(others) > _MOST_LISTED else shown
