"""The one connection of a process that listens to the bus of one database and feeds the hub.

A notification only says "look": what is new is read from the table, once for all readers of this process, from
the last id seen. So a lost connection loses nothing, whatever was notified meanwhile. The listener also looks
every so often without having been called, for the connections on which notifications never arrive (a pooler in
transaction mode) and those that died without a word.

Nothing here knows how the process waits: under gevent, patched, everything that blocks is cooperative.
"""

from __future__ import annotations

import logging
import select
import socket
from contextlib import closing
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg2

from procman import signaling
from procman.bus.hub import Message
from procman.bus.outbox import NOTIFY_CHANNEL
from procman.core.restart import Pauses
from procman.db.connection import in_short
from procman.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from procman.bus.hub import Hub

log = logging.getLogger("procman.bus")

# How long a message can be fetched. Clients sleep, lose their network, or wait for a deployment.
KEPT_SECONDS = 24 * 3600.0

# The position of a bus without messages: its first message has the id 2 (0004_bus.sql).
EMPTY = 1

_LOOK_EVERY = 30.0
_CLEAN_EVERY = 600.0
_BATCH = 500
_PAUSE_FIRST, _PAUSE_MOST = 0.1, 1.0

_READ = "SELECT id, channel, message::text FROM procman.bus WHERE id > %s ORDER BY id LIMIT %s"
_READ_CHANNELS = """
    SELECT id, channel, message::text FROM procman.bus WHERE channel = ANY(%s) AND id > %s ORDER BY id LIMIT %s
"""
_POSITION = "SELECT coalesce(max(id), %s) FROM procman.bus"

# The newest row stays whatever its age: it is what the position of the bus is read from. (Not the sequence:
# that also counts ids whose transactions have not committed yet, and who starts there would miss them.)
_CLEAN = """
    DELETE FROM procman.bus WHERE id IN (
        SELECT id FROM (SELECT id, created FROM procman.bus ORDER BY id LIMIT %s) AS oldest
        WHERE created < clock_timestamp() - make_interval(secs => %s)
          AND id < (SELECT max(id) FROM procman.bus)
    )
"""


def read_position(cursor: Any) -> int:
    """The id of the newest message of the bus."""
    cursor.execute(_POSITION, (EMPTY,))
    return int(cursor.fetchone()[0])


def read_after(cursor: Any, channels: list[str], last: int, most: int) -> list[Message]:
    """What a reader that stands at ``last`` has missed on these channels, at most ``most`` messages of it."""
    cursor.execute(_READ_CHANNELS, (channels, last, most))
    return [Message(*row) for row in cursor.fetchall()]


class Listener:
    """Feeds ``hub`` from ``database``. ``lock`` is held around every use of the hub.

    `run` is to be called in a thread (or greenlet) of its own and returns after `stop`.
    """

    def __init__(
        self,
        database: str,
        hub: Hub,
        lock: AbstractContextManager[Any],
        *,
        kept_seconds: float = KEPT_SECONDS,
        look_every: float = _LOOK_EVERY,
    ) -> None:
        self.database = database
        self._hub = hub
        self._lock = lock
        self._kept_seconds = kept_seconds
        self._look_every = look_every
        self._clean_at = 0.0
        self._stopping = False
        self._wake_reader, self._wake_writer = socket.socketpair()

    def run(self) -> None:
        """Listen until stopped. Connect again, with growing pauses, when that is lost; tell the same trouble once."""
        pauses, told = Pauses(_PAUSE_FIRST, _PAUSE_MOST), ""
        with self._wake_reader:
            while not self._stopping:
                began = monotonic()
                try:
                    with closing(signaling.connect(self.database)) as connection:
                        self._follow(connection)
                except (DatabaseUnavailable, psycopg2.Error) as error:
                    if lived := monotonic() - began > _PAUSE_MOST:
                        pauses.over()
                    pause = pauses.next()
                    trouble = in_short(error)
                    level = logging.DEBUG if trouble == told and not lived else logging.WARNING
                    log.log(level, "Bus of database %s lost, trying to get it back: %s", self.database, trouble)
                    told = trouble
                    self._wait(None, pause)

    def stop(self) -> None:
        """Make `run` return soon; may be called from any thread, more than once."""
        if not self._stopping:
            self._stopping = True
            self._wake_writer.close()

    def _follow(self, connection: Any) -> None:
        with connection.cursor() as cursor:
            # First listen, then look: what commits after the look is notified.
            cursor.execute(f"LISTEN {NOTIFY_CHANNEL}")
            self._begin(cursor)
            log.info("Listening to the bus of database %s", self.database)
            while not self._stopping:
                more = self._clean(cursor)
                # A notification may have come in with the answer to a statement. It is no longer in the socket then,
                # and waiting there would be waiting for the next one.
                connection.poll()
                if not connection.notifies and not more:
                    self._wait(connection.fileno(), min(self._look_every, max(0.0, self._clean_at - monotonic())))
                    connection.poll()
                connection.notifies.clear()
                self._look(cursor)

    def _begin(self, cursor: Any) -> None:
        if self._hub.newest is None:
            position = read_position(cursor)
            with self._lock:
                self._hub.begin(position)
        else:
            self._look(cursor)

    def _look(self, cursor: Any) -> None:
        """Read everything that is new and feed it."""
        while True:
            newest = self._hub.newest
            cursor.execute(_READ, (newest, _BATCH))
            messages = [Message(*row) for row in cursor.fetchall()]
            if not messages:
                self._check_position(cursor)
                return
            with self._lock:
                self._hub.feed(messages)
            if len(messages) < _BATCH:
                return

    def _check_position(self, cursor: Any) -> None:
        # Restored from a backup, or emptied: ids that were seen will be given again, for other messages.
        position = read_position(cursor)
        if self._hub.newest is not None and position < self._hub.newest:
            log.warning("Bus of database %s stands at %d, was at %d", self.database, position, self._hub.newest)
            with self._lock:
                self._hub.begin(position)

    def _clean(self, cursor: Any) -> bool:
        """Remove a batch of old messages if it is time to; true if there may be more of them."""
        now = monotonic()
        if now < self._clean_at:
            return False
        cursor.execute(_CLEAN, (_BATCH, self._kept_seconds))
        if cursor.rowcount >= _BATCH:
            return True
        self._clean_at = now + _CLEAN_EVERY
        return False

    def _wait(self, fd: int | None, seconds: float) -> None:
        waiter = select.poll()
        waiter.register(self._wake_reader.fileno(), select.POLLIN)
        if fd is not None:
            waiter.register(fd, select.POLLIN)
        waiter.poll(seconds * 1000)
