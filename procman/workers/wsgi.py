"""The application's side of a request: PEP 3333.

An `Exchange` is one call. It collects what the application says and lets it out when nothing can go wrong any
more: a response that is complete is sent after the unit has committed, so that whoever reads the answer to a
write sees what was written. Only when a response grows beyond `MOST_COLLECTED`, or comes piece by piece while
no transaction is open, it streams; then its end is what is held back until the commit.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any, Protocol

from procman.wire.request import Request
from procman.wire.response import HEADS, LAST_CHUNK, chunk, response_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType

    from procman.wire.response import ResponseHead

MOST_COLLECTED = 1024 * 1024  # bytes of a response that wait for the commit
_BLOCK = 64 * 1024


class ClientGone(Exception):
    """The client went away, or does not read, while its response was streamed."""


class Client(Protocol):
    """Where a response goes: a connection."""

    closed: bool
    sent: int  # bytes so far

    def head(self, request: Request, head: ResponseHead, framing: bytes, *, keep: bool) -> bytes:
        """The head on the wire; ``keep`` says that the connection may be kept after this response."""

    def respond(
        self, request: Request, head: ResponseHead, framing: bytes, blocks: Sequence[bytes], keep: bool, now: float
    ) -> None:
        """Send a whole response: head, and then the blocks."""

    def send(self, parts: list[bytes]) -> None:
        """Send at once what the kernel takes and the rest when it can."""

    def send_file(self, head: bytes, file: FileWrapper, region: tuple[int, int, int]) -> None:
        """Send the head and a region (descriptor, offset, size) of a file, and close the file afterwards."""

    def stream(self, data: bytes) -> None:
        """Send, and wait while too much is waiting already. Raises ClientGone."""

    def abort(self) -> None:
        """Break the connection, so that the client can't take what it has got for the whole response."""


class FileWrapper:
    """``wsgi.file_wrapper``: a file as a response, sent by the kernel when it is a regular file."""

    def __init__(self, filelike: Any, block_size: int = _BLOCK) -> None:
        self._file = filelike
        self._block_size = block_size
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self) -> FileWrapper:
        return self

    def __next__(self) -> bytes:
        data: bytes = self._file.read(self._block_size)
        if not data:
            raise StopIteration
        return data

    def region(self) -> tuple[int, int, int] | None:
        """Descriptor, offset and size of what is left to be read; None when it isn't a regular file."""
        try:
            fd: int = self._file.fileno()
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return None
            offset: int = self._file.tell()
        except (AttributeError, OSError, ValueError):
            return None
        return fd, offset, max(0, status.st_size - offset)


