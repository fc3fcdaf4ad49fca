"""The signal store in SQL: "delta + fold digest".

A writer inserts one row, its group and a random token, into a delta table without an index, in the transaction
that changes the data: no lock, no session state, and a rollback takes it along. A reader takes, per group, the
number of signals and the xor of their tokens, over base and deltas. Read in the first statement of a
REPEATABLE READ transaction, that is a fingerprint of exactly the commits this transaction sees, whatever the
order in which they came. `fold` moves deltas into the base and changes no fingerprint.

Why not a counter per group: half of all concurrent writers would fail (SQLSTATE 40001). Why not sequences or
``max(id)``: they are not ordered by commit, so a reader can see the newer number and the older data.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from procman.core.spec import Isolation
from procman.db.connection import execute
from procman.db.migrate import LOCK_CLASS, LOCK_FOLD
from procman.signaling.foreign import execute_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    from procman.db.connection import Connection

FOLD_ABOVE = 64  # deltas; the check stays well below 0.1 ms up to about that many

REGISTRY = "procman.registry"  # the group whose signal means: load the registry anew
_EPOCH = "procman.epoch"
_PLAIN = re.compile(r"[^\x00'\\]{1,200}")

# One simple-query message with BEGIN: the check costs no round trip of its own. BEGIN turns the implicit
# transaction of the message into an ordinary one; its snapshot is taken by the SELECT (PostgreSQL, 54.2.2.1).
_READ = "SELECT * FROM procman.signals()"

_FOLD = """\
WITH moved AS (DELETE FROM procman.signal_delta RETURNING signal_group, token), \
sums AS (SELECT signal_group, count(*) AS signals, bit_xor(token) AS token FROM moved GROUP BY signal_group) \
INSERT INTO procman.signal_base AS base (signal_group, signals, token) \
SELECT signal_group, signals, token FROM sums ON CONFLICT (signal_group) \
DO UPDATE SET signals = base.signals + excluded.signals, token = base.token # excluded.token"""


class Tag(NamedTuple):
    """What a group's caches are worth: equal tags of one database mean the same committed signals."""

    epoch: int
    signals: int
    token: int

    def is_older(self, than: Tag | None) -> bool:
        """Whether it was probably read before the other: later snapshots of a database see more signals.

        Good for deciding what to keep. What a cached value is worth is decided by equality alone.
        """
        return than is not None and self.epoch == than.epoch and self.signals < than.signals


class Fingerprints(Protocol):
    """All groups' fingerprints as one transaction sees them; ``deltas``: how many wait to be folded."""

    deltas: int

    def tag(self, group: str) -> Tag:
        """The fingerprint of a group; one that was never signalled has one too."""


class Signals:
    """All groups' fingerprints as one transaction sees them, and how many deltas there were."""

    __slots__ = ("_groups", "deltas", "epoch")

    def __init__(self, rows: Iterable[tuple[str, int, int, int]]) -> None:
        self._groups: dict[str, tuple[int, int]] = {}
        self.deltas = 0
        for group, signals, token, deltas in rows:
            self._groups[group] = (signals, token)
            self.deltas += deltas
        self.epoch = self._groups.get(_EPOCH, (0, 0))[1]

    def tag(self, group: str) -> Tag:
        """The fingerprint of a group; one that was never signalled has one too."""
        return Tag(self.epoch, *self._groups.get(group, (0, 0)))


class DigestStore:
    """procman's own signals: all of them within the transaction, and none after it."""

    def begin(self, connection: Connection, isolation: Isolation) -> Signals:
        """Begin a transaction and read the signals in its first snapshot, in one message."""
        return begin(connection, isolation)

    def within(self, connection: Connection, groups: Iterable[str]) -> str:
        """The statement by which a transaction signals before it commits."""
        return insertion(groups)

    def after(self, connection: Connection, groups: Iterable[str]) -> None:
        """Nothing is left to be done after the commit."""

    def through(self, using: Any, groups: Iterable[str]) -> None:
        """Signal in a transaction of somebody else's (see `execute_in`)."""
        execute_in(using, insertion(groups))

    def forget(self) -> None:
        """Nothing is remembered."""


def begin(connection: Connection, isolation: Isolation = Isolation.REPEATABLE_READ) -> Signals:
    """Begin a transaction and read the signals in its first snapshot, in one message.

    At READ COMMITTED later statements may see more than these signals tell. What is computed from them is then
    kept under an older tag than it deserves: looked up less often than it could be, and never too new a value by
    itself, but a unit may meet values of two moments, which is what READ COMMITTED is.
    """
    return Signals(execute(connection, f"BEGIN ISOLATION LEVEL {isolation.upper()}; {_READ}").fetchall())


def insertion(groups: Iterable[str]) -> str:
    """The statement that signals these groups, within the transaction in which it is run.

    It takes no parameters, so that it runs through any driver whatever its parameter style.
    """
    # Not the `random` module: workers forked from one template would draw the same tokens.
    rows = ", ".join(f"('{check_group(group)}', {secrets.randbits(63)})" for group in groups)
    return f"INSERT INTO procman.signal_delta (signal_group, token) VALUES {rows}"


def check_group(group: str) -> str:
    """The name itself; ValueError when it can't be that of a group."""
    if not isinstance(group, str) or not _PLAIN.fullmatch(group):
        raise ValueError(f"{group!r} is no group: a string of 1 to 200 characters without quotes and backslashes")
    return group


def check_public_group(group: str) -> None:
    """ValueError unless applications may use the name for a group."""
    if check_group(group).startswith("procman."):
        raise ValueError(f"{group!r}: groups that begin with 'procman.' are procman's own")


def fold(connection: Connection) -> bool:
    """Move the deltas into the base, in a transaction of its own; False when another process is at it."""
    # READ COMMITTED, and the lock in a statement of its own: the next one's snapshot is taken under the lock.
    locked = execute(
        connection,
        f"BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_try_advisory_xact_lock({LOCK_CLASS}, {LOCK_FOLD})",
    ).fetchone()
    mine = locked is not None and bool(locked[0])
    if mine:
        execute(connection, _FOLD)
    execute(connection, "COMMIT")
    return mine
