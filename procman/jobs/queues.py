"""What waits, in the order in which it is to start: lanes of packed jobs, under a tree of channels.

A job that waits is one integer - priority, creation, id, then where it belongs - so that a heap of a million of them
compares as fast as C compares integers and takes less than 150 MB with all that is known of them. The integer in
`Database.waiting` is the very object in a heap as long as the job waits there; any other entry of a heap is stale, and
is thrown away when it comes to the top.

Each channel has a lane, and below a channel that shares itself among databases one lane for each of these. A lane knows
the best of what waits in it and below it (`best`), and offers it to the lane above under a key (`head`): the job
itself, or whose turn it is. What changes marks the lanes from there to the root (`touch`), and a refresh looks again at
marked ones only: to choose costs as much as the tree is deep, however wide it is. What has no room is not offered; but
where databases share a channel, those below it have a lane for each of them, and to mark all of these whenever one is
full would cost more than all the rest. There a choice is looked at once more before it is made, and those that were
found without room (`shut`) are marked when there is some.
"""

from __future__ import annotations

import itertools
from fnmatch import fnmatchcase
from heapq import heapify, heappush
from math import inf
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from procman.core.channels import Channel

# From the lowest bit: how many may share its request, channel, database, id, microseconds since 1970, priority. With a
# usual priority that is not more than six digits of 30 bits, which is what 48 bytes hold (CPython's longintrepr.h).
_BATCH, _CHANNEL, _DATABASE, _ID, _CREATED = 10, 24, 16, 63, 52
CHANNEL_AT = _BATCH
DATABASE_AT = CHANNEL_AT + _CHANNEL
ID_AT = DATABASE_AT + _DATABASE
CREATED_AT = ID_AT + _ID
PRIORITY_AT = CREATED_AT + _CREATED

MOST_BATCH = (1 << _BATCH) - 1
CHANNELS = (1 << _CHANNEL) - 1
DATABASES = (1 << _DATABASE) - 1
IDS = (1 << _ID) - 1
MOST_CREATED = (1 << _CREATED) - 1

_SPARE = 64


class Job(NamedTuple):
    """What is to be known of a job's row. ``eta``: not before; 0.0: at once. ``created``: seconds since 1970.

    Its number ``id`` and its ``key`` both name it within its database; where they are the same the queue takes half the
    memory. ``batch``: how many jobs, with this one, may share a request; 0 and 1: none. The first fields are the order
    in which jobs are started.
    """

    priority: int
    created: float
    id: int
    database: str
    key: int | str
    eta: float
    channel: str
    state: str
    batch: int = 0


class Database:
    """The jobs of one database that matter, by id: ``waiting`` ones packed, with the times of those that have one.

    ``keys`` and ``ids`` lead from one to the other where they differ.
    """

    __slots__ = ("etas", "failed", "ids", "keys", "low", "name", "number", "running", "waiting")

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.low = number << DATABASE_AT
        self.waiting: dict[int, int] = {}
        self.etas: dict[int, float] = {}
        self.running: dict[int, Job] = {}
        self.failed: dict[int, Job] = {}
        self.ids: dict[int | str, int] = {}
        self.keys: dict[int, int | str] = {}

    def key_of(self, id: int) -> int | str:  # noqa: A002
        return self.keys.get(id, id) if self.keys else id

    def know(self, id: int, key: int | str) -> None:  # noqa: A002
        """The job of this id has this key."""
        if self.keys.get(id, id) != key:
            self.keys[id] = key
            self.ids[key] = id

    def forget(self, id: int) -> None:  # noqa: A002
        """Nothing is known of this job any more."""
        if self.keys and id in self.keys:
            del self.ids[self.keys.pop(id)]


