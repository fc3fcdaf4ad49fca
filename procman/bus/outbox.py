"""Sending: messages are collected in the unit and written as the last thing before it commits.

Readers remember one number, the last id they have seen, so an id must never become visible after a greater
one. A sequence alone does not give that: it hands out ids when rows are inserted, and transactions commit in
another order. Hence an advisory lock, taken before the ids are drawn and held, as transaction locks are, until
the commit is visible: ids are drawn in the order of commits.

This makes senders queue, but not more than they do anyway: a transaction that has called NOTIFY takes a lock on
"database 0" before it commits and holds it to the end (PreCommit_Notify in PostgreSQL's async.c), which is
instance-wide and there for the same reason. Because messages are written by a hook before the commit, ours is
held for about as long. It is also why sending must not happen earlier in the transaction: the application's own
work would be done under the lock.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from procman import signaling
from procman.db.migrate import LOCK_CLASS
from procman.signaling import Collected

if TYPE_CHECKING:
    from procman.signaling import Unit

NOTIFY_CHANNEL = "procman_bus"
MOST_CHANNEL_BYTES = 512
MOST_MESSAGE_BYTES = 1024 * 1024

_LOCK_BUS = 3  # the second key, see LOCK_CLASS

# One message to the server. The order of the rows is the order in which ids are drawn (INSERT, "Notes":
# with ORDER BY in the query, identity columns are computed in that order).
_WRITE = f"""
SELECT pg_advisory_xact_lock({LOCK_CLASS}, {_LOCK_BUS});
INSERT INTO procman.bus (channel, message)
    SELECT channel, message::json
    FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS sent (channel, message, position)
    ORDER BY position;
NOTIFY {NOTIFY_CHANNEL};
"""


def send(channel: str, message: Any, *, database: str | None = None, at_once: bool = False) -> None:
    """Send a message to everybody who listens on ``channel``, when the current unit commits.

    ``message`` is anything that `json.dumps` accepts, at most 1 MiB of it; it is encoded now, so that later
    changes of it change nothing. A channel is a text of 1 to 512 bytes. Outside a unit the message is sent at
    once, in a transaction of its own, in ``database`` (default: the main one). Messages of one unit keep their
    order and arrive together. What was sent inside a `procman.transaction` block that is undone is not sent.

    ``at_once``: send it now, on another connection, whatever becomes of the unit: how far a long job is, say.

    Raises ValueError or TypeError for what can't be sent, and RuntimeError when ``database`` is not the one the
    current unit works in.
    """
    item = _checked_channel(channel), _encoded(message)
    unit = signaling.current()
    if at_once:
        with signaling.lend(database or (unit.database if unit else None)) as connection, connection.cursor() as cr:
            _write(cr, [item])  # one message to the server, and so one transaction
        return
    if unit is None:
        with signaling.unit(database) as unit:
            _outbox(unit).append(item)
        return
    if database is not None and database != unit.database:
        raise RuntimeError(f"the current unit works in database {unit.database!r}, not in {database!r}")
    _outbox(unit).append(item)


def _checked_channel(channel: str) -> str:
    if not isinstance(channel, str):
        raise TypeError(f"a channel is a str, not {type(channel).__name__}")
    if not channel or "\0" in channel or len(channel.encode()) > MOST_CHANNEL_BYTES:
        raise ValueError(f"a channel is a text of 1 to {MOST_CHANNEL_BYTES} bytes without NUL, not {channel[:80]!r}")
    return channel


def _encoded(message: Any) -> str:
    # ASCII only, so that any str survives, also lone surrogates and in a database of any encoding.
    text = json.dumps(message, allow_nan=False, separators=(",", ":"))
    if len(text) > MOST_MESSAGE_BYTES:
        raise ValueError(f"a message has at most {MOST_MESSAGE_BYTES} bytes as JSON; this one has {len(text)}")
    return text


_outboxes: WeakKeyDictionary[Unit, Collected[tuple[str, str]]] = WeakKeyDictionary()


def _outbox(unit: Unit) -> Collected[tuple[str, str]]:
    """What the unit has sent so far; made, and to be written before the commit, with the first message."""
    items = _outboxes.get(unit)
    if items is None:
        items = _outboxes[unit] = Collected(_write)
        unit.before_commit(items)
    return items


def _write(cursor: Any, items: list[tuple[str, str]]) -> None:
    cursor.execute(_WRITE, ([channel for channel, _ in items], [text for _, text in items]))
