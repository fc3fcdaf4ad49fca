"""Who waits for what: the messages of one database's bus in memory, and the readers subscribed to its channels.

This module decides which messages a reader gets and who has to be woken. It must not know where messages come
from, how readers wait, or what time it is; whoever uses it from several threads brings the lock.

Two positions describe what the hub knows, both of them message ids:

* ``newest``: everything that was committed up to here has been seen (ids become visible in the order of their
  commits, see `procman.bus.outbox`, so one number says it all);
* ``horizon``: everything between it and ``newest`` is in memory. A reader that stands before the horizon has
  to look into the database once.

``floor`` is where the hub began, the last time it did.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from heapq import merge
from itertools import islice, takewhile
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MOST_MESSAGES = 10_000
MOST_CHARACTERS = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Message:
    """One message; ``text`` is its JSON, ready to be sent to any number of readers."""

    id: int
    channel: str
    text: str


class Subscription:
    """A reader's interest in some channels; ``wake`` is called whenever one of them has something new."""

    __slots__ = ("channels", "wake")

    def __init__(self, channels: frozenset[str], wake: Callable[[], object]) -> None:
        self.channels = channels
        self.wake = wake


class Hub:
    """The bus of one database, as one process has seen it. Keeps the last messages up to the given bounds."""

    def __init__(self, *, most_messages: int = MOST_MESSAGES, most_characters: int = MOST_CHARACTERS) -> None:
        self.newest: int | None = None
        self.horizon = self.floor = 0
        self._most_messages = most_messages
        self._most_characters = most_characters
        self._characters = 0
        self._kept: deque[Message] = deque()
        self._by_channel: dict[str, deque[Message]] = {}
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._all: set[Subscription] = set()

    def begin(self, newest: int) -> None:
        """The bus stands at ``newest`` and nothing of it is in memory; everybody looks again.

        Said once at the start, and again when the database turns out to be behind what was seen of it before,
        because it was restored from a backup.
        """
        self._kept.clear()
        self._by_channel.clear()
        self._characters = 0
        self.newest = self.horizon = self.floor = newest
        for subscription in list(self._all):
            subscription.wake()

    def feed(self, messages: Iterable[Message]) -> None:
        """Take in messages in the order of their ids; those seen before are passed over."""
        touched: set[Subscription] = set()
        for message in messages:
            if self.newest is not None and message.id <= self.newest:
                continue
            self.newest = message.id
            self._keep(message)
            touched.update(self._subscriptions.get(message.channel, ()))
        self._shrink()
        for subscription in touched:
            subscription.wake()

    def after(self, channels: Iterable[str], last: int, most: int) -> list[Message] | None:
        """The first ``most`` messages with an id above ``last``, oldest first; None if memory begins too late."""
        if last < self.horizon:
            return None
        newer = [list(takewhile(lambda message: message.id > last, reversed(kept))) for kept in self._kept_of(channels)]
        ordered = merge(*(reversed(one) for one in newer), key=attrgetter("id"))
        return list(islice(ordered, most))

    def subscribe(self, channels: Iterable[str], wake: Callable[[], object]) -> Subscription:
        """From now on call ``wake`` for every batch that brings something on these channels."""
        subscription = Subscription(frozenset(channels), wake)
        self._all.add(subscription)
        for channel in subscription.channels:
            self._subscriptions.setdefault(channel, set()).add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Never wake this one again. A subscription that is already gone is no error."""
        self._all.discard(subscription)
        for channel in subscription.channels:
            waiting = self._subscriptions.get(channel)
            if waiting is not None:
                waiting.discard(subscription)
                if not waiting:
                    del self._subscriptions[channel]

    def wake_all(self) -> None:
        """Let everybody look again."""
        for subscription in list(self._all):
            subscription.wake()

    @property
    def waiting(self) -> int:
        """How many readers are subscribed."""
        return len(self._all)

    def _kept_of(self, channels: Iterable[str]) -> list[deque[Message]]:
        return [self._by_channel[channel] for channel in set(channels) if channel in self._by_channel]

    def _keep(self, message: Message) -> None:
        self._kept.append(message)
        self._by_channel.setdefault(message.channel, deque()).append(message)
        self._characters += len(message.text)

    def _shrink(self) -> None:
        while len(self._kept) > self._most_messages or self._characters > self._most_characters:
            oldest = self._kept.popleft()
            of_channel = self._by_channel[oldest.channel]
            of_channel.popleft()
            if not of_channel:
                del self._by_channel[oldest.channel]
            self._characters -= len(oldest.text)
            self.horizon = oldest.id