class Node:
    """A channel of the tree. ``running`` are slots taken in it and below it, ``waiting`` jobs likewise."""

    __slots__ = (
        "by_database",
        "channel",
        "children",
        "clock",
        "configured",
        "lanes",
        "low",
        "name",
        "number",
        "parent",
        "path",
        "paused",
        "running",
        "shares",
        "shut",
        "throttled_until",
        "waiting",
    )

    def __init__(self, channel: Channel, parent: Node | None, number: int, *, configured: bool) -> None:
        self.name = channel.name
        self.channel = channel
        self.parent = parent
        self.number = number
        self.low = number << CHANNEL_AT
        self.configured = configured
        self.path: tuple[Node, ...] = (self, *(parent.path if parent else ()))
        self.children: dict[str, Node] = {}
        self.lanes: dict[int | None, Lane] = {}
        self.shares: dict[int, Share] = {}
        self.shut: set[Lane] = set()
        self.paused = channel.paused
        self.by_database: bool = channel.by_database or (parent is not None and parent.by_database)
        self.running = self.waiting = 0
        self.throttled_until = 0.0
        self.clock = 0.0

    def has_slot(self) -> bool:
        capacity = self.channel.capacity
        return not self.paused and (capacity is None or self.running < capacity)

    @property
    def shape(self) -> tuple[bool, bool, bool]:
        """What its lanes depend on."""
        return self.by_database, self.channel.by_database, self.channel.fair

    def all_lanes(self) -> Iterable[Lane]:
        return itertools.chain(self.lanes.values(), self.shares.values())

    @property
    def failed(self) -> int:
        """Failed jobs that hold up this very channel."""
        return sum(lane.failed for lane in self.all_lanes())

    def room_changed(self) -> None:
        """It may be used, or may not be used any more."""
        for lane in self.lanes.values():
            lane.touch()

    def filled(self) -> None:
        """It has become full."""
        if not self._by_database_above:
            self.room_changed()

    def emptied(self) -> None:
        """It is not full any more."""
        if not self._by_database_above:
            self.room_changed()
            return
        for lane in self.shut:
            lane.touch()
        self.shut.clear()

    @property
    def _by_database_above(self) -> bool:
        return self.parent is not None and self.parent.by_database


class Lane:
    """The jobs of one channel - of one database, below a channel that is shared - in order."""

    __slots__ = (
        "best",
        "dirty",
        "failed",
        "head",
        "heads",
        "later",
        "most_heads",
        "node",
        "parent",
        "ready",
        "stale",
        "timer",
        "waiting",
    )

    def __init__(self, node: Node, parent: Lane | None) -> None:
        self.node = node
        self.parent = parent
        self.ready: list[int] = []
        self.later: list[tuple[float, int]] = []
        self.heads: list[tuple[object, Lane]] = []
        self.most_heads = _SPARE
        self.stale: list[Lane] = []
        self.best: int | None = None
        self.head: object = None
        self.dirty = False
        self.waiting = 0
        self.failed = 0
        self.timer = inf

    def __lt__(self, other: Lane) -> bool:
        # For a heap, of two that have offered the same: one is of a channel that has gone and come again meanwhile.
        return False

    def touch(self) -> None:
        """What it offers may have changed."""
        lane = self
        while not lane.dirty:
            lane.dirty = True
            parent = lane.parent
            if parent is None:
                return
            parent.stale.append(lane)
            lane = parent

    def is_open(self, now: float) -> bool:
        node = self.node
        capacity = node.channel.capacity
        return not node.paused and (capacity is None or node.running < capacity) and node.throttled_until <= now

    def offer(self) -> object:
        """Under which key `best` stands in the lane above."""
        return self.best

    def compact(self, is_current: Callable[[int], bool]) -> None:
        """Throw away what is stale, when most is."""
        if len(self.ready) + len(self.later) > 2 * self.waiting + _SPARE:
            self.ready = [packed for packed in self.ready if is_current(packed)]
            self.later = [item for item in self.later if is_current(item[1])]
            heapify(self.ready)
            heapify(self.later)

    def push_head(self, child: Lane) -> None:
        """What a lane below offers is another one than before."""
        heappush(self.heads, (child.head, child))
        if len(self.heads) > self.most_heads:
            found = {id(lane): (key, lane) for key, lane in self.heads if lane.head is key}
            self.heads = list(found.values())
            heapify(self.heads)
            self.most_heads = 2 * len(self.heads) + _SPARE


class Share(Lane):
    """One database's part of a channel that is shared: who has the least for its weight is next, then by turns."""

    __slots__ = ("database", "limit", "running", "served", "weight")

    def __init__(self, node: Node, parent: Lane, database: Database) -> None:
        super().__init__(node, parent)
        self.database = database
        self.running = 0
        self.served = 0.0
        self.configure()

    def configure(self) -> None:
        channel = self.node.channel
        self.weight = matching(channel.weights, self.database.name, 1) or 1
        self.limit = matching(channel.per_database, self.database.name, None)

    def is_open(self, now: float) -> bool:
        return self.limit is None or self.running < self.limit

    def offer(self) -> object:
        if self.best is None or not self.node.channel.fair:
            return self.best
        if self.head is None:
            # Who had nothing to do has not saved up any turns.
            self.served = max(self.served, self.node.clock)
        return self.running / self.weight, self.served, self.database.number

    def take(self, jobs: int) -> None:
        """So many of its jobs start, in one slot."""
        self.running += 1
        self.node.clock = max(self.node.clock, self.served)
        self.served += jobs / self.weight

    def release(self) -> None:
        self.running -= 1
        self.touch()


def matching(patterns: tuple[tuple[str, int], ...], name: str, default: int | None) -> int | None:
    """What the first pattern says that the name matches."""
    return next((value for pattern, value in patterns if fnmatchcase(name, pattern)), default)
