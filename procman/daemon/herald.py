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
        self._notifier = Notifier(os.environ)
        self._loop = loop
        self._serving = False
        self._reloading = False
        self._stopping = False
        self._status = ""
        self._next_ping = 0.0
        if self._notifier.watchdog_interval is not None:
            self._wake_for_ping()

    def serving(self) -> None:
        """Every pool is ready."""
        self._serving = True
        self._notifier.ready(self._status)

    @property
    def is_serving(self) -> bool:
        """`serving` was told."""
        return self._serving

    @property
    def environment(self) -> dict[str, str]:
        """What the next image of this daemon needs to speak to the service manager as well."""
        return self._notifier.environment

    def hand_over(self) -> None:
        """The daemon is about to execute itself anew; from here to `taken_over` is a reload, for the manager."""
        if self._serving and not self._stopping:
            self._notifier.reloading(self._status)
        self._notifier.watchdog(now=True)

    def taken_over(self, *, serving: bool, stopping: bool) -> None:
        """The end of what `hand_over` has begun, well or not."""
        self._serving, self._stopping, self._reloading = serving, stopping, False
        if serving and not stopping:
            self._notifier.ready(self._status)

    def stopping(self) -> None:
        """The daemon is on its way out; may be said as often as one likes."""
        if not self._stopping:
            self._stopping = True
            self._notifier.stopping(self._status)

    def update(self, status: str, *, reloading: bool) -> None:
        """After events: the status line, and the begin and the end of a reload."""
        if status != self._status:
            self._status = status
            self._notifier.status(status)
        if reloading != self._reloading:
            self._reloading = reloading
            if reloading:
                self._notifier.reloading(status)
            elif self._serving and not self._stopping:
                self._notifier.ready(status)

    def after_turn(self) -> None:
        """After a full turn of the loop: the daemon is alive, and only here is it known to be."""
        if self._notifier.watchdog_interval is not None and monotonic() >= self._next_ping:
            self._next_ping = monotonic() + self._notifier.watchdog_interval
            self._notifier.watchdog()

    def close(self) -> None:
        self._notifier.close()

    def _wake_for_ping(self) -> None:
        # Only wakes the loop: that a timer fires says nothing about the rest of the turn.
        if self._notifier.watchdog_interval is not None:
            self._loop.call_later(self._notifier.watchdog_interval, self._wake_for_ping)
