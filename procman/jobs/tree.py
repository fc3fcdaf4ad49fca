"""The tree of channels with its lanes, and the choice of what is next in it."""

from __future__ import annotations

import itertools
from heapq import heappop, heappush
from math import inf
from typing import TYPE_CHECKING, TypeVar

from procman.core.channels import ROOT, Channel
from procman.jobs.queues import CHANNEL_AT, CHANNELS, DATABASE_AT, DATABASES, ID_AT, IDS, Database, Lane, Node, Share

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

T = TypeVar("T")


class Numbers(dict[int, T]):
    """Things by a small number, which is free again when the thing has gone."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._freed: list[int] = []

    def free(self) -> int:
        """A number that nothing has."""
        number = self._freed.pop() if self._freed else len(self)
        if number > self._most:
            raise OverflowError(f"more than {self._most} of them at the same time")
        return number

    def __delitem__(self, number: int) -> None:
        super().__delitem__(number)
        self._freed.append(number)


class Tree:
    """Channels by full name, databases by name; and both by the numbers that packed jobs have of them."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.databases: dict[str, Database] = {}
        self.paused: dict[str, bool] = {}
        self._node_of: Numbers[Node] = Numbers(CHANNELS)
        self._database_of: Numbers[Database] = Numbers(DATABASES)
        self._timers: list[tuple[float, int, Lane]] = []
        self._serial = itertools.count()
        self._is_shared = False
        self.root = self._add(Channel(name=ROOT), None, configured=True)
        self.top = self.outer(self.root, None)

    # -- databases -----------------------------------------------------------------------------------------

    def database(self, name: str) -> Database:
        """The database of that name, known from here on."""
        found = self.databases.get(name)
        if found is None:
            found = self.databases[name] = Database(name, self._database_of.free())
            self._database_of[found.number] = found
        return found

    def remove_database(self, name: str) -> None:
        """Forget a database of which no job is known any more."""
        database = self.databases.pop(name)
        del self._database_of[database.number]
        for node in self.nodes.values():
            for lanes in (node.lanes, node.shares):
                lane = lanes.pop(database.number, None)
                if lane is not None:
                    lane.best = lane.head = None
                    lane.touch()

    def is_current(self, packed: int) -> bool:
        """Whether this is what is known of a job that waits."""
        database = self._database_of.get(packed >> DATABASE_AT & DATABASES)
        return database is not None and database.waiting.get(packed >> ID_AT & IDS) is packed

    def whose(self, packed: int) -> tuple[Database, Node]:
        """Where a job belongs that waits."""
        return self._database_of[packed >> DATABASE_AT & DATABASES], self._node_of[packed >> CHANNEL_AT & CHANNELS]

    # -- channels ------------------------------------------------------------------------------------------

    def configure(self, channels: Mapping[str, Channel]) -> bool:
        """Put other channels in the place of the present ones; True when the lanes are no longer the right ones."""
        shapes = {name: node.shape for name, node in self.nodes.items()}
        for node in self.nodes.values():
            node.configured = node is self.root
        self.root.channel = channels.get(ROOT, Channel(name=ROOT))
        for channel in channels.values():
            self.node(channel.name).configured = True
        for name in sorted(self.nodes, key=_depth):
            self._apply(self.nodes[name], channels)
        for name in sorted(self.nodes, key=_depth, reverse=True):
            if name in self.nodes:
                self.prune(self.nodes[name])
        self._is_shared = any(node.by_database for node in self.nodes.values())
        return any(name in shapes and node.shape != shapes[name] for name, node in self.nodes.items())

    def _apply(self, node: Node, channels: Mapping[str, Channel]) -> None:
        node.channel = channels.get(node.name) or (node.channel if node is self.root else self._default(node.name))
        node.paused = self.paused.get(node.name, node.channel.paused)
        if not node.channel.throttle:
            node.throttled_until = 0.0
        node.by_database = node.channel.by_database or (node.parent is not None and node.parent.by_database)
        for share in node.shares.values():
            share.configure()
            share.touch()
        node.room_changed()

    def node(self, name: str) -> Node:
        """The channel of that name, with those above it that are missing."""
        node = self.nodes.get(name)
        if node is None:
            node = self.root
            for path in itertools.accumulate(name.split("."), "{}.{}".format):
                node = self.nodes.get(path) or self._add(self._default(path), node, configured=False)
        return node

    def _default(self, name: str) -> Channel:
        """The channel that is made for a job: with the defaults of the nearest configured one above."""
        nearest = self.nearest(name).channel
        capacity = nearest.capacity_default or (1 if nearest.sequential_default else None)
        return Channel(name=name, capacity=capacity, sequential=nearest.sequential_default)

    def nearest(self, name: str) -> Node:
        """The nearest configured channel above."""
        while True:
            name = name.rpartition(".")[0]
            node = self.nodes.get(name)
            if node is not None and (node.configured or node.parent is None):
                return node

    def prune(self, node: Node) -> None:
        """Channels named after customers, say, must not stay for ever."""
        while not (node.configured or node.children or node.waiting or node.running or node.failed):
            parent = node.parent
            assert parent is not None  # the root is configured
            del self.nodes[node.name], self._node_of[node.number], parent.children[node.name]
            for lane in node.all_lanes():
                lane.best = lane.head = None
            node = parent

    def _add(self, channel: Channel, parent: Node | None, *, configured: bool) -> Node:
        node = Node(channel, parent, self._node_of.free(), configured=configured)
        node.paused = self.paused.get(node.name, channel.paused)
        self.nodes[node.name] = self._node_of[node.number] = node
        if parent is not None:
            parent.children[node.name] = node
        return node

    # -- lanes ---------------------------------------------------------------------------------------------

    def lane(self, node: Node, database: Database) -> Lane:
        """Where a job of this channel and database waits."""
        if not node.by_database:
            return node.lanes.get(None) or self.outer(node, database)
        if not node.channel.by_database:
            return node.lanes.get(database.number) or self.outer(node, database)
        share = node.shares.get(database.number)
        if share is None:
            share = node.shares[database.number] = Share(node, self.outer(node, database), database)
        return share

    def outer(self, node: Node, database: Database | None) -> Lane:
        """What the channel shows of itself to the lane above: all of it, or what it has of this database."""
        parent = node.parent
        number = database.number if database and parent and parent.by_database else None
        lane = node.lanes.get(number)
        if lane is None:
            above = self.lane(parent, database) if parent and database else None
            lane = node.lanes[number] = Lane(node, above)
        return lane

    # -- the choice ----------------------------------------------------------------------------------------

    def best(self, now: float) -> int | None:
        """What is to start next."""
        timers = self._timers
        if timers and timers[0][0] <= now:
            self._pass_time(now)
        while True:
            if self.top.dirty:
                self._refresh(self.top, now)
            packed = self.top.best
            if packed is None or not self._is_shared:
                return packed
            database, node = self.whose(packed)
            if all(step.has_slot() for step in node.path):
                return packed
            self.lane(node, database).touch()

    def _refresh(self, lane: Lane, now: float) -> None:
        """Find out anew what this lane has to offer, and before that those below it that may have changed."""
        lane.dirty = False
        best = None
        if lane.is_open(now):
            if lane.node.shares and not isinstance(lane, Share) and not _has_room(lane.node):
                # Whatever its databases have waits for channels that are full: none of them has to be asked. It stays
                # marked, and so do they.
                lane.dirty = True
                lane.best = lane.head = None
                return
            best = self.front(lane, now)
            if lane.stale:
                self._refresh_below(lane, now)
            heads = lane.heads
            while heads and heads[0][1].head is not heads[0][0]:
                heappop(heads)
            if heads:
                candidate = heads[0][1].best
                assert candidate is not None  # or it would have no head
                if best is None or candidate < best:
                    best = candidate
            if best is not None and lane.node.channel.sequential and is_held_up(lane, best):
                best = None
        else:
            lane.node.shut.add(lane)
            if lane.node.throttled_until > now:
                self._wake(lane, lane.node.throttled_until)
        lane.best = best
        lane.head = lane.offer()

    def _refresh_below(self, lane: Lane, now: float) -> None:
        for child in lane.stale:
            before = child.head
            self._refresh(child, now)
            if child.head is not None and child.head is not before:
                lane.push_head(child)
        lane.stale = [child for child in lane.stale if child.dirty]
        lane.dirty = bool(lane.stale)

    def front(self, lane: Lane, now: float) -> int | None:
        """The first of its own jobs that are due. What is stale is thrown away, what has become due is moved."""
        later, ready = lane.later, lane.ready
        if later:
            while later and (later[0][0] <= now or not self.is_current(later[0][1])):
                packed = heappop(later)[1]
                if self.is_current(packed):
                    heappush(ready, packed)
            if later:
                self._wake(lane, later[0][0])
        while ready and not self.is_current(ready[0]):
            heappop(ready)
        return ready[0] if ready else None

    # -- time ----------------------------------------------------------------------------------------------

    def _wake(self, lane: Lane, at: float) -> None:
        if lane.timer != at:
            lane.timer = at
            heappush(self._timers, (at, next(self._serial), lane))

    def _pass_time(self, now: float) -> None:
        """Look again at the lanes in which something is due by now."""
        timers = self._timers
        while timers and (timers[0][0] <= now or timers[0][2].timer != timers[0][0]):
            at, _, lane = heappop(timers)
            if lane.timer == at:
                lane.timer = inf
                lane.touch()

    def deadline(self, now: float) -> float | None:
        """When there may be something without anything having been put before; None: never."""
        self.best(now)
        self._pass_time(now)
        if not self._timers:
            return None
        at, _, lane = self._timers[0]
        if lane.waiting and all(node.has_slot() and node.throttled_until <= now for node in lane.node.path):
            return at
        return self._deadline(self.root, now)

    def _deadline(self, node: Node, now: float) -> float | None:
        if not node.waiting or not node.has_slot():
            return None
        if node.throttled_until > now:
            return node.throttled_until
        return min(self._deadlines(node, now), default=None)

    def _deadlines(self, node: Node, now: float) -> Iterator[float]:
        for lane in node.all_lanes():
            self.front(lane, now)
            if lane.later:
                yield lane.later[0][0]
        for child in node.children.values():
            deadline = self._deadline(child, now)
            if deadline is not None:
                yield deadline


def is_held_up(lane: Lane, best: int) -> bool:
    """Of a sequential channel: a failed job, or one that waits for its time, comes before this one."""
    return bool(lane.failed) or (bool(lane.later) and lane.later[0][1] < best)


def _has_room(node: Node) -> bool:
    """Whether anything waits, in the channel or below it, where there is a slot for it, as far as that goes."""
    if not node.waiting or not node.has_slot():
        return False
    elsewhere = 0
    for child in node.children.values():
        if child.waiting:
            if _has_room(child):
                return True
            elsewhere += child.waiting
    return node.waiting > elsewhere


def _depth(name: str) -> int:
    return name.count(".")
