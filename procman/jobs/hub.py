"""One thread that does many things in turn: tasks, each in a greenlet of its own, and one place where all of them wait.

While the hub is in use, psycopg2 waits here too (its wait callback): a statement, or a connection that is being made,
holds up the task that asked for it and nobody else, and for no longer than the task's patience. So the code of a task
reads as if it waited. Whoever talks to PostgreSQL outside of tasks waits as ever.

It knows nothing of jobs. What libpq looks up, a host's name, is the one thing for which it blocks.
"""

from __future__ import annotations

import heapq
import itertools
import select
from time import monotonic
from typing import TYPE_CHECKING

import psycopg2
from greenlet import GreenletExit, getcurrent, greenlet
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE, set_wait_callback

if TYPE_CHECKING:
    from collections.abc import Callable

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
PATIENCE = 15.0  # seconds that a statement may take, or a connection

_EVENTS = {POLL_READ: READ, POLL_WRITE: WRITE}


class Timer:
    """Something to be done at a time, unless it is cancelled before."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object] | None) -> None:
        self.callback = callback

    def cancel(self) -> None:
        """Have it not done."""
        self.callback = None


class Hub:
    """Watches descriptors and the clock. Made, run and closed in one thread."""

    _open = 0

    def __init__(self) -> None:
        self.main = getcurrent()
        self.worked = 0.0  # seconds, all in all
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[], object]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        self._tasks: set[Task] = set()
        if Hub._open == 0:
            set_wait_callback(_wait)
        Hub._open += 1

    def close(self) -> None:
        """End all tasks."""
        for task in list(self._tasks):
            task.end()
        self._epoll.close()
        Hub._open -= 1
        if Hub._open == 0:
            set_wait_callback(None)

    def spawn(self, work: Callable[[Task], object]) -> Task:
        """Have ``work`` done by a task, which begins at the next `run`. What it raises is raised by `run`."""
        task = Task(self, work)
        self._tasks.add(task)
        task.wake()
        return task

    def at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Call back at this time (CLOCK_MONOTONIC)."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (when, next(self._count), timer))
        return timer

    def watch(self, fd: int, events: int, callback: Callable[[], object]) -> None:
        """Call back each time that the descriptor is ready, or broken; instead of what was said of it before."""
        known = fd in self._watched
        self._watched[fd] = callback
        (self._epoll.modify if known else self._epoll.register)(fd, events)

    def unwatch(self, fd: int) -> None:
        """Leave the descriptor alone: before it is closed, or its number may mean another one."""
        if self._watched.pop(fd, None) is not None:
            try:
                self._epoll.unregister(fd)
            except OSError:
                pass  # closed after all, and gone with that

    def run(self, most: float = 0.0) -> None:
        """Wait until there is something to do, for so many seconds at most, and do it."""
        ready = self._epoll.poll(max(0.0, min(most, self._next() - monotonic())))
        began = monotonic()
        for fd, _ in ready:
            # One callback may have ended what the next one was about.
            if (callback := self._watched.get(fd)) is not None:
                callback()
        now = monotonic()
        due = []
        while self._timers and self._timers[0][0] <= now:
            due.append(heapq.heappop(self._timers)[2])
        for timer in due:
            if timer.callback is not None:
                timer.callback()
        self.worked += monotonic() - began

    def _next(self) -> float:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else float("inf")

    def ended(self, task: Task) -> None:
        """The task has come to its end."""
        self._tasks.discard(task)


class Task(greenlet):
    """Something that is done bit by bit. ``patience`` is how long one statement may take, in seconds."""

    def __init__(self, hub: Hub, work: Callable[[Task], object]) -> None:
        super().__init__(self._run, hub.main)
        self.patience = PATIENCE
        self._hub = hub
        self._work = work
        self._waits = 0  # which one it is in: what is about an earlier one comes too late
        self._pausing = True

    def _run(self, ready: bool) -> None:
        try:
            self._work(self)
        except GreenletExit:
            pass
        finally:
            self._hub.ended(self)

    def pause(self, until: float, fd: int = -1) -> bool:
        """Give way until this time, until ``fd`` is readable or until `wake`. Whether it was the descriptor."""
        self._pausing = True
        try:
            return self._give_way(until, fd, READ)
        finally:
            self._pausing = False

    def wake(self) -> None:
        """End its pause; a task that is not in one, or waits for PostgreSQL, goes on as it is."""
        if self._pausing:
            self._pausing = False
            wait = self._waits
            self._hub.at(0.0, lambda: self._resume(wait, ready=False))

    def end(self) -> None:
        """Have it ended where it is."""
        if not self.dead:
            self.throw(GreenletExit)
        self._hub.ended(self)

    def wait_for(self, connection: psycopg2.extensions.connection) -> None:
        """What psycopg2 calls until a statement is answered. Raises psycopg2.OperationalError when that takes long."""
        until = monotonic() + self.patience
        while (state := connection.poll()) != POLL_OK:
            if not self._give_way(until, connection.fileno(), _EVENTS[state]):
                raise psycopg2.OperationalError(f"no answer for {self.patience:g} s")

    def _give_way(self, until: float, fd: int, events: int) -> bool:
        self._waits += 1
        wait = self._waits
        timer = self._hub.at(until, lambda: self._resume(wait, ready=False))
        if fd >= 0:
            self._hub.watch(fd, events, lambda: self._resume(wait, ready=True))
        try:
            return bool(self._hub.main.switch())
        finally:
            timer.cancel()
            if fd >= 0:
                self._hub.unwatch(fd)

    def _resume(self, wait: int, *, ready: bool) -> None:
        if wait == self._waits and not self.dead:
            self.switch(ready)


def _wait(connection: psycopg2.extensions.connection) -> None:
    task = getcurrent()
    if isinstance(task, Task):
        task.wait_for(connection)
        return
    poll = select.poll()
    while (state := connection.poll()) != POLL_OK:
        poll.register(connection.fileno(), select.POLLIN if state == POLL_READ else select.POLLOUT)
        poll.poll()
