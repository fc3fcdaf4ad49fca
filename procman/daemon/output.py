"""What commands and hooks write, as records of the log.

A pipe is read by the loop, a piece at a time. Whoever writes more than can be logged beside all else is not read for a
while, so that its pipe fills and it has to wait: reading what commands write takes at most a quarter of the loop's
time, however many of them write without end.
"""

from __future__ import annotations

import logging
import os
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from procman.daemon.loop import Loop

log = logging.getLogger("procman.output")

PIECE = 4 * 1024  # bytes that are read at once: of the shortest lines, two thousand
MOST_LINE = 8 * 1024  # bytes; a longer line becomes several records
REST = 3.0  # so many times as long as it took to log a piece, nobody who fills pieces is read
LAST_PIECES = 64  # of what an ended process has left in its pipe


class Outputs:
    """The pipes that are read."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.streams: set[Stream] = set()
        self._rested_until = 0.0

    def open(self, pool: str, worker: str) -> Stream:
        """A new pipe, whose lines are logged as those of this pool and worker. Raises OSError."""
        stream = Stream(self, pool, worker)
        self.streams.add(stream)
        self.listen(stream)
        return stream

    def adopt(self, pool: str, worker: str, reader: int, rest: bytes, last: str) -> Stream:
        """A pipe that the image of the daemon before this one has read from, and what it had not logged yet."""
        stream = Stream(self, pool, worker, reader, rest, last)
        self.streams.add(stream)
        self.listen(stream)
        return stream

    def listen(self, stream: Stream) -> None:
        """Read the stream when there is something in it."""
        if stream.reader >= 0:
            self._loop.add_reader(stream.reader, stream.read)

    def rest(self, stream: Stream, spent: float) -> None:
        """Do not read the stream for a while: it had a full piece, which took this many seconds."""
        now = monotonic()
        # One after the other: many that write without end get no more together than a single one.
        self._rested_until = max(self._rested_until, now) + spent * REST
        self._loop.remove_reader(stream.reader)
        self._loop.call_at(self._rested_until, lambda: self.listen(stream))

    def forget(self, stream: Stream) -> None:
        """The stream has ended."""
        self._loop.remove_reader(stream.reader)
        self.streams.discard(stream)

    def close(self) -> None:
        """Log what is there, and read no more."""
        for stream in list(self.streams):
            stream.finish()


class Stream:
    """One pipe. ``writer`` is the end to be given away; ``last`` the last line that came."""

    def __init__(
        self, outputs: Outputs, pool: str, worker: str, reader: int | None = None, rest: bytes = b"", last: str = ""
    ) -> None:
        if reader is None:
            self.reader, self.writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            os.set_blocking(self.writer, True)
        else:
            self.reader, self.writer = reader, -1
        self.pool, self.worker = pool, worker
        self.last = last
        self.rest = rest  # the begin of a line
        self._outputs = outputs
        self._extra = {"pool": pool, "worker": worker}

    def given(self) -> None:
        """The other end is somebody else's now, and this process has it no more."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def read(self) -> None:
        """Log what has come; called by the loop."""
        began = monotonic()
        if self._piece() == PIECE:
            self._outputs.rest(self, monotonic() - began)

    def finish(self) -> None:
        """Log what is in the pipe, and close it, whoever may still hold the other end."""
        for _ in range(LAST_PIECES):
            if self._piece() < PIECE:
                break
        self._close()

    def _piece(self) -> int:
        """Log a piece; how long it was. At the end of the file the stream is closed."""
        if self.reader < 0:
            return 0
        try:
            data = os.read(self.reader, PIECE)
        except BlockingIOError:
            return 0
        if not data:
            self._close()
            return 0
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self._log(line)
        while len(self.rest) > MOST_LINE:
            self._log(self.rest[:MOST_LINE])
            self.rest = self.rest[MOST_LINE:]
        return len(data)

    def _log(self, line: bytes) -> None:
        for start in range(0, max(len(line), 1), MOST_LINE):
            text = line[start : start + MOST_LINE].decode("utf-8", "backslashreplace").rstrip("\r")
            self.last = text or self.last
            log.info("%s", text, extra=self._extra)

    def _close(self) -> None:
        if self.reader < 0:
            return
        if self.rest:
            self._log(self.rest)
            self.rest = b""
        self._outputs.forget(self)
        self.given()
        os.close(self.reader)
        self.reader = -1
