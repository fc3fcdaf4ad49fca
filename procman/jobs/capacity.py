"""How many jobs may be on their way at once, beyond what the channels say.

A job that is sent to a pool whose workers are all busy waits in the queue of its socket, where it can't be overtaken,
and where users wait behind it. So no more are sent than there are workers free to take them: the arbiter tells who
serves, the scoreboard who is busy, and with what.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from procman.core.spec import MOST_EXCHANGES

if TYPE_CHECKING:
    from procman.observe.scoreboard import Scoreboard

# What a user's request begins or ends with is not told to anybody: it is looked at as often as this.
LOOK_EVERY = 0.02


class Capacity:
    """``most``: so many jobs at once; None: as many as there are workers to take them, but for ``reserve``, which are
    left to users if there is more than one."""

    def __init__(self, most: int | None = None, reserve: int = 0, board: Scoreboard | None = None) -> None:
        self._most = most or MOST_EXCHANGES
        self._automatic = most is None
        self._reserve = reserve
        self._board = board
        self._records: tuple[int, ...] | None = None  # nobody has told yet, or nobody will
        self._threads = 1
        self._looked_at = 0.0
        self._busy = self._users = 0

    def crew(self, records: tuple[int, ...], threads: int) -> None:
        """These workers serve from now on."""
        self._records, self._threads = records, threads
        self._looked_at = 0.0

    def room(self, underway: int) -> int:
        """For how many more jobs there is room, so many being on their way."""
        if not self._automatic or self._records is None:
            return self._most - underway
        places = len(self._records) * self._threads
        places = max(places - self._reserve, min(places, 1))
        self._look()
        taken = underway + self._users if self._threads == 1 else max(underway, self._busy)
        return min(places, self._most) - taken

    def __str__(self) -> str:
        """For people: what there is room for."""
        if not self._automatic:
            return f"{self._most} jobs may be on their way at once"
        if self._records is None:
            return f"{self._most} jobs may be on their way at once, as nobody says how many workers there are"
        kept = f", of which {self._reserve} kept for users" if self._reserve and len(self._records) > 1 else ""
        users = f", and {self._users} are busy with users" if self._users else ""
        threads = f" with {self._threads} threads each" if self._threads > 1 else ""
        return f"{len(self._records)} workers{threads}{kept}{users}"

    @property
    def shared(self) -> bool:
        """Users are being served: room may come without anybody saying so."""
        return bool(self._automatic and self._records and (self._users if self._threads == 1 else self._busy))

    def _look(self) -> None:
        now = monotonic()
        if self._board is None or not self._records or now - self._looked_at < LOOK_EVERY:
            return
        self._looked_at = now
        self._busy = self._users = 0
        for record in self._records:
            if busy := self._board.busy(record):
                self._busy += busy
                self._users += not (self._board.read(record).unit or "").startswith("job ")
