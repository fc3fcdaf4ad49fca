"""HTTP/1.1 and 1.0 requests from bytes, in any pieces.

llhttp (through httptools) reads the grammar of RFC 9112; this module adds what the grammar leaves to the
server: which framing is trusted, which limits hold, what the target means. The aim is that nobody who reads
the same bytes (a proxy in front, above all) can see other requests in them than we do: whatever may be read in
two ways is refused and the connection closed.

A parser never raises for what a client sends. It queues the complete requests in `RequestParser.requests`, in
their order, and after the first mistake it sets `RequestParser.error` and reads no further, so that what came
before the mistake is still answered.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote_to_bytes

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from procman.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable

# RFC 3986 section 3.2: host and port; RFC 9110 section 7.2 lets it be empty.
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.%\w]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(?::[0-9]*)?")
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)(/[^?#]*)?(?:\?([^#]*))?", re.IGNORECASE)
_HOSTS_KNOWN_GOOD: set[bytes] = set()
_MOST_HOSTS_REMEMBERED = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """What a client may send, in bytes; ``headers`` is their number. Beyond: 414, 431 and 413."""

    target: int = 8190
    head: int = 65536
    headers: int = 100
    body: int = 128 * 1024 * 1024


class Request:
    """One complete request.

    ``path`` is decoded from per cents; ``raw_path`` and ``query`` are not. ``headers`` are in the order they
    came, their names in lower case, without the white space around values; ``fields`` has the last value of
    each name. ``body`` is None when there is none, else rewound; ``body_size`` is its real size also when it
    came in chunks. ``authority`` is that of an absolute-form target, which outweighs the Host header (RFC 9112
    section 3.2.2).
    """

    __slots__ = (
        "authority",
        "body",
        "body_size",
        "fields",
        "headers",
        "keep_alive",
        "method",
        "path",
        "query",
        "raw_path",
        "target",
        "version",
    )

    def __init__(self, method: str, target: bytes, version: str) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.path = b""
        self.raw_path = ""
        self.query = b""
        self.authority: bytes | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.fields: dict[bytes, bytes] = {}
        self.keep_alive = True
        self.body: BinaryIO | None = None
        self.body_size = 0


def _memory_body(expected: int | None) -> BinaryIO:
    return BytesIO()


class RequestParser:
    """Reads the requests of one connection.

    ``new_body`` makes the file that a request's body is collected in; it is told the announced size, or None
    when the body comes in chunks.
    """

    __slots__ = (
        "_body_left",
        "_fed",
        "_head_done",
        "_headers",
        "_limits",
        "_llhttp",
        "_new_body",
        "_request",
        "_target",
        "arriving",
        "awaits_continue",
        "error",
        "finished",
        "requests",
    )

    def __init__(
        self, limits: RequestLimits | None = None, new_body: Callable[[int | None], BinaryIO] = _memory_body
    ) -> None:
        self._limits = limits or RequestLimits()
        self._new_body = new_body
        self._llhttp: HttpRequestParser | None = HttpRequestParser(self)
        self._request: Request | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._target = b""
        self._head_done = False
        self._fed = 0  # bytes since anything was got out of them: bounds what llhttp itself collects
        self._body_left = 0
        self.requests: deque[Request] = deque()
        self.error: BadRequest | None = None
        self.arriving = False  # a request has begun and is not complete
        self.awaits_continue = False  # the client waits for "100 Continue" before it sends the body
        self.finished = False  # the client has said that no request follows

    @property
    def head_done(self) -> bool:
        """The head of the arriving request is complete, its body is not."""
        return self.arriving and self._head_done

    def feed(self, data: bytes | memoryview) -> None:
        """Read what the client sent."""
        if self.error is not None or self.finished or self._llhttp is None:
            return
        self._fed += len(data)
        while data and not self.finished and self.error is None:
            try:
                self._llhttp.feed_data(data)
                break
            except HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._decline_upgrade()
            except HttpParserError as refusal:
                self._fail(refusal)
        if self._fed > 2 * self._limits.head and self.error is None:
            self.error = self._too_much()

    def discard(self) -> None:
        """Read no further, and let go of the parser: it and this object know each other (a cycle)."""
        self._llhttp = None
        if self._request is not None and self._request.body is not None:
            self._request.body.close()

    # -- what llhttp calls ---------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self.arriving = True

    def on_url(self, piece: bytes) -> None:
        self._target += piece
        if len(self._target) > self._limits.target:
            self._refuse("request target too long", 414)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_done:  # else a trailer, which RFC 9110 section 6.5 lets us ignore
            self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        assert self._llhttp is not None
        version = self._llhttp.get_http_version()
        if version not in ("1.1", "1.0"):
            self._refuse(f"HTTP version {version} is not supported", 505)
        headers, self._headers = self._headers, []
        target, self._target = self._target, b""
        self._check_size(target, headers)
        request = Request(self._llhttp.get_method().decode("ascii"), target, "HTTP/" + version)
        request.headers = headers
        request.fields = fields = dict(headers)
        request.keep_alive = self._llhttp.should_keep_alive()
        self._read_target(request)
        self._check_host(request)
        if b"content-length" in fields or b"transfer-encoding" in fields:
            self._read_framing(request)
        if b"expect" in fields:
            self._read_expectation(request)
        self._request = request
        self._head_done = True
        self._fed = 0

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
        self._head_done = self.arriving = self.awaits_continue = False
        self.finished = not request.keep_alive

    def _fail(self, refusal: HttpParserError) -> None:
        if self.error is not None or self.finished:
            return  # after "Connection: close" llhttp takes more data for an error, RFC 9112 section 9.6 ignores it
        if isinstance(refusal.__context__, OSError):
            self.error = BadRequest(f"cannot keep the request body: {refusal.__context__}", 503)
        else:
            self.error = BadRequest(str(refusal) or "malformed request")

    # -- the rules -----------------------------------------------------------------------------------------

    def _refuse(self, reason: str, status: int = 400) -> None:
        # Raised through llhttp's callback, which stops reading; `feed` finds the reason in `error`.
        self.error = BadRequest(reason, status)
        raise self.error

    def _too_much(self) -> BadRequest:
        if self._head_done:
            return BadRequest("too much between chunks of the body", 400)
        if not self._headers and len(self._target) > self._limits.target:
            return BadRequest("request target too long", 414)
        return BadRequest("request head too large", 431)

    def _check_size(self, target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        if len(headers) > self._limits.headers:
            self._refuse("too many headers", 431)
        # What was fed is never less than the head, so that mostly nothing needs to be added up.
        if self._fed > self._limits.head:
            size = len(target) + sum(len(name) + len(value) + 4 for name, value in headers)
            if size > self._limits.head:
                self._refuse("request head too large", 431)

    def _read_target(self, request: Request) -> None:
        target = request.target
        if b"#" in target:
            self._refuse("fragment in the request target")
        if request.method == "CONNECT":
            self._refuse("CONNECT is not supported", 501)
        if target.startswith(b"/"):
            path, _, request.query = target.partition(b"?")
            request.path = unquote_to_bytes(path) if b"%" in path else path
            request.raw_path = path.decode("ascii")  # llhttp lets nothing else pass
        elif target != b"*":
            self._read_absolute(request)
        elif request.method == "OPTIONS":
            request.raw_path = "*"
        else:
            self._refuse("only OPTIONS may ask for *")

    def _read_absolute(self, request: Request) -> None:
        match = _ABSOLUTE.fullmatch(request.target)
        if match is None or not _HOST.fullmatch(match[1]):
            self._refuse("malformed request target")
        else:
            request.authority = match[1]
            path = match[2] or b"/"
            request.path = unquote_to_bytes(path)
            request.raw_path = path.decode("ascii")
            request.query = match[3] or b""

    def _check_host(self, request: Request) -> None:
        host = request.fields.get(b"host")
        if host is None:
            if request.version == "HTTP/1.1":
                self._refuse("missing Host header")
            return
        if self._repeated(request, b"host"):
            self._refuse("more than one Host header")
        if host not in _HOSTS_KNOWN_GOOD:
            if not _HOST.fullmatch(host):
                self._refuse("malformed Host header")
            if len(_HOSTS_KNOWN_GOOD) < _MOST_HOSTS_REMEMBERED:
                _HOSTS_KNOWN_GOOD.add(host)

    def _read_framing(self, request: Request) -> None:
        length = request.fields.get(b"content-length")
        coding = request.fields.get(b"transfer-encoding")
        if length is None:
            if request.version == "HTTP/1.0":
                self._refuse("Transfer-Encoding in HTTP/1.0")
            if coding is None or coding.lower() != b"chunked" or self._repeated(request, b"transfer-encoding"):
                self._refuse("unknown transfer coding")
            self._expect_body(request, None)
            return
        if coding is not None:
            self._refuse("both Content-Length and Transfer-Encoding")
        if not length.isdigit() or self._repeated(request, b"content-length"):
            self._refuse("malformed Content-Length")
        if len(length) > 19 or int(length) > self._limits.body:
            self._refuse("request body too large", 413)
        self._expect_body(request, int(length))

    def _expect_body(self, request: Request, size: int | None) -> None:
        self._body_left = self._limits.body if size is None else size
        if size != 0:
            request.body = self._new_body(size)

    def _read_expectation(self, request: Request) -> None:
        if request.version == "HTTP/1.0":
            return  # RFC 9110 section 10.1.1: to be ignored
        if request.fields[b"expect"].lower() != b"100-continue" or self._repeated(request, b"expect"):
            self._refuse("unknown expectation", 417)
        self.awaits_continue = request.body is not None

    def _repeated(self, request: Request, name: bytes) -> bool:
        headers = request.headers
        return len(headers) != len(request.fields) and [key for key, _ in headers].count(name) > 1

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

    def _replay_framing(self, request: Request) -> None:
        assert self._llhttp is not None
        if b"content-length" in request.fields:
            framing = b"Content-Length: " + request.fields[b"content-length"]
        else:
            framing = b"Transfer-Encoding: chunked"
        keep = b"" if request.keep_alive else b"\r\nConnection: close"
        left, waits = self._body_left, b"expect" in request.fields
        self.finished = False
        self._llhttp.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing + keep + b"\r\n\r\n")
        self._body_left, self._request = left, request
        self.awaits_continue = waits
