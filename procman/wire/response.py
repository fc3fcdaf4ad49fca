"""Responses to bytes: heads, chunks, and the rules which make a body absent.

Heads are checked where they are made (`ResponseHead`), because a line break that gets into a header value is a
second response in the eyes of whoever reads it.
"""

from __future__ import annotations

import re
from email.utils import formatdate
from http import HTTPStatus

# RFC 9110 sections 5.1 and 5.6.2: a field name is a token. RFC 9112 section 4: three digits, a space, a phrase.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_STATUS = re.compile(r"([1-9][0-9]{2}) [\t\x20-\x7e\x80-\xff]*")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

# PEP 3333, "Other HTTP Features": the connection is the server's alone.
_HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "trailers",
        "transfer-encoding",
        "upgrade",
    )
)
_NAMES: dict[str, str] = {}  # as written -> in lower case, of names that were found good
_STATUSES: dict[str, tuple[int, str]] = {}
_MOST_REMEMBERED = 512

_LINE_END = b"\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


class ResponseHead:
    """Status and headers as the application gave them, checked and compiled.

    ``code`` is the status; ``length`` the Content-Length, None when there is none.
    Raises TypeError when something is not a str, a tuple or a list, and ValueError when it can't be sent.
    """

    __slots__ = ("_block", "_has_date", "code", "length")

    def __init__(self, status: str, headers: list[tuple[str, str]]) -> None:
        self.length: int | None = None
        self._has_date = False
        self.code, line = _STATUSES.get(status) or _check_status(status)
        lines = [line]
        for name, value in headers:
            key = _NAMES.get(name) or _check_name(name)
            if key == "content-length":
                self._take_length(value)
                if self.code == 204:
                    continue  # RFC 9110 section 8.6
            elif key == "date":
                self._has_date = True
            if type(value) is not str:
                raise TypeError(f"header {name}: the value must be str, not {type(value).__name__}")
            if not value.isprintable() and _CONTROL.search(value):  # mostly the first will do, and costs nothing
                raise ValueError(f"control character in the response headers {headers!r}")
            lines.append(f"{name}: {value}\r\n")
        self._block = "".join(lines).encode("latin-1")  # UnicodeEncodeError is a ValueError

    @property
    def bodyless(self) -> bool:
        """The status forbids a body (RFC 9110 section 6.4.1)."""
        return self.code in (204, 304)

    def render(self, date: bytes, framing: bytes) -> bytes:
        """The head on the wire. ``date`` and ``framing`` are whole header lines, each with its line break."""
        if self._has_date:
            date = b""
        return self._block + date + framing + _LINE_END

    def _take_length(self, value: str) -> None:
        if not (value.isascii() and value.isdigit()):
            raise ValueError(f"malformed Content-Length: {value!r}")
        if self.length is not None:
            raise ValueError("more than one Content-Length")
        self.length = int(value)


def date(second: int) -> bytes:
    """The Date header's line, for a second of the epoch (RFC 9110 section 6.6.1)."""
    return b"Date: %b\r\n" % formatdate(second, usegmt=True).encode("ascii")


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body (RFC 9112 section 7.1); ``data`` must not be empty, that would be the last."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def plain(code: int, text: str = "", headers: tuple[tuple[str, str], ...] = ()) -> tuple[ResponseHead, bytes]:
    """A short answer of the server's own."""
    phrase = HTTPStatus(code).phrase
    body = (text or phrase).encode() + b"\n"
    kind = ("Content-Type", "text/plain; charset=utf-8")
    length = ("Content-Length", str(len(body)))
    return ResponseHead(f"{code} {phrase}", [kind, length, *headers]), body


def _check_status(status: str) -> tuple[int, str]:
    if type(status) is not str:
        raise TypeError(f"the status must be str, not {type(status).__name__}")
    match = _STATUS.fullmatch(status)
    if match is None:
        raise ValueError(f"malformed status {status!r}: expected such as '200 OK'")
    if match[1] < "200":
        raise ValueError(f"status {status!r} is not a final one")
    known = int(match[1]), f"HTTP/1.1 {status}\r\n"
    if len(_STATUSES) < _MOST_REMEMBERED:
        _STATUSES[status] = known
    return known


def _check_name(name: str) -> str:
    if type(name) is not str:
        raise TypeError(f"a header name must be str, not {type(name).__name__}")
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"malformed header name {name!r}")
    key = name.lower()
    if key in _HOP_BY_HOP:
        raise ValueError(f"{name} is a hop-by-hop header, which PEP 3333 leaves to the server")
    if len(_NAMES) < _MOST_REMEMBERED:
        _NAMES[name] = key
    return key
