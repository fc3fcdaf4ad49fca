"""Waiting: descriptors and timers, in one thread.

Callbacks are called one after the other and must not block. What one of them raises ends the daemon: a
supervisor that goes on in an unknown state is worse than one that systemd restarts.
"""

from __future__ import annotations

import heapq
import itertools
import select
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Timer:
    """A callback at a time; `cancel` makes it never happen."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    def add_reader(self, fd: int, callback: Callable[[], None], *, edge: bool = False) -> None:
        """Call back when ``fd`` is readable, or has come to its end."""
        self._epoll.register(fd, select.EPOLLIN | (select.EPOLLET if edge else 0))
        self._readers[fd] = callback

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back when ``fd`` can be written, or has failed; undone by `remove_reader`."""
        self._epoll.register(fd, select.EPOLLOUT)
        self._readers[fd] = callback

    def when_writable(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back once, when ``fd`` can be written, or has failed."""

        def once() -> None:
            self.remove_reader(fd)
            callback()

        self.add_writer(fd, once)

    def remove_reader(self, fd: int) -> None:
        """Call back no more; to be called before the descriptor is closed."""
        if self._readers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call back at this time of CLOCK_MONOTONIC."""
        timer = Timer(when, callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back after this many seconds."""
        return self.call_at(monotonic() + seconds, callback)

    def turn(self, deadline: float | None) -> None:
        """Wait until something happens, ``deadline`` at the latest, and call back what is due."""
        self._drop_cancelled()
        if self._timers and (deadline is None or self._timers[0][0] < deadline):
            deadline = self._timers[0][0]
        # epoll_wait(2) counts in milliseconds: round up, or the loop would spin through the last one.
        timeout = -1.0 if deadline is None else max(0.0, deadline - monotonic()) + 0.0005
        readable = [(fd, self._readers.get(fd)) for fd, _ in self._epoll.poll(timeout)]
        for fd, reader in readable:
            # A callback of this same turn may have removed it, and even given its number to another descriptor.
            if reader is not None and self._readers.get(fd) is reader:
                reader()
        now = monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                timer.callback()

    def close(self) -> None:
        self._epoll.close()

    def _drop_cancelled(self) -> None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
