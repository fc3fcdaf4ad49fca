"""The readers' side of the bus in one process: for each database a hub, its listener, and everybody who waits.

Waiting is done with `threading`, so that the same code serves greenlets in a patched process and threads in any
other. A reader's position, ``last``, is the id of the last message it knows of:

* a position above 0: everything after it is delivered, at once if it exists already;
* 0: from now on, which is where the database says the bus stands when the poll comes. The answer of every poll
  says where it stands then, so that the next poll need not say 0 again and nothing falls between the two. (Odoo
  delivers the last 50 seconds instead: messages twice, or not at all.)
* a position that the bus has not reached: if the database has it, this process is merely behind and will catch
  up; if not, the database was restored from a backup, and the reader gets what has come since that was noticed
  (or since this process began to listen).
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from procman import signaling
from procman.bus.hub import Hub, Message
from procman.bus.listener import Listener, read_after, read_position
from procman.errors import DatabaseUnavailable, NoDatabase

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger("procman.bus")

# One answer carries at most this many messages; the reader comes back for the rest.
MOST_MESSAGES = 500

# Readers that look into the database at the same time. They come in crowds, when a worker is replaced, and the
# connections are also the application's.
_MOST_LOOKING = 4

# Seconds until a reader who could not look into the database tries again.
_TRY_AGAIN = 1.0


@dataclass(frozen=True, slots=True)
class Polled:
    """What a poll brings: messages, oldest first, and the position to poll from the next time."""

    messages: Sequence[Message]
    last: int


class _Post:
    """The bus of one database in this process."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.lock = threading.RLock()
        self.hub = Hub()
        self.listener = Listener(database, self.hub, self.lock)
        self.thread = threading.Thread(target=self.listener.run, name=f"bus {database}", daemon=True)
        self.thread.start()


class Exchange:
    """All buses of this process. Listeners are started when first needed and stopped by `close`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._posts: dict[str, _Post] = {}
        self._looking = threading.BoundedSemaphore(_MOST_LOOKING)
        self._closing = False

    @property
    def waiting(self) -> int:
        """How many polls wait now."""
        return sum(post.hub.waiting for post in self._posts.values())

    def listen(self, database: str | None = None, *, wait: float = 0.0) -> bool:
        """Start listening to this database's bus (default: the main one) if nobody has yet.

        Waits up to ``wait`` seconds until it is heard and says whether it is: from then on a poll "from now on"
        means what it says. Raises NoDatabase when none is configured, and LookupError for one that is not.
        """
        post = self._post(database)
        heard = threading.Event()
        with post.lock:
            subscription = post.hub.subscribe((), heard.set)
        if post.hub.newest is None:
            heard.wait(wait)
        with post.lock:
            post.hub.unsubscribe(subscription)
        return post.hub.newest is not None

    def peek(self, channels: Sequence[str], last: int, *, database: str | None = None) -> Polled:
        """What there is, without waiting for more. Raises also DatabaseUnavailable."""
        post = self._post(database)
        with signaling.cursor(post.database) as cursor:
            position = read_position(cursor)
            if not 0 < last < position:
                return Polled((), position)
            return _polled(read_after(cursor, list(channels), last, MOST_MESSAGES), position)

    def poll(
        self,
        channels: Sequence[str],
        last: int,
        *,
        timeout: float,
        database: str | None = None,
        woken: threading.Event | None = None,
        given_up: Callable[[], bool] = lambda: False,
    ) -> Polled:
        """Wait up to ``timeout`` seconds for something newer than ``last`` on these channels.

        Returns without messages at the end of that time, or at once when the exchange closes. While the database
        is away a poll waits like any other: there is nothing that its reader could do better. Who has reasons of
        his own to end it brings ``woken``, and sets it when ``given_up`` has become true.
        """
        post = self._post(database)
        woken = woken or threading.Event()
        reader = _Reader(channels, last)
        if not last:
            self._take_position(post, reader)
        with post.lock:
            subscription = post.hub.subscribe(channels, woken.set)
        try:
            return self._wait(post, reader, woken, monotonic() + timeout, given_up)
        finally:
            with post.lock:
                post.hub.unsubscribe(subscription)

    def release(self) -> None:
        """Answer everybody who waits, now; polls that come later don't wait any more."""
        self._closing = True
        for post in list(self._posts.values()):
            with post.lock:
                post.hub.wake_all()

    def close(self) -> None:
        """Release, and stop listening."""
        self.release()
        for post in self._posts.values():
            post.listener.stop()

    def join(self, timeout: float | None = None) -> None:
        """After `close`: wait until the listeners are gone."""
        for post in self._posts.values():
            post.thread.join(timeout)

    def _post(self, database: str | None) -> _Post:
        name = _configured(database)
        with self._lock:
            if name not in self._posts:
                self._posts[name] = _Post(name)
            return self._posts[name]

    def _wait(
        self, post: _Post, reader: _Reader, woken: threading.Event, deadline: float, given_up: Callable[[], bool]
    ) -> Polled:
        while True:
            woken.clear()
            found = self._look(post, reader)
            remaining = deadline - monotonic()
            if found or self._closing or remaining <= 0 or given_up():
                return _polled(found or (), reader.last)
            woken.wait(remaining if found is not None else min(remaining, _TRY_AGAIN))

    def _look(self, post: _Post, reader: _Reader) -> list[Message] | None:
        """What the reader has not got yet, None if that can't be found out now.

        Moves the reader's position over what does not concern it.
        """
        if not reader.last and not self._take_position(post, reader):
            return None
        with post.lock:
            newest = post.hub.newest
            if newest is None:
                return []
            found = post.hub.after(reader.channels, reader.last, MOST_MESSAGES)
        if found is None or reader.last > newest:
            before = reader.last
            found = self._look_into_database(post, reader)
            if reader.last < before:
                return self._look(post, reader)
        if found is not None and not found:
            # Not beyond what was known before looking: what came meanwhile is found by the next look.
            reader.last = max(reader.last, newest)
        return found

    def _take_position(self, post: _Post, reader: _Reader) -> bool:
        # Not the hub's: it may be some milliseconds behind, and "now" would be before what the caller has done.
        try:
            with self._looking, signaling.cursor(post.database) as cursor:
                reader.last = read_position(cursor)
        except DatabaseUnavailable as error:
            log.debug("A poll waits for database %s: %s", post.database, error)
            return False
        return True

    def _look_into_database(self, post: _Post, reader: _Reader) -> list[Message] | None:
        try:
            with self._looking, signaling.cursor(post.database) as cursor:
                found = read_after(cursor, list(reader.channels), reader.last, MOST_MESSAGES)
                if not found and reader.last > read_position(cursor):
                    reader.last = post.hub.floor
        except DatabaseUnavailable as error:
            log.debug("A poll waits for database %s: %s", post.database, error)
            return None
        return found


class _Reader:
    """A reader in a poll: its channels, and how far it has come."""

    __slots__ = ("channels", "last")

    def __init__(self, channels: Sequence[str], last: int) -> None:
        self.channels = channels
        self.last = last


def _polled(found: Sequence[Message], position: int) -> Polled:
    return Polled(found, found[-1].id if found else position)


def _configured(database: str | None) -> str:
    names = signaling.databases()
    if not names:
        raise NoDatabase("the bus needs a database; none is configured ([database] url)")
    if database is None:
        return names[0]
    if database not in names:
        raise LookupError(f"there is no database {database!r} here")
    return database
