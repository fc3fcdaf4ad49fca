"""What the workers of one daemon tell each other without asking PostgreSQL: that something was invalidated here.

A number in a file that all of them have mapped, changed after each commit that signals. It is only ever a reason to
look sooner: what is believed for how long is `Recent`'s affair.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import secrets
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from procman.signaling.store import Fingerprints

log = logging.getLogger("procman.signaling")

_SIZE = 8


class Recent(NamedTuple):
    """Signals that a transaction of this process has read, when it began to, and the hint before that."""

    signals: Fingerprints
    at: float
    hint: int


class Hint:
    """The hint of one database. Without a directory, or where it can't be written, it is this process's alone."""

    def __init__(self, directory: str | None, database: str) -> None:
        self._number = memoryview(_map(directory, database)).cast("Q")

    @property
    def value(self) -> int:
        return self._number[0]

    def change(self) -> None:
        """Something has been invalidated."""
        # At random rather than by counting: two processes at once would count to the same number. One aligned
        # store of eight bytes, so that nobody sees half of it.
        self._number[0] = secrets.randbits(64)


def _map(directory: str | None, database: str) -> mmap.mmap | bytearray:
    if directory is None:
        return bytearray(_SIZE)
    name = hashlib.md5(database.encode(), usedforsecurity=False).hexdigest()
    try:
        fd = os.open(os.path.join(directory, f"signals-{name}"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, _SIZE)
            return mmap.mmap(fd, _SIZE)
        finally:
            os.close(fd)
    except OSError as error:  # as for a pool with an account of its own, which can't reach the state directory
        log.debug("This process looks at signals alone: %s", error)
        return bytearray(_SIZE)
