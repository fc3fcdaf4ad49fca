"""One memory-mapped file with a fixed-size record for each worker.

A worker writes its record without a system call; the arbiter, the dashboard and `procmanctl` read it. One
process writes a record at a time, so plain aligned 8-byte stores are enough for figures. What is said of the unit
stands between two copies of a sequence number and is written in one go, from its beginning to its end; a reader that
meets two that differ (or none: 0) reads again, and after a few tries takes what there is: a torn name does no harm.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from bisect import bisect_left
from time import monotonic
from typing import TYPE_CHECKING

from procman.core.sample import LATENCY_BOUNDS, Sample, Traffic

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORD_SIZE = 1024
_WORDS = RECORD_SIZE // 8

# Words: whole numbers, and floats in seconds.
_PID, _REQUESTS, _ERRORS, _HITS, _MISSES = range(5)
_BEAT, _CPU_FROM, _BUSY_SECONDS = range(8, 11)
# The unit: sequence number, how many there are at once, begin, user, queries, their seconds, its own limit in seconds
# (0: none), database, name, and the sequence number again; the texts after their lengths, and cut at a byte, not at a
# character, where they are too long: the reader replaces what the cut has broken.
_UNIT = struct.Struct("<qqdqqddH62sI244sq")
_pack_unit = _UNIT.pack_into
_UNIT_AT = 128
_HEAD, _BUSY, _STARTED, _USER, _QUERIES, _QUERY_SECONDS, _LIMIT = range(16, 23)
_DATABASE_AT, _DATABASE_SIZE = _UNIT_AT + 56, 62
_NAME_AT, _NAME_SIZE = _UNIT_AT + 120, 244
_TAIL = 62
# What the http worker counts.
_RECEIVED, _SENT, _SECONDS, _CONNECTIONS = range(64, 68)
# How far which unit is: its begin, and a share; another unit's is nobody's.
_PROGRESS_OF, _PROGRESS = 68, 69
_LATENCIES = 72
_FIRST_BOUND = LATENCY_BOUNDS[0]

_TEXT_LENGTH = struct.Struct("<H")
_NAME_LENGTH = struct.Struct("<I")


def _described(constants: Mapping[str, object]) -> list[tuple[str, object]]:
    plain = {name: value.format if isinstance(value, struct.Struct) else value for name, value in constants.items()}
    return sorted((name, value) for name, value in plain.items() if name.isupper())


# What the records look like: all the constants of this module, in a number. Workers that write them in another way
# can't be read, and are replaced after an upgrade.
LAYOUT = zlib.crc32(repr(_described(dict(vars()))).encode())


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
        at = index * RECORD_SIZE + _UNIT_AT
        for _ in range(8):
            sequence = ints[_TAIL]
            block = bytes(self._view[at : at + _UNIT.size])
            if sequence and sequence == ints[_HEAD]:
                break
        _, busy, started, user, queries, query_seconds, limit, *texts, _ = _UNIT.unpack(block)
        of_database, database, of_name, name = texts
        return Sample(
            pid=ints[_PID],
            unit=_text(name, of_name) if busy > 0 else None,
            unit_started=started,
            unit_limit=limit or None,
            database=_text(database, of_database),
            user=user,
            queries=queries,
            query_seconds=query_seconds,
            requests=ints[_REQUESTS],
            errors=ints[_ERRORS],
            cache_hits=ints[_HITS],
            cache_misses=ints[_MISSES],
            beat=floats[_BEAT],
            cpu_from=floats[_CPU_FROM],
            progress=floats[_PROGRESS] if busy > 0 and floats[_PROGRESS_OF] == started else None,
            traffic=Traffic(
                received=ints[_RECEIVED],
                sent=ints[_SENT],
                connections=ints[_CONNECTIONS],
                seconds=floats[_SECONDS],
                latencies=tuple(ints[_LATENCIES : _LATENCIES + len(LATENCY_BOUNDS) + 1]),
            ),
        )

    def busy(self, index: int) -> int:
        """In how many units the worker is."""
        return self._ints[index * _WORDS + _BUSY]

    def busy_seconds(self, index: int, now: float) -> float:
        """For how long the worker has been in units, the one that it is in included; for workers with one at a time."""
        at = index * _WORDS
        done = self._floats[at + _BUSY_SECONDS]
        return done + max(0.0, now - self._floats[at + _STARTED]) if self._ints[at + _BUSY] > 0 else done


class Record:
    """A worker's own record: written by that worker alone, which need not read what it wrote to add to it."""

    __slots__ = (
        "_busy",
        "_busy_seconds",
        "_errors",
        "_floats",
        "_ints",
        "_received",
        "_seconds",
        "_sent",
        "_sequence",
        "_view",
        "ended",
        "requests",
        "started",
    )

    def __init__(self, ints: memoryview[int], floats: memoryview[float], view: memoryview[int]) -> None:
        self._ints = ints
        self._floats = floats
        self._view = view
        self._sequence = 0
        self._busy = 0
        self._errors = 0
        self._received = self._sent = 0
        self._seconds = self._busy_seconds = 0.0
        self.requests = 0  # units done by this worker so far
        self.started = self.ended = 0.0  # of the last unit that began, and of the last one that ended

    def claim(self, pid: int) -> None:
        """Say whose record this is."""
        self._ints[_PID] = pid
        self._floats[_BEAT] = monotonic()
        self.show("", 0.0)

    def begin(self, unit: str | bytes) -> None:
        """A unit begins. With several at once (greenlets, threads) the record shows the latest.

        In bytes its name is UTF-8, and need not be encoded each time.
        """
        busy = self._busy + 1
        self._sequence = sequence = self._sequence + 1
        self.started = started = monotonic()
        name = unit if isinstance(unit, bytes) else unit.encode("utf-8", "replace")
        _pack_unit(self._view, _UNIT_AT, sequence, busy, started, 0, 0, 0.0, 0.0, 0, b"", len(name), name, sequence)
        self._busy = busy  # last: see `unit`

    def show(self, unit: str, started: float) -> None:
        """Of several units at once, show this one."""
        self._sequence = sequence = self._sequence + 1
        name = unit.encode("utf-8", "replace")
        busy = self._busy
        _pack_unit(self._view, _UNIT_AT, sequence, busy, started, 0, 0, 0.0, 0.0, 0, b"", len(name), name, sequence)

    def end(self, failed: bool = False) -> None:
        """The unit is over."""
        ints = self._ints
        self._busy = ints[_BUSY] = self._busy - 1  # first: see `unit`
        self.requests = ints[_REQUESTS] = self.requests + 1
        if failed:
            self._errors += 1
            ints[_ERRORS] = self._errors
        self._floats[_BEAT] = self.ended = ended = monotonic()
        self._busy_seconds += ended - self.started
        self._floats[_BUSY_SECONDS] = self._busy_seconds

    @property
    def unit(self) -> int | None:
        """A number for the unit that runs now, where there is one at a time: another one than the last had.

        For signal handlers, too: what is done to it is done between the end of `begin` and the begin of `end`.
        """
        return self.requests if self._busy else None

    def served(self, seconds: float, received: int, sent: int) -> None:
        """The unit was a request that took so long, with so many bytes of body in and of response out."""
        ints = self._ints
        ints[_LATENCIES if seconds <= _FIRST_BOUND else _LATENCIES + bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self._seconds += seconds
        self._floats[_SECONDS] = self._seconds
        self._sent += sent
        ints[_SENT] = self._sent
        if received:
            self._received += received
            ints[_RECEIVED] = self._received

    def connected(self, connections: int) -> None:
        """So many connections are open."""
        self._ints[_CONNECTIONS] = connections

    def beat(self) -> None:
        """Say that the worker is alive between units."""
        self._floats[_BEAT] = monotonic()

    def cpu_from(self, clock: float) -> None:
        """The unit's CPU time counts from this reading of the process's CPU clock, in seconds, or a little before."""
        self._floats[_CPU_FROM] = clock

    def in_database(self, database: str) -> None:
        """The unit uses this database."""
        data = database.encode("utf-8", "replace")[:_DATABASE_SIZE]
        self._sequence += 1
        self._ints[_HEAD] = self._sequence
        self._view[_DATABASE_AT : _DATABASE_AT + 2] = _TEXT_LENGTH.pack(len(data))
        self._view[_DATABASE_AT + 2 : _DATABASE_AT + 2 + len(data)] = data
        self._ints[_TAIL] = self._sequence

    def rename(self, unit: str) -> None:
        """Now that more is known of it, the unit has a better name; all else of it stays."""
        name = unit.encode("utf-8", "replace")
        self._sequence += 1
        self._ints[_HEAD] = self._sequence
        self._view[_NAME_AT : _NAME_AT + 4] = _NAME_LENGTH.pack(len(name))
        self._view[_NAME_AT + 4 : _NAME_AT + 4 + _NAME_SIZE] = name[:_NAME_SIZE].ljust(_NAME_SIZE, b"\0")
        self._ints[_TAIL] = self._sequence

    def progress(self, share: float) -> None:
        """So much of the unit is done, from 0 to 1."""
        self._floats[_PROGRESS] = share
        self._floats[_PROGRESS_OF] = self.started

    def bound(self, seconds: float) -> None:
        """The unit may take so long, from its beginning on."""
        self._sequence += 1
        self._ints[_HEAD] = self._sequence
        self._floats[_LIMIT] = seconds
        self._ints[_TAIL] = self._sequence

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

    @property
    def queries(self) -> int:
        """How many queries the last unit has had."""
        return self._ints[_QUERIES]

    @property
    def query_seconds(self) -> float:
        """How long they took."""
        return self._floats[_QUERY_SECONDS]

    def cache(self, *, hit: bool) -> None:
        """One more look into a cache."""
        self._ints[_HITS if hit else _MISSES] += 1


def _text(data: bytes, length: int) -> str:
    return data[:length].decode("utf-8", "replace")
