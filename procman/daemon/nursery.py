"""The arbiter's side of the nursery (`procman.workers.nursery`): orders to fork commands, and what becomes of them.

The nursery has no state that anybody would miss: one that has died, or that does not fork any more, is replaced
with the next order, and an order that it had not carried out is given once more. That it was not carried out is
certain: when the channel that came with it ends without a word, nobody has its other end.
"""

from __future__ import annotations

import logging
import os
import select
import signal
from collections import deque
from typing import TYPE_CHECKING

from procman.core.lifecycle import FromChild
from procman.errors import ChannelClosed, ChannelFull
from procman.unix import process
from procman.unix.channel import Channel, pair

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from procman.core.lifecycle import Boot
    from procman.daemon.loop import Loop, Timer
    from procman.daemon.processes import Command

log = logging.getLogger("procman.arbiter")

MODULE = "procman.workers.nursery"
# Orders that are not carried out yet, at most. The others wait here, where they take no descriptor and no room in the
# buffer of a socket, and where they can be withdrawn.
MOST_ASKED = 32
MOST_TRIES = 2
PATIENCE = 5.0  # seconds without a fork after which the nursery is taken to be stopped or stuck
END_PATIENCE = 1.0  # seconds from SIGKILL to the end, which is a moment for a process that is not in the disk's hands


class Nursery:
    """``give`` hands over one order, by `send`; ``fail`` is told of one that can't be given, and why."""

    def __init__(
        self,
        loop: Loop,
        give: Callable[[Command], None],
        fail: Callable[[Command, Exception], None],
        environment: Mapping[str, str],
    ) -> None:
        self._loop = loop
        self._give = give
        self._fail = fail
        self._environment = environment
        self._channel: Channel | None = None
        self.pid: int | None = None
        self._pidfd: int | None = None
        self._waiting: deque[Command] = deque()
        self._asked: set[Command] = set()
        self._timer: Timer | None = None

    # -- orders -------------------------------------------------------------------------------------------

    def order(self, command: Command) -> None:
        """Have a process forked for it, as soon as its turn comes."""
        self._waiting.append(command)
        self._give_next()

    def adopt(self, command: Command) -> None:
        """An order that the image of the daemon before this one has given, or would have given next."""
        if command.channel is None:
            self.order(command)
        else:  # if it was not carried out, its channel ends
            self._asked.add(command)
            self._expect_progress()

    def carried_out(self, command: Command) -> None:
        """It has its process, or needs none any more."""
        if command in self._asked:
            self._asked.remove(command)
            self._give_next()
            self._expect_progress()
        elif command in self._waiting:
            self._waiting.remove(command)

    def once_more(self, command: Command) -> bool:
        """The order was lost: give it again. False if that has been done before, or if nothing was asked for."""
        if command not in self._asked or command.orders >= MOST_TRIES:
            return False
        self._hand_over(command)
        return True

    def send(self, message: Boot, *fds: int) -> None:
        """Pass an order on to the nursery, which is started if need be. Raises OSError or ChannelClosed."""
        if self._channel is not None:
            try:
                self._channel.send(message, *fds)
            except ChannelFull:
                if len(self._asked) > 1:
                    raise
                self.end()  # it does not even read what nobody waits for any more
            except ChannelClosed:
                self.end()
            else:
                return
        self.start().send(message, *fds)

    def _give_next(self) -> None:
        while self._waiting and len(self._asked) < MOST_ASKED:
            command = self._waiting.popleft()
            if not self._hand_over(command):
                return

    def _hand_over(self, command: Command) -> bool:
        """Give one order; False when there is no room for it yet."""
        self._asked.add(command)
        command.orders += 1
        try:
            self._give(command)
        except (OSError, ChannelClosed) as error:
            self._asked.remove(command)
            if isinstance(error, ChannelFull):
                command.orders -= 1
                self._waiting.appendleft(command)
                return False
            self._fail(command, error)
        if self._timer is None:
            self._expect_progress()
        return True

    # -- the process --------------------------------------------------------------------------------------

    def start(self) -> Channel:
        """Start it, if that has not been done; the channel to it. Raises OSError."""
        if self._channel is None:
            ours, theirs = pair()
            with theirs:
                try:
                    self.pid = process.spawn_bare(MODULE, theirs.fileno(), env=self._environment)
                    self._pidfd = process.open_pidfd(self.pid)
                except OSError:
                    ours.close()
                    raise
            self._channel = Channel(ours, FromChild)
            self._loop.add_reader(self._pidfd, self._on_end)
        return self._channel

    def end(self) -> None:
        """End it; whatever it was asked to do shows as the end of the channels that came with the orders."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._pidfd is not None:
            process.send_signal(self._pidfd, signal.SIGKILL)  # whoever reaps orphans reaps it
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def close(self) -> None:
        """End it and wait until it has ended, so that nothing is left of this daemon."""
        pidfd = os.dup(self._pidfd) if self._pidfd is not None else None
        self.end()
        if pidfd is not None:
            select.select([pidfd], [], [], END_PATIENCE)
            os.close(pidfd)

    def _on_end(self) -> None:
        log.warning("The nursery, from which commands are forked, has ended; the next command gets a new one")
        self.end()

    def _expect_progress(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(PATIENCE, self._on_no_progress) if self._asked else None

    def _on_no_progress(self) -> None:
        log.warning("The nursery has forked no command for %g s, and is replaced", PATIENCE)
        self._timer = None
        self.end()
