"""Request lines and headers that have come before, byte for byte: what was found out about them holds again.

A client says nearly the same with each request, and many clients ask for the same. Reading that anew is half of what a
request costs, so what was read, and found good, is kept: request lines and headers each for themselves, because whether
headers are good does not hang on the line, once both are of the usual kind (`_is_usual`): HTTP/1.1, a path for a
target, a method that says nothing about framing, a connection to be kept, and no body. Whatever else comes is read as
if it had never come before.

Nothing is kept that has come once only: a header that is unique (an id, a time) would fill the room with what never
comes again. Of what came last a hash is remembered, and room is given at the second time.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from procman.wire.request import Line

if TYPE_CHECKING:
    from procman.wire.request import Head, Request

LONGEST = 4096  # bytes of a head; with the numbers below that is 2 MiB for each worker, should somebody try
_MOST_LINES = 1024
_LONGEST_LINE = 512
_MOST_HEADS = 256
_MARKS = 4096  # a power of two

# RFC 9112 section 3.2.1, origin-form: nearly all of them.
_USUAL_LINE = re.compile(rb"([A-Z][A-Z-]{0,31}) ((/[!$->@-~]*)(?:\?([!$-~]*))?) HTTP/(1\.[01])")
_VERSIONS = {b"1.1": "HTTP/1.1", b"1.0": "HTTP/1.0"}
_METHODS = frozenset(("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"))
# With these there is more to be done than to believe them.
_UNUSUAL_FIELDS = ("CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING", "HTTP_EXPECT", "HTTP_UPGRADE")


class Familiar:
    """What has come before, to one or several parsers that have the same limits."""

    __slots__ = ("_marks", "heads", "lines")

    def __init__(self) -> None:
        self.lines: dict[bytes, Line] = {}  # without their ends
        self.heads: dict[bytes, Head] = {}  # what follows the line, with the empty line at its end
        self._marks = [0] * _MARKS

    def line(self, start: bytes) -> Line | None:
        """A line that has not come before, which is enough where the head has; None when it is not a usual one."""
        line = usual_line(start)
        if line is None or line.version != "HTTP/1.1" or line.method not in _METHODS:
            return None
        self._learn_line(start, line)
        return line

    def learn(self, start: bytes, rest: bytes, request: Request) -> None:
        """This has come, and was found good: ``start`` is its line, a `usual_line`, ``rest`` are its headers."""
        if _is_usual(request):
            if start not in self.lines:
                self._learn_line(start, request.line)
            if self._comes_again(rest):
                if len(self.heads) >= _MOST_HEADS:
                    self.heads.clear()
                self.heads[rest] = request.head
                request.head.familiar = True

    def _learn_line(self, start: bytes, line: Line) -> None:
        if len(start) <= _LONGEST_LINE and self._comes_again(start):
            if len(self.lines) >= _MOST_LINES:
                self.lines.clear()
            self.lines[start] = line

    def _comes_again(self, data: bytes) -> bool:
        marked = hash(data)
        at = marked & (_MARKS - 1)
        if self._marks[at] == marked:
            return True
        self._marks[at] = marked
        return False


def usual_line(start: bytes) -> Line | None:
    """The request line, without its end, if it asks for a path by HTTP/1.1 or 1.0."""
    match = _USUAL_LINE.fullmatch(start)
    if match is None:
        return None
    method, target, path, query, number = match.groups()
    text = target.decode()
    if query is None:
        return Line(method.decode(), text, _VERSIONS[number], text)
    return Line(method.decode(), text, _VERSIONS[number], path.decode(), query.decode())


def _is_usual(request: Request) -> bool:
    line, fields = request.line, request.head.fields
    return (
        request.keep_alive
        and line.version == "HTTP/1.1"
        and line.method in _METHODS
        and not any(field in fields for field in _UNUSUAL_FIELDS)
    )
