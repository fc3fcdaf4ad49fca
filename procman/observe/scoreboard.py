"""One memory-mapped file with a fixed-size record for each worker.

A worker writes its record without a system call; the arbiter, the dashboard and `procmanctl` read it. One
process writes a record at a time, so plain aligned 8-byte stores are enough for figures. The texts (unit,
database) are guarded by a sequence number that is odd while they are being written; a reader that meets an
odd or a changed number reads again, and after a few tries takes what there is: a torn name does no harm.
"""

from __future__ import annotations

import mmap
import os
import struct
from time import monotonic

from procman.core.sample import Sample

RECORD_SIZE = 512
_WORDS = RECORD_SIZE // 8

_SEQUENCE, _PID, _USER, _QUERIES, _REQUESTS, _ERRORS, _HITS, _MISSES, _BUSY = range(9)
_STARTED, _QUERY_SECONDS, _BEAT, _CPU_FROM = range(16, 20)
_DATABASE_AT, _DATABASE_SIZE = 192, 64
_UNIT_AT, _UNIT_SIZE = 256, 256

_TEXT_LENGTH = struct.Struct("<H")


class Scoreboard:
    """The mapped file. Made by the arbiter (`create`), shared with children by its descriptor (`attach`)."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, 0)
        self._view = memoryview(self._map)
        self._ints = self._view.cast("q")
        self._floats = self._view.cast("d")
        self.size = len(self._view) // RECORD_SIZE

    @classmethod
    def create(cls, path: str, records: int) -> Scoreboard:
        """Make the file anew at ``path`` with room for ``records`` workers; raises OSError."""
        try:
            # Never the old file again: workers of a daemon that was killed may still write to it, and would die of
            # SIGBUS when it is cut, or write into the records of others.
            os.unlink(path)
        except FileNotFoundError:
            pass
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        # Allocated, not only sized: a store into a hole of a full disk is SIGBUS, not an error.
        os.posix_fallocate(fd, 0, records * RECORD_SIZE)
        return cls(fd)

    def clear(self, index: int) -> None:
        """Forget the worker that had this record."""
        start = index * RECORD_SIZE
        self._view[start : start + RECORD_SIZE] = bytes(RECORD_SIZE)

    def writer(self, index: int) -> Record:
        """The record of one worker, cleared, for that worker to write."""
        self.clear(index)
        start = index * RECORD_SIZE
        words = slice(index * _WORDS, (index + 1) * _WORDS)
        return Record(self._ints[words], self._floats[words], self._view[start : start + RECORD_SIZE])

    def read(self, index: int) -> Sample:
        """What the record says now."""
        ints = self._ints[index * _WORDS : (index + 1) * _WORDS]
        floats = self._floats[index * _WORDS : (index + 1) * _WORDS]
        view = self._view[index * RECORD_SIZE : (index + 1) * RECORD_SIZE]
        for _ in range(8):
            sequence = ints[_SEQUENCE]
            unit = _text(view, _UNIT_AT, _UNIT_SIZE)
            database = _text(view, _DATABASE_AT, _DATABASE_SIZE)
            if not sequence & 1 and sequence == ints[_SEQUENCE]:
                break
        return Sample(
            pid=ints[_PID],
            unit=unit if ints[_BUSY] > 0 else None,
            unit_started=floats[_STARTED],
            database=database,
            user=ints[_USER],
            queries=ints[_QUERIES],
            query_seconds=floats[_QUERY_SECONDS],
            requests=ints[_REQUESTS],
            errors=ints[_ERRORS],
            cache_hits=ints[_HITS],
            cache_misses=ints[_MISSES],
            beat=floats[_BEAT],
            cpu_from=floats[_CPU_FROM],
        )


class Record:
    """A worker's own record: written by that worker alone."""

    __slots__ = ("_floats", "_ints", "_view")

    def __init__(self, ints: memoryview[int], floats: memoryview[float], view: memoryview[int]) -> None:
        self._ints = ints
        self._floats = floats
        self._view = view

    def claim(self, pid: int) -> None:
        """Say whose record this is."""
        self._ints[_PID] = pid
        self._floats[_BEAT] = monotonic()

    def begin(self, unit: str) -> None:
        """A unit begins. With several at once (greenlets, threads) the record shows the latest."""
        ints, floats = self._ints, self._floats
        ints[_SEQUENCE] += 1
        self._write(_UNIT_AT, _UNIT_SIZE, unit)
        self._write(_DATABASE_AT, _DATABASE_SIZE, "")
        ints[_QUERIES] = 0
        ints[_USER] = 0
        floats[_QUERY_SECONDS] = 0.0
        floats[_STARTED] = monotonic()
        ints[_BUSY] += 1
        ints[_SEQUENCE] += 1

    def end(self, *, failed: bool = False) -> None:
        """The unit is over."""
        ints = self._ints
        ints[_REQUESTS] += 1
        if failed:
            ints[_ERRORS] += 1
        ints[_BUSY] -= 1
        self._floats[_BEAT] = monotonic()

    def beat(self) -> None:
        """Say that the worker is alive between units."""
        self._floats[_BEAT] = monotonic()

    def cpu_from(self, clock: float) -> None:
        """The unit's CPU time counts from this reading of the process's CPU clock, in seconds, or a little before."""
        self._floats[_CPU_FROM] = clock

    def in_database(self, database: str) -> None:
        """The unit uses this database."""
        self._ints[_SEQUENCE] += 1
        self._write(_DATABASE_AT, _DATABASE_SIZE, database)
        self._ints[_SEQUENCE] += 1

    def as_user(self, user: int) -> None:
        """The unit works for the user of this id."""
        try:
            self._ints[_USER] = user
        except ValueError:
            raise OverflowError(f"{user} is no 64-bit number") from None

    def query(self, seconds: float) -> None:
        """One more query of the unit, which took this long."""
        self._ints[_QUERIES] += 1
        self._floats[_QUERY_SECONDS] += seconds

    def cache(self, *, hit: bool) -> None:
        """One more look into a cache."""
        self._ints[_HITS if hit else _MISSES] += 1

    @property
    def last_seconds(self) -> float:
        """How long the last unit took."""
        return self._floats[_BEAT] - self._floats[_STARTED]

    @property
    def requests(self) -> int:
        """Units done by this worker so far."""
        return self._ints[_REQUESTS]

    def _write(self, at: int, size: int, text: str) -> None:
        # Cut at a byte, not at a character: the reader replaces what the cut has broken.
        data = text.encode("utf-8", "replace")[: size - 2]
        end = at + 2 + len(data)
        self._view[at : at + 2] = _TEXT_LENGTH.pack(len(data))
        self._view[at + 2 : end] = data


def _text(view: memoryview[int], at: int, size: int) -> str:
    (length,) = _TEXT_LENGTH.unpack_from(view, at)
    return bytes(view[at + 2 : at + 2 + min(length, size - 2)]).decode("utf-8", "replace")
