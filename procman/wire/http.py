"""HTTP/1.1 and 1.0 requests from bytes, in any pieces.

llhttp (through httptools) reads the grammar of RFC 9112. What the grammar leaves to the server is added: here, which
framing is trusted and how much may come; in `procman.wire.rules`, what a head may say. The request line is read here,
too, because llhttp takes more for one than is one. The aim is that nobody who reads the same bytes (a proxy in front,
above all) can see other requests in them than we do: whatever may be read in two ways is refused and the
connection closed.

A parser never raises for what a client sends. It queues the complete requests in `RequestParser.requests`, in
their order, and after the first mistake it sets `RequestParser.error` and reads no further, so that what came
before the mistake is still answered.
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, Generic, TypeVar

from httptools import HttpParserError, HttpParserInvalidMethodError, HttpParserUpgrade, HttpRequestParser

from procman.errors import BadRequest
from procman.wire.familiar import LONGEST, Familiar, usual_line
from procman.wire.request import KEYS, Head, Line, Request, RequestLimits
from procman.wire.rules import GOOD_HOSTS, check_host, check_size, join_repeated, kept, read_target, set_aside

if TYPE_CHECKING:
    from collections.abc import Callable

# RFC 9112 section 3: one space each time. llhttp takes several, and RTSP/ and ICE/ for HTTP/. Methods are
# case-sensitive, and all that are registered (RFC 9110 section 16.1) have capital letters.
_REQUEST_LINE = re.compile(rb"([A-Z][A-Z-]{0,31}) ([!-~]+) HTTP/([0-9]\.[0-9])\r\n")
_VERSIONS = {b"1.1": "HTTP/1.1", b"1.0": "HTTP/1.0"}
_LINE_END = b"\r\n"
_HEAD_END = b"\r\n\r\n"
_MOST_BESIDE_TARGET = 128  # bytes of a request line
_MOST_EMPTY_LINES = 4  # before a request; RFC 9112 section 2.2 wants one to be ignored
# What would have an effect on the connection has none in a trailer (RFC 9110 section 6.5.1). llhttp hears some of these
# and refuses others; here they are all refused.
_NEVER_IN_TRAILERS = frozenset((b"connection", b"content-length", b"proxy-connection", b"transfer-encoding"))


R = TypeVar("R", bound=Request)


def _memory_body(expected: int | None) -> BinaryIO:
    return BytesIO()


class RequestParser(Generic[R]):
    """Reads the requests of one connection.

    ``new_body`` makes the file that a request's body is collected in; it is told the announced size, or None
    when the body comes in chunks. ``familiar`` is for parsers with the same limits to share.
    ``make`` makes a request, which may be more than that to whoever answers it.
    """

    __slots__ = (
        "_begun",
        "_body_left",
        "_chunked",
        "_empty_lines",
        "_familiar",
        "_fed",
        "_head_done",
        "_headers",
        "_heads",
        "_held",
        "_limits",
        "_lines",
        "_llhttp",
        "_make",
        "_most_at_once",
        "_new_body",
        "_request",
        "_tail",
        "arriving",
        "awaits_continue",
        "error",
        "finished",
        "requests",
    )

    def __init__(
        self,
        limits: RequestLimits | None = None,
        new_body: Callable[[int | None], BinaryIO] = _memory_body,
        familiar: Familiar | None = None,
        make: Callable[[], R] = Request,  # type: ignore[assignment]
    ) -> None:
        self._make = make
        self._limits = limits or RequestLimits()
        self._most_at_once = min(self._limits.target, self._limits.head, LONGEST)
        self._new_body = new_body
        self._familiar = familiar or Familiar()
        self._lines, self._heads = self._familiar.lines, self._familiar.heads
        self._llhttp: HttpRequestParser | None = None  # made when it is needed
        self._held = b""  # the beginning of a request line
        self._empty_lines = 0
        self._begun: Line | None = None  # the request line has been read, the head has not
        self._request: R | None = None  # its head has been read
        self._headers: list[tuple[bytes, bytes]] = []
        self._tail = b""  # the last bytes of a head, or between chunks: its end may come in two pieces
        self._head_done = False
        self._fed = 0  # bytes since anything was got out of them: bounds what llhttp itself collects
        self._body_left = 0
        self._chunked = False
        self.requests: list[R] = []
        self.error: BadRequest | None = None
        self.arriving = False  # a request has begun and is not complete
        self.awaits_continue = False  # the client waits for "100 Continue" before it sends the body
        self.finished = False  # the client has said that no request follows

    @property
    def head_done(self) -> bool:
        """The head of the arriving request is complete, its body is not."""
        return self.arriving and self._head_done

    @property
    def body_received(self) -> int:
        """Bytes of the arriving request's body so far."""
        return self._request.body_size if self._request is not None else 0

    def feed(self, data: bytes) -> None:
        """Read what the client sent."""
        if (request := self.read(data)) is not None:
            self.requests.append(request)

    def read(self, data: bytes) -> R | None:
        """Read what the client sent: one request and nothing else; or it is as if it had been fed.

        That is the usual case, without a detour: a head without a body, all of it, and within every limit.
        """
        if self.arriving or self._held or self.requests or self.finished or len(data) > self._most_at_once:
            self._read_on(data)
            return None
        if self.error is not None:
            return None
        start, _, rest = data.partition(_LINE_END)
        line, head = self._lines.get(start), self._heads.get(rest)
        if head is not None and (line is not None or (line := self._familiar.line(start)) is not None):
            self._empty_lines = 0
            request = self._make()
            request.line, request.head = line, head
            return request
        if data.find(_HEAD_END) != len(data) - 4 or (line is None and (line := usual_line(start)) is None):
            self._read_on(data)
            return None
        self._begun = line
        self.arriving = True
        self._read_piece(data)
        if self.error is not None or self.arriving or not self.requests:
            return None
        request = self.requests.pop()
        self._familiar.learn(start, rest, request)
        return request

    def _read_on(self, data: bytes) -> None:
        """Read any number of requests, and any parts of them."""
        if self.error is not None or self.finished:
            return
        self._fed += len(data)
        if self._held:
            data, self._held = self._held + data, b""
        at, size = 0, len(data)
        while at < size and not self.finished and self.error is None:
            if self._begun is None and not self._head_done:
                at = self._read_start(data, at)
                continue
            # llhttp gets no more than one message at a time: so it is known where each one begins.
            end = self._end_of_piece(data, at)
            self._read_piece(data if end - at == size else memoryview(data)[at:end])
            at = end
        if self._fed > 2 * self._limits.head and self.error is None:
            self.error = self._too_much()

    def _read_piece(self, piece: bytes | memoryview) -> None:
        if self._llhttp is None:
            self._llhttp = HttpRequestParser(self)
        try:
            self._llhttp.feed_data(piece)
        except HttpParserUpgrade:
            self._decline_upgrade()
        except HttpParserError as refusal:
            self._fail(refusal)
        if self.arriving:
            self._tail = (self._tail + bytes(piece[-3:]))[-3:]

    def _end_of_piece(self, data: bytes, at: int) -> int:
        """Where the message may end: a body after its length, a head and a chunked body after an empty line."""
        if self._head_done and not self._chunked:
            return min(len(data), at + self._body_left)
        if self._tail and (found := (self._tail + data[at : at + 3]).find(_HEAD_END)) >= 0:
            return at + found + 4 - len(self._tail)
        found = data.find(_HEAD_END, at)
        return len(data) if found < 0 else found + 4

    def _read_start(self, data: bytes, at: int) -> int:
        """Read the request line at ``at``, and where it begins; the end of data when it is not complete."""
        end = data.find(b"\n", at) + 1
        if end == at + 2 and data[at] == 13:
            self._empty_lines += 1
            if self._empty_lines > _MOST_EMPTY_LINES:
                self.error = BadRequest("too many empty lines before the request")
            return end
        if not end or end - at > self._limits.target + _MOST_BESIDE_TARGET:
            self._hold(data[at:])
            return len(data)
        if data[end - 2] == 13 and (line := usual_line(data[at : end - 2])) is not None:
            self._begin(line)
        elif (match := _REQUEST_LINE.match(data, at, end)) is not None:
            self._begin_unusual(match)
        else:
            self.error = _misunderstood(data[at:end])
            return end
        return at

    def _hold(self, line: bytes) -> None:
        """Keep the beginning of a request line, unless it can't become one."""
        self._held = line
        if line != b"\r":
            self.arriving = True
            if not line[:1].isalpha():
                self.error = _misunderstood(line)
            elif len(line) > self._limits.target + _MOST_BESIDE_TARGET:
                self.error = BadRequest("request target too long", 414)

    def _begin(self, line: Line) -> None:
        self.arriving = True
        if len(line.target) > self._limits.target:
            self.error = BadRequest("request target too long", 414)
        else:
            self._begun = line

    def _begin_unusual(self, match: re.Match[bytes]) -> None:
        method, target, number = match.groups()
        version = _VERSIONS.get(number)
        if version is None:
            self.arriving = True
            self.error = BadRequest(f"HTTP version {number.decode()} is not supported", 505)
        else:
            self._begin(Line(method.decode(), target.decode(), version))

    def discard(self) -> None:
        """Read no further, and let go of the parser: it and this object know each other (a cycle)."""
        self._llhttp = None
        self.finished = True
        if self._request is not None and self._request.body is not None:
            self._request.body.close()

    # -- what llhttp calls ---------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_done:
            self._headers.append((name, value))
        elif name.lower() in _NEVER_IN_TRAILERS:  # all others are ignored
            self._refuse(f"{name.lower().decode()} in a trailer")

    def on_headers_complete(self) -> None:
        line = self._begun
        if line is None:
            self._refuse("malformed request")  # llhttp has found a message where there is none
            return
        self._begun = None
        headers = self._headers
        self._headers = []
        fields: dict[str, str] = {}
        request = self._make()
        request.line, request.head = line, Head(headers, fields)
        for name, value in headers:
            fields[KEYS[name]] = value.decode("latin-1").rstrip(" \t")
        if (
            len(fields) != len(headers)
            or fields.get("HTTP_HOST") not in GOOD_HOSTS
            or "CONTENT_LENGTH" in fields
            or "HTTP_TRANSFER_ENCODING" in fields
            or "HTTP_EXPECT" in fields
            or "" in fields
            or not self._llhttp.should_keep_alive()  # type: ignore[union-attr]
            or line.version == "HTTP/1.0"
            or not line.raw_path
            or line.method == "CONNECT"
            or self._fed > self._limits.head
            or len(headers) > self._limits.headers
        ):
            # Something may have to be done, or be wrong; mostly one question answers that.
            try:
                self._judge(request)
            except BadRequest as refusal:
                self.error = refusal
                raise
        self._request = request
        self._head_done = True
        self._tail = b""
        self._fed = 0

    def _judge(self, request: Request) -> None:
        assert self._llhttp is not None
        headers, fields = request.head.headers, request.head.fields
        if self._fed > self._limits.head or len(headers) > self._limits.headers:
            check_size(request, self._limits)
        aside = set_aside(request) if "" in fields else 0
        if len(fields) + aside != len(headers):
            join_repeated(request)
        request.keep_alive = self._llhttp.should_keep_alive() and (request.line.version == "HTTP/1.1" or kept(fields))
        self._apply_rules(request)

    def _apply_rules(self, request: Request) -> None:
        line, fields = request.line, request.head.fields
        if not line.raw_path or line.method == "CONNECT":
            read_target(line)
        if (host := fields.get("HTTP_HOST")) not in GOOD_HOSTS:
            check_host(request, host)
        if "CONTENT_LENGTH" in fields or "HTTP_TRANSFER_ENCODING" in fields:
            self._read_framing(request)
        if "HTTP_EXPECT" in fields:
            self._read_expectation(request)

    def on_body(self, piece: bytes) -> None:
        self._fed = 0
        self._body_left -= len(piece)
        if self._body_left < 0:
            self._refuse("request body too large", 413)
        assert self._request is not None
        assert self._request.body is not None
        self._request.body.write(piece)
        self._request.body_size += len(piece)

    def on_message_complete(self) -> None:
        request = self._request
        assert request is not None
        if request.body is not None:
            request.body.seek(0)
        self.requests.append(request)
        self._request = None
        self._fed = 0
        self._tail = b""
        self._empty_lines = 0
        self._head_done = self.arriving = self.awaits_continue = False
        self.finished = not request.keep_alive

    def _fail(self, refusal: HttpParserError) -> None:
        if self.error is not None or self.finished:
            return  # after "Connection: close" llhttp takes more data for an error, RFC 9112 section 9.6 ignores it
        if isinstance(refusal.__context__, OSError):
            self.error = BadRequest(f"cannot keep the request body: {refusal.__context__}", 503)
        elif isinstance(refusal, HttpParserInvalidMethodError):
            self.error = BadRequest("unknown method", 501)
        else:
            self.error = BadRequest(str(refusal) or "malformed request")

    # -- body and bounds -----------------------------------------------------------------------------------

    def _refuse(self, reason: str, status: int = 400) -> None:
        # Raised through llhttp's callback, which stops reading; `feed` finds the reason in `error`.
        self.error = BadRequest(reason, status)
        raise self.error

    def _too_much(self) -> BadRequest:
        if self._head_done:
            return BadRequest("too much between chunks of the body", 400)
        return BadRequest("request head too large", 431)

    def _read_framing(self, request: Request) -> None:
        fields = request.head.fields
        length = fields.get("CONTENT_LENGTH")
        coding = fields.get("HTTP_TRANSFER_ENCODING")
        if length is None:
            if request.line.version == "HTTP/1.0":
                self._refuse("Transfer-Encoding in HTTP/1.0")
            if coding is None or coding.lower() != "chunked":
                self._refuse("unknown transfer coding")
            self._expect_body(request, None)
            return
        if coding is not None:
            self._refuse("both Content-Length and Transfer-Encoding")
        if not (length.isascii() and length.isdigit()):
            self._refuse("malformed Content-Length")
        if len(length) > 19 or int(length) > self._limits.body:
            self._refuse("request body too large", 413)
        self._expect_body(request, int(length))

    def _expect_body(self, request: Request, size: int | None) -> None:
        self._chunked = size is None
        self._body_left = self._limits.body if size is None else size
        if size != 0:
            request.body = self._new_body(size)

    def _read_expectation(self, request: Request) -> None:
        if request.line.version == "HTTP/1.0":
            return  # RFC 9110 section 10.1.1: to be ignored
        if request.head.fields["HTTP_EXPECT"].lower() != "100-continue":
            self._refuse("unknown expectation", 417)
        self.awaits_continue = request.body is not None

    # -- upgrades ------------------------------------------------------------------------------------------

    def _decline_upgrade(self) -> None:
        """Go on after a request that asks for another protocol: it is answered like any other.

        llhttp ends such a request after its head and hands back what follows. When the head announced a body
        (clients that offer h2c do that) the rest is that body, not a request: a new llhttp is told so by a head
        that has the same framing and nothing else.
        """
        self._llhttp = HttpRequestParser(self)
        if self.requests[-1].body is not None:
            self._replay_framing(self.requests.pop())

    def _replay_framing(self, request: R) -> None:
        assert self._llhttp is not None
        fields = request.head.fields
        if "CONTENT_LENGTH" in fields:
            framing = b"Content-Length: " + fields["CONTENT_LENGTH"].encode()
        else:
            framing = b"Transfer-Encoding: chunked"
        keep = b"" if request.keep_alive else b"\r\nConnection: close"
        left, waits = self._body_left, "HTTP_EXPECT" in fields
        self.finished = False
        self.arriving = True
        self._begun = Line("POST", "/", "HTTP/1.1", "/")
        self._llhttp.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing + keep + b"\r\n\r\n")
        self._body_left, self._request = left, request
        self.awaits_continue = waits


def _misunderstood(line: bytes) -> BadRequest:
    if line.startswith(b"\x16"):  # a record of the type "handshake", RFC 8446 section 5.1
        return BadRequest("this is TLS, and plain HTTP is spoken here")
    return BadRequest("malformed request line")
