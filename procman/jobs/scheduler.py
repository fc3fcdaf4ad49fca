"""Which job runs next: the queues of all databases in memory, under a tree of channels.

It decides and does nothing else: rows come in (`put`, `remove`), jobs to start come out (`next`, `next_batch`), and
`deadline` says when to ask again if nothing happens before. Time is an argument, on any clock, as long as the jobs'
``eta`` are on the same one.

A job runs in its channel and in every channel above it, up to the root, and needs room in each. Among the jobs
that have room the order is (priority, created, id), or, where a channel is ``fair``, by turns of the databases. Nothing
is chosen before it can start, so a more urgent job that arrives late is never behind one that merely waits.
"""

from __future__ import annotations

import itertools
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

from procman.core.channels import full_name
from procman.jobs.explain import Explanation, explain
from procman.jobs.queues import CREATED_AT, ID_AT, IDS, MOST_BATCH, MOST_CREATED, PRIORITY_AT, Job
from procman.jobs.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from procman.core.channels import Channel
    from procman.jobs.queues import Database, Lane, Node

__all__ = ["ENQUEUED", "FAILED", "PENDING", "STARTED", "Figures", "Job", "Scheduler"]

PENDING, ENQUEUED, STARTED, FAILED = "pending", "enqueued", "started", "failed"
_RUNNING = (ENQUEUED, STARTED)


class Figures(NamedTuple):
    """One channel now; ``running`` slots and ``waiting`` jobs include the channels below it, ``failed`` does not."""

    running: int
    waiting: int
    failed: int


class _Batch:
    """Jobs that share a request, and with it a slot, which is free again when the last one has ended."""

    __slots__ = ("has_slot", "left")

    def __init__(self, jobs: int) -> None:
        self.left = jobs
        self.has_slot = True