class Exchange(Request):
    """A request and one call of the application for it: its start_response, its write, its blocks."""

    client: Client  # given before the call
    # What is rarely anything else costs nothing to say here, and an attribute of each to say there.
    response: ResponseHead | None = None
    streams = False  # something has gone out already
    origin: tuple[str, str, str | None] | None = None  # client, scheme and host, if a proxy has told
    broken: int | None = None  # the status of the failure that the response broke off for
    held: Callable[[], bool] | None = None  # a transaction is open: let nothing out before its end
    _blocks: list[bytes] = []  # noqa: RUF012 - never filled: the first block makes one
    _size = 0
    _sent = 0
    _chunked = False
    _file: tuple[FileWrapper, tuple[int, int, int]] | None = None

    @property
    def _is_head(self) -> bool:
        return self.line.method == "HEAD"

    # -- what the application calls ------------------------------------------------------------------------

    def start_response(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None] | None = None,
    ) -> Callable[[bytes], None]:
        """PEP 3333, "The start_response() Callable"."""
        if exc_info:
            try:
                if self.streams and exc_info[1] is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # the traceback knows this frame: a cycle
        elif self.response is not None:
            raise AssertionError("start_response() called again without exc_info")
        said = status, tuple(headers)
        try:
            self.response = HEADS[said]
        except (KeyError, TypeError):
            self.response = response_head(*said)
        if self._size and not self.streams:
            # An error page takes the place of what was collected and not sent.
            self._blocks = []
            self._size = 0
        return self.write

    def write(self, data: bytes) -> None:
        """PEP 3333, "The write() Callable": also what takes the blocks of the iterable."""
        if type(data) is not bytes:
            raise TypeError(f"the application must give bytes, not {type(data).__name__}")
        if not data:
            return
        if self.response is None:
            raise AssertionError("the application gave data before it called start_response()")
        if self._silent(self.response):
            return
        if self._blocks:
            self._blocks.append(data)
        else:
            self._blocks = [data]
        self._size += len(data)
        if self.streams:
            self._flush()
        elif self._size > MOST_COLLECTED or not (self._complete() or (self.held is not None and self.held())):
            self._begin_to_stream()

    # -- the call ------------------------------------------------------------------------------------------

    def run(self, application: Any, environ: dict[str, Any]) -> int:
        """Call the application and take in what it returns; its status. Raises whatever it raises."""
        iterable = application(environ, self.start_response)
        kind = type(iterable)
        if (kind is list or kind is tuple) and self.response is not None and not self.streams:
            # It is all there: nothing is won by streaming it, however much it is.
            size = self._size
            for block in iterable:
                if type(block) is not bytes:
                    raise TypeError(f"the application must give bytes, not {type(block).__name__}")
                size += len(block)
            self._blocks = [*self._blocks, *iterable]
            self._size = size
            return self.response.code
        try:
            self._take(iterable)
        finally:
            if self._file is None and hasattr(iterable, "close"):
                iterable.close()
        if self.response is None:
            raise AssertionError("the application did not call start_response()")
        return self.response.code

    def _take(self, iterable: Iterable[bytes]) -> None:
        if isinstance(iterable, FileWrapper) and not self._blocks and not self.streams:
            region = iterable.region()
            if region is not None:
                self._file = iterable, region
                self._size = region[2]
                return
        for block in iterable:
            self.write(block)
            if self._is_head and self.response is not None:
                break  # nobody gets to see the rest

    def _silent(self, head: ResponseHead) -> bool:
        """No body goes out, whatever the application gives."""
        return self._is_head or head.bodyless

    def _complete(self) -> bool:
        """As much as the application has announced is there."""
        return self.response is not None and self.response.length is not None and self._size >= self.response.length

    # -- the end -------------------------------------------------------------------------------------------

    def finish(self, now: float) -> None:
        """The unit is over and has committed: let go of what was held back. ``now``: CLOCK_MONOTONIC."""
        head = self.response
        assert head is not None
        if self.streams:
            self._finish_stream()
        elif head.length == self._size and not (head.bodyless or self._file or self.line.method == "HEAD"):
            self.client.respond(self, head, b"", self._blocks, True, now)
        else:
            self._send_collected(head, now)

    def replace(self, head: ResponseHead, body: bytes) -> None:
        """The unit has failed: answer this instead, or break off when something has gone out already."""
        self.drop_file()
        if self.streams:
            self.broken = head.code
            self.client.abort()
            return
        self.response = head
        self._blocks = [body]
        self._size = len(body)

    @property
    def body_sent(self) -> int:
        """Bytes of the body that are out, or on their way."""
        if self.response is None or self._silent(self.response):
            return 0
        return self._sent + sum(map(len, self._blocks)) if self.streams else self._size

    def drop_file(self) -> None:
        """Close the file that will not be sent."""
        if self._file is not None:
            close = getattr(self._file[0], "close", None)
            self._file = None
            if close is not None:
                close()

    def _send_collected(self, head: ResponseHead, now: float) -> None:
        silent = self._silent(head)
        framing, keep = b"", True
        if head.length is None:
            # To HEAD the size is told where it is known; the blocks of an iterator are not asked for.
            if not head.bodyless and (self._size or not self._is_head):
                framing = b"Content-Length: %d\r\n" % self._size
        elif self._size < head.length:
            keep = silent  # else closing is all that can tell the client that something is missing
        elif self._size > head.length:
            self._cut(head.length)
        if silent:
            self.drop_file()
            self.client.respond(self, head, framing, (b"",), keep=keep, now=now)
        elif self._file is not None:
            file, (fd, offset, _) = self._file
            first = self.client.head(self, head, framing, keep=keep)
            self.client.send_file(first, file, (fd, offset, self._size))
        else:
            self.client.respond(self, head, framing, self._blocks, keep=keep, now=now)

    def _cut(self, length: int) -> None:
        # PEP 3333, "Handling the Content-Length Header": never more than was announced.
        self._size = length
        if self._file is None:
            self._blocks = [b"".join(self._blocks)[:length]]

    # -- streaming -----------------------------------------------------------------------------------------

    def _begin_to_stream(self) -> None:
        head = self.response
        assert head is not None
        self.streams = True
        self._chunked = head.length is None and self.line.version == "HTTP/1.1"
        framing = b"Transfer-Encoding: chunked\r\n" if self._chunked else b""
        # Without a length and without chunks only the end of the connection ends the body.
        keep = self._chunked or head.length is not None
        self.client.stream(self.client.head(self, head, framing, keep=keep))
        self._flush()

    def _flush(self) -> None:
        head = self.response
        assert head is not None
        data = b"".join(self._blocks)
        if head.length is not None and self._sent + len(data) >= head.length:
            self._blocks = [data[: head.length - self._sent]]
            return  # this completes the response: held back for the commit
        self._blocks = []
        self._sent += len(data)
        self.client.stream(chunk(data) if self._chunked else data)

    def _finish_stream(self) -> None:
        head = self.response
        assert head is not None
        if self._chunked:
            self.client.send([LAST_CHUNK])
        elif head.length is not None and not self._blocks:
            self.client.abort()  # less than was announced
        else:
            self.client.send(self._blocks)
