"""Keeps the service manager informed: what `procman.unix.notify` can say, said when it is true and only then."""

from __future__ import annotations

import os
from time import monotonic
from typing import TYPE_CHECKING

from procman.unix.notify import Notifier

if TYPE_CHECKING:
    from procman.daemon.loop import Loop


class Herald:
    def __init__(self, loop: Loop) -> None:
        self.notifier = Notifier(os.environ)
        self._loop = loop
        self._serving = False
        self._reloading = False
        self._stopping = False
        self._status = ""
        self._next_ping = 0.0
        if self.notifier.watchdog_interval is not None:
            self._wake_for_ping()

    def serving(self) -> None:
        """Every pool is ready."""
        self._serving = True
        self.notifier.ready(self._status)

    @property
    def is_serving(self) -> bool:
        """`serving` was told."""
        return self._serving

    @property
    def environment(self) -> dict[str, str]:
        """What the next image of this daemon needs to speak to the service manager as well."""
        return self.notifier.environment

    def hand_over(self) -> None:
        """The daemon is about to execute itself anew; from here to `taken_over` is a reload, for the manager."""
        if self._serving and not self._stopping:
            self.notifier.reloading(self._status)
        self.notifier.watchdog(now=True)

    def taken_over(self, *, serving: bool, stopping: bool) -> None:
        """The end of what `hand_over` has begun, well or not."""
        self._serving, self._stopping, self._reloading = serving, stopping, False
        if serving and not stopping:
            self.notifier.ready(self._status)

    def stopping(self) -> None:
        """The daemon is on its way out; may be said as often as one likes."""
        if not self._stopping:
            self._stopping = True
            self.notifier.stopping(self._status)

    def update(self, status: str, *, reloading: bool) -> None:
        """After events: the status line, and the begin and the end of a reload."""
        if status != self._status:
            self._status = status
            self.notifier.status(status)
        if reloading != self._reloading:
            self._reloading = reloading
            if reloading:
                self.notifier.reloading(status)
            elif self._serving and not self._stopping:
                self.notifier.ready(status)

    def after_turn(self) -> None:
        """After a full turn of the loop: the daemon is alive, and only here is it known to be."""
        if self.notifier.watchdog_interval is not None and monotonic() >= self._next_ping:
            self._next_ping = monotonic() + self.notifier.watchdog_interval
            self.notifier.watchdog()

    def close(self) -> None:
        self.notifier.close()

    def _wake_for_ping(self) -> None:
        # Only wakes the loop: that a timer fires says nothing about the rest of the turn.
        if self.notifier.watchdog_interval is not None:
            self._loop.call_later(self.notifier.watchdog_interval, self._wake_for_ping)