class Scheduler:
    """The queues of all databases. Ids and keys of jobs are unique within their database; ids are not negative."""

    def __init__(self, channels: Mapping[str, Channel]) -> None:
        self._tree = Tree()
        self._batches: dict[tuple[str, int], _Batch] = {}
        self.configure(channels)

    # -- what is known -------------------------------------------------------------------------------------

    def configure(self, channels: Mapping[str, Channel]) -> None:
        """Put other channels in place of the present ones; jobs that run go on running, what waits goes on waiting.

        Failed jobs are only remembered where they hold others up, so those of a channel that has just become
        sequential have to be put again.
        """
        if self._tree.configure(channels):
            self._build_anew(channels)
        for database in self._tree.databases.values():
            for job in list(database.failed.values()):
                if not self.is_sequential(job.channel):
                    self._drop(database, job.id)

    def _build_anew(self, channels: Mapping[str, Channel]) -> None:
        """Who shares a channel among databases has lanes for each of them."""
        old, self._tree = self._tree, Tree()
        self._tree.paused = old.paused
        self._tree.configure(channels)
        for name, node in self._tree.nodes.items():
            if name in old.nodes:
                node.throttled_until = old.nodes[name].throttled_until
        for batch in self._batches.values():
            batch.has_slot = False
        for database in old.databases.values():
            for packed in database.waiting.values():
                self.put(_unpacked(packed, *old.whose(packed), PENDING))
            for job in (*database.running.values(), *database.failed.values()):
                self.put(job)

    def pause(self, channel: str) -> None:
        """Start nothing in this channel and those below it until it is resumed, whatever is configured."""
        self._pause(full_name(channel), paused=True)

    def resume(self, channel: str) -> None:
        """Take back `pause`, or a ``paused`` of the configuration."""
        self._pause(full_name(channel), paused=False)

    def follow_configuration(self, channel: str) -> None:
        """Take back both `pause` and `resume`."""
        self._pause(full_name(channel), paused=None)

    def _pause(self, name: str, *, paused: bool | None) -> None:
        if paused is None:
            self._tree.paused.pop(name, None)
        else:
            self._tree.paused[name] = paused
        node = self._tree.nodes.get(name)
        if node is not None:
            node.paused = node.channel.paused if paused is None else paused
            node.room_changed()

    def put(self, job: Job) -> None:
        """The job's row, as it has just been read: new, changed or the same."""
        if job.state == PENDING:
            self._put_pending(job)
            return
        database = self._tree.databases.get(job.database) or self._tree.database(job.database)
        channel = job.channel
        if channel not in self._tree.nodes:
            channel = full_name(channel)
            job = job._replace(channel=channel)
        if job.state in _RUNNING:
            known = database.running.get(job.id)
            if known is None or known.channel != channel:
                self._drop(database, job.id)
                self._occupy(database, job)
            database.running[job.id] = job
            if job.key != job.id:
                database.know(job.id, job.key)
        elif job.state == FAILED and self.is_sequential(channel):
            if database.failed.get(job.id) != job:
                self._drop(database, job.id)
                database.failed[job.id] = job
                database.know(job.id, job.key)
                lane = self._tree.lane(self._tree.node(channel), database)
                lane.failed += 1
                lane.touch()
        else:
            self._drop(database, job.id)
            database.forget(job.id)

    def _put_pending(self, job: Job) -> None:
        tree = self._tree
        id, channel, eta = job.id, job.channel, job.eta  # noqa: A001
        database = tree.databases.get(job.database) or tree.database(job.database)
        node = tree.nodes.get(channel) or tree.nodes.get(full_name(channel))
        order = _order(job) | database.low
        known = database.waiting.get(id)
        if known is not None or id in database.running or id in database.failed:
            if node is not None and known == order | node.low and database.etas.get(id, 0.0) == eta:
                return
            self._drop(database, id)
            node = None  # it may have gone with its last job
        if node is None:
            node = tree.node(full_name(channel))
        packed = database.waiting[id] = order | node.low
        if job.key != id:
            database.know(id, job.key)
        lane = tree.lane(node, database) if node.by_database else node.lanes.get(None) or tree.lane(node, database)
        if eta:
            database.etas[id] = eta
            heappush(lane.later, (eta, packed))
        else:
            heappush(lane.ready, packed)
        lane.waiting += 1
        for step in node.path:
            step.waiting += 1
        if not lane.dirty:
            lane.touch()

    def remove(self, database: str, key: int | str) -> None:
        """The row is no longer there."""
        known = self._tree.databases.get(database)
        if known is not None:
            id = _id(known, key)  # noqa: A001
            self._drop(known, id)
            known.forget(id)

    def remove_database(self, database: str) -> None:
        """Forget the jobs of a database, running ones too."""
        known = self._tree.databases.get(database)
        if known is not None:
            for id in (*known.waiting, *known.running, *known.failed):  # noqa: A001
                self._drop(known, id)
            self._tree.remove_database(database)

    def get(self, database: str, key: int | str) -> Job | None:
        """The job as it is known."""
        known = self._tree.databases.get(database)
        if known is None:
            return None
        id = _id(known, key)  # noqa: A001
        packed = known.waiting.get(id)
        if packed is not None:
            return _unpacked(packed, *self._tree.whose(packed), PENDING)
        return known.running.get(id) or known.failed.get(id)

    def keys(self, database: str) -> Iterator[int | str]:
        """The jobs of a database that are known: that wait, run, or hold others up."""
        known = self._tree.databases.get(database)
        if known is not None:
            for id in itertools.chain(known.waiting, known.running, known.failed):  # noqa: A001
                yield known.key_of(id)

    def is_sequential(self, channel: str) -> bool:
        """Whether a failed job holds up the others of this channel."""
        name = full_name(channel)
        node = self._tree.nodes.get(name)
        return node.channel.sequential if node else self._tree.nearest(name).channel.sequential_default

    @property
    def has_sequential(self) -> bool:
        """Whether there is any channel in which failed jobs matter."""
        channels = (node.channel for node in self._tree.nodes.values())
        return any(channel.sequential or channel.sequential_default for channel in channels)

    @property
    def waiting(self) -> int:
        """How many jobs wait, for whatever."""
        return self._tree.root.waiting

    def channels(self) -> dict[str, Channel]:
        """The channels there are: configured, made as a parent, made for a job."""
        return {name: node.channel for name, node in self._tree.nodes.items()}

    def figures(self) -> dict[str, Figures]:
        """What is going on in each channel."""
        return {name: Figures(node.running, node.waiting, node.failed) for name, node in self._tree.nodes.items()}

    def explain(self, database: str, key: int | str, now: float) -> Explanation | None:
        """What the job waits for; None: it is not known. See `Explanation`."""
        job = self.get(database, key)
        if job is None or job.state != PENDING:
            return None if job is None else Explanation(job=job)
        return explain(self._tree, job, self._tree.databases[database].waiting[job.id], now)

    @property
    def tree(self) -> Tree:
        """For who looks at all that waits (`procman.jobs.census`)."""
        return self._tree

    # -- what to do ----------------------------------------------------------------------------------------

    def next(self, now: float) -> Job | None:
        """The next job to start now; it counts as running from here on. None: there is none, or no room."""
        packed = self._tree.best(now)
        return None if packed is None else self._start(packed, now, 1)[0]

    def next_batch(self, now: float, most: int = MOST_BATCH) -> list[Job]:
        """The next job to start now, with those that are to share its request: all of them take one slot.

        These are the next jobs of the same channel, database and priority, as long as each of them asks for it
        (`Job.batch`). Where each start counts by itself there are no batches: in sequential and throttled channels.
        """
        packed = self._tree.best(now)
        return [] if packed is None else self._start(packed, now, most)

    def deadline(self, now: float) -> float | None:
        """When `next` may have something without anything having been put before; None: never."""
        return self._tree.deadline(now)

    def _start(self, packed: int, now: float, most: int) -> list[Job]:
        tree = self._tree
        database, node = tree.whose(packed)
        lane = tree.lane(node, database)
        jobs = [self._take(lane, database, node)]
        if packed & MOST_BATCH > 1 and most > 1 and not _each_counts(node):
            self._fill(jobs, packed, min(most, packed & MOST_BATCH), lane)
        lane.waiting -= len(jobs)
        for step in node.path:
            step.waiting -= len(jobs)
            throttle = step.channel.throttle
            if throttle:
                step.throttled_until = now + throttle
            self._enter(step, database, len(jobs))
            if throttle:
                step.room_changed()
        lane.touch()
        return jobs

    def _fill(self, jobs: list[Job], first: int, size: int, lane: Lane) -> None:
        """Add to the first job those that follow it and ask for it, too."""
        tree = self._tree
        database, node = tree.whose(first)
        while len(jobs) < size and lane.ready:
            packed = lane.ready[0]
            if not tree.is_current(packed):
                heappop(lane.ready)
                continue
            asks = packed & MOST_BATCH
            if asks < 2 or packed >> PRIORITY_AT != first >> PRIORITY_AT or tree.whose(packed)[0] is not database:
                break
            size = min(size, asks)
            jobs.append(self._take(lane, database, node))
        if len(jobs) > 1:
            batch = _Batch(len(jobs))
            for job in jobs:
                self._batches[job.database, job.id] = batch

    def _take(self, lane: Lane, database: Database, node: Node) -> Job:
        packed = heappop(lane.ready)
        job = _unpacked(packed, database, node, ENQUEUED)
        del database.waiting[job.id]
        if database.etas:
            database.etas.pop(job.id, None)
        database.running[job.id] = job
        return job

    # -- slots ---------------------------------------------------------------------------------------------

    def _enter(self, step: Node, database: Database, jobs: int) -> None:
        step.running += 1
        if step.running == step.channel.capacity:
            step.filled()
        if step.shares:
            step.shares[database.number].take(jobs)

    def _occupy(self, database: Database, job: Job) -> None:
        """The job runs, without having been started from here."""
        batch = self._batches.get((job.database, job.id))
        if batch is not None:
            if batch.has_slot:
                return
            batch.has_slot = True
        node = self._tree.node(job.channel)
        self._tree.lane(node, database)
        for step in node.path:
            self._enter(step, database, 1)

    def _release(self, database: Database, job: Job) -> None:
        batch = self._batches.pop((job.database, job.id), None) if self._batches else None
        if batch is not None:
            batch.left -= 1
            if batch.left:
                return
        node = self._tree.nodes[job.channel]
        for step in node.path:
            if step.running == step.channel.capacity:
                step.emptied()
            step.running -= 1
            if step.shares:
                step.shares[database.number].release()
        self._tree.prune(node)

    def _drop(self, database: Database, id: int) -> None:  # noqa: A002
        """Take the job out of all counts; what is left of it in a heap is no longer current."""
        packed = database.waiting.pop(id, None)
        if packed is not None:
            database.etas.pop(id, None)
            node = self._tree.whose(packed)[1]
            lane = self._tree.lane(node, database)
            lane.waiting -= 1
            for step in node.path:
                step.waiting -= 1
            lane.compact(self._tree.is_current)
        elif id in database.running:
            self._release(database, database.running.pop(id))
            return
        elif id in database.failed:
            node = self._tree.nodes[database.failed.pop(id).channel]
            lane = self._tree.lane(node, database)
            lane.failed -= 1
        else:
            return
        lane.touch()
        self._tree.prune(node)


def _each_counts(node: Node) -> bool:
    return any(step.channel.sequential or step.channel.throttle for step in node.path)


def _order(job: Job) -> int:
    """Its place in the order, with its id and batch, and room for where it belongs."""
    created = int(job.created * 1e6)
    if not 0 <= created <= MOST_CREATED:
        created = 0 if created < 0 else MOST_CREATED
    return job.priority << PRIORITY_AT | created << CREATED_AT | job.id << ID_AT | min(job.batch, MOST_BATCH)


def _id(database: Database, key: int | str) -> int:
    found = database.ids.get(key) if database.ids else None
    return found if found is not None else key if isinstance(key, int) else -1


def _unpacked(packed: int, database: Database, node: Node, state: str) -> Job:
    id = packed >> ID_AT & IDS  # noqa: A001
    created = (packed >> CREATED_AT & MOST_CREATED) / 1e6
    eta = database.etas.get(id, 0.0) if database.etas else 0.0
    return Job(
        packed >> PRIORITY_AT,
        created,
        id,
        database.name,
        database.keys.get(id, id),
        eta,
        node.name,
        state,
        packed & MOST_BATCH,
    )
