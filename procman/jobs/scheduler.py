"""Which job runs next: the queues of all databases in memory, under a tree of channels.

It decides and does nothing else: rows come in (`put`, `remove`), jobs to start come out (`next`), and `deadline`
says when to ask again if nothing happens before. Time is an argument, on any clock, as long as the jobs' ``eta``
are on the same one.

A job runs in its channel and in every channel above it, up to the root, and needs room in each. Among the jobs
that have room the order is (priority, created, id). Nothing is chosen before it can start, so a more urgent job
that arrives late is never behind one that merely waits.

Heaps are cleaned when they are read: an entry counts only while it is the very object kept for its job.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

from procman.jobs.channels import ROOT, Channel, full_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PENDING, ENQUEUED, STARTED, FAILED = "pending", "enqueued", "started", "failed"
_RUNNING = (ENQUEUED, STARTED)


class Job(NamedTuple):
    """What is to be known of a job's row. ``key`` names it within its database; ``eta`` 0.0: at once.

    The first fields are the order in which jobs are started, and a heap compares these tuples.
    """

    priority: int
    created: float
    id: int
    database: str
    key: int | str
    eta: float
    channel: str
    state: str


class Figures(NamedTuple):
    """One channel now; ``running`` and ``waiting`` include the channels below it, ``failed`` does not."""

    running: int
    waiting: int
    failed: int


@dataclass(slots=True, eq=False)
class _Node:
    channel: Channel
    parent: _Node | None
    configured: bool
    children: dict[str, _Node] = field(default_factory=dict)
    ready: list[Job] = field(default_factory=list)
    later: list[tuple[float, Job]] = field(default_factory=list)
    running: int = 0
    own: int = 0  # jobs that wait in this channel
    below: int = 0  # jobs that wait in this channel and those below it
    failed: int = 0
    throttled_until: float = 0.0

    def has_slot(self) -> bool:
        capacity = self.channel.capacity
        return not self.channel.paused and (capacity is None or self.running < capacity)


class Scheduler:
    """The queues of all databases. Keys of jobs need to be unique within their database only."""

    def __init__(self, channels: Mapping[str, Channel]) -> None:
        self._jobs: dict[str, dict[int | str, Job]] = {}
        self._nodes: dict[str, _Node] = {}
        self.configure(channels)

    # -- what is known -------------------------------------------------------------------------------------

    def configure(self, channels: Mapping[str, Channel]) -> None:
        """Put other channels in place of the present ones; jobs that run go on running.

        Failed jobs are only remembered where they hold others up, so those of a channel that has just become
        sequential have to be put again.
        """
        old = self._nodes
        self._nodes = {ROOT: _Node(channels.get(ROOT, Channel(name=ROOT)), None, configured=True)}
        for name, channel in sorted(channels.items(), key=lambda item: item[0].count(".")):
            node = self._node(name)
            node.channel, node.configured = channel, True
            if name in old:
                node.throttled_until = old[name].throttled_until
        for jobs in list(self._jobs.values()):
            for job in list(jobs.values()):
                del jobs[job.key]
                self.put(job)

    def put(self, job: Job) -> None:
        """The job's row, as it has just been read: new, changed or the same."""
        jobs = self._jobs.setdefault(job.database, {})
        channel = full_name(job.channel)
        if channel != job.channel:
            job = job._replace(channel=channel)
        old = jobs.get(job.key)
        if old == job:
            return
        if old is not None:
            self._drop(old)
        if job.state == PENDING:
            self._queue(job)
        elif job.state in _RUNNING:
            for step in self._path(self._node(channel)):
                step.running += 1
        elif job.state == FAILED and self.is_sequential(channel):
            self._node(channel).failed += 1
        else:
            jobs.pop(job.key, None)
            return
        jobs[job.key] = job

    def remove(self, database: str, key: int | str) -> None:
        """The row is no longer there."""
        job = self._jobs.get(database, {}).pop(key, None)
        if job is not None:
            self._drop(job)

    def remove_database(self, database: str) -> None:
        """Forget the jobs of a database, running ones too."""
        for job in self._jobs.pop(database, {}).values():
            self._drop(job)

    def get(self, database: str, key: int | str) -> Job | None:
        """The job as it is known."""
        return self._jobs.get(database, {}).get(key)

    def jobs(self, database: str) -> Iterable[Job]:
        """What is known of a database's jobs."""
        return self._jobs.get(database, {}).values()

    def is_sequential(self, channel: str) -> bool:
        """Whether a failed job holds up the others of this channel."""
        node = self._nodes.get(full_name(channel))
        return node.channel.sequential if node else self._nearest(full_name(channel)).channel.sequential_default

    @property
    def has_sequential(self) -> bool:
        """Whether there is any channel in which failed jobs matter."""
        return any(node.channel.sequential or node.channel.sequential_default for node in self._nodes.values())

    def channels(self) -> dict[str, Channel]:
        """The channels there are: configured, made as a parent, made for a job."""
        return {name: node.channel for name, node in self._nodes.items()}

    def figures(self) -> dict[str, Figures]:
        """What is going on in each channel."""
        return {name: Figures(node.running, node.below, node.failed) for name, node in self._nodes.items()}

    # -- what to do ----------------------------------------------------------------------------------------

    def next(self, now: float) -> Job | None:
        """The next job to start now; it counts as running from here on. None: there is none, or no room."""
        job = self._best(self._nodes[ROOT], now)
        if job is None:
            return None
        node = self._nodes[job.channel]
        heappop(node.ready)
        node.own -= 1
        for step in self._path(node):
            step.below -= 1
            step.running += 1
            if step.channel.throttle:
                step.throttled_until = now + step.channel.throttle
        started = job._replace(state=ENQUEUED)
        self._jobs[job.database][job.key] = started
        return started

    def deadline(self, now: float) -> float | None:
        """When `next` may have something without anything having been put before; None: never."""
        return self._deadline(self._nodes[ROOT], now)

    def _best(self, node: _Node, now: float) -> Job | None:
        if not node.below or not node.has_slot() or node.throttled_until > now:
            return None
        self._let_due(node, now)
        best = node.ready[0] if node.ready else None
        for child in node.children.values():
            candidate = self._best(child, now)
            if candidate is not None and (best is None or candidate < best):
                best = candidate
        if best is not None and node.channel.sequential and self._is_held_up(node, best):
            return None
        return best

    def _deadline(self, node: _Node, now: float) -> float | None:
        if not node.below or not node.has_slot():
            return None
        if node.throttled_until > now:
            return node.throttled_until
        self._let_due(node, now)
        deadlines = [self._deadline(child, now) for child in node.children.values()]
        if node.later:
            deadlines.append(node.later[0][0])
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def _is_held_up(self, node: _Node, best: Job) -> bool:
        return bool(node.failed) or (bool(node.later) and node.later[0][1] < best)

    def _let_due(self, node: _Node, now: float) -> None:
        """Leave at the heads of the queues what counts: jobs still wanted, and later ones that are not due yet."""
        later, ready = node.later, node.ready
        while later and (later[0][0] <= now or not self._is_current(later[0][1])):
            job = heappop(later)[1]
            if self._is_current(job):
                heappush(ready, job)
        while ready and not self._is_current(ready[0]):
            heappop(ready)

    def _is_current(self, job: Job) -> bool:
        return self._jobs.get(job.database, {}).get(job.key) is job

    # -- the tree ------------------------------------------------------------------------------------------

    def _queue(self, job: Job) -> None:
        node = self._node(job.channel)
        if job.eta:
            heappush(node.later, (job.eta, job))
        else:
            heappush(node.ready, job)
        node.own += 1
        for step in self._path(node):
            step.below += 1

    def _drop(self, job: Job) -> None:
        """Take the job out of all counts; what is left of it in a heap is no longer current."""
        node = self._nodes[job.channel]
        if job.state == FAILED:
            node.failed -= 1
        elif job.state == PENDING:
            node.own -= 1
            for step in self._path(node):
                step.below -= 1
            if len(node.ready) + len(node.later) > 2 * node.own + 64:
                self._compact(node, job)
        else:
            for step in self._path(node):
                step.running -= 1
        self._prune(node)

    def _compact(self, node: _Node, dropped: Job) -> None:
        node.ready = [job for job in node.ready if job is not dropped and self._is_current(job)]
        node.later = [item for item in node.later if item[1] is not dropped and self._is_current(item[1])]
        heapify(node.ready)
        heapify(node.later)

    def _prune(self, node: _Node) -> None:
        # Channels named after customers, say, must not stay for ever.
        while not (node.configured or node.children or node.below or node.running or node.failed):
            del self._nodes[node.channel.name]
            assert node.parent is not None  # the root is configured
            del node.parent.children[node.channel.name]
            node = node.parent

    def _path(self, node: _Node | None) -> Iterable[_Node]:
        while node is not None:
            yield node
            node = node.parent

    def _node(self, name: str) -> _Node:
        return self._nodes.get(name) or self._make(name)

    def _make(self, name: str) -> _Node:
        """The node of that name, with those above it that are missing."""
        node = self._nodes[ROOT]
        for path in itertools.accumulate(name.split("."), "{}.{}".format):
            if path not in self._nodes:
                nearest = self._nearest(path).channel
                capacity = nearest.capacity_default or (1 if nearest.sequential_default else None)
                channel = Channel(name=path, capacity=capacity, sequential=nearest.sequential_default)
                self._nodes[path] = node.children[path] = _Node(channel, node, configured=False)
            node = self._nodes[path]
        return node

    def _nearest(self, name: str) -> _Node:
        """The nearest configured channel above."""
        while True:
            name = name.rpartition(".")[0]
            node = self._nodes.get(name)
            if node is not None and (node.configured or node.parent is None):
                return node
