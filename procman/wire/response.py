"""Responses to bytes: heads, chunks, and the rules which make a body absent.

Heads are checked where they are made (`ResponseHead`), because a line break that gets into a header value is a
second response in the eyes of whoever reads it.
"""

from __future__ import annotations

import re
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

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
_STATUSES: dict[str, tuple[int, str, bool]] = {}
_MOST_REMEMBERED = 512
_LONGEST_LENGTH = 18  # digits: sendfile(2) takes no more than 63 bits
HEADS: dict[tuple[str, tuple[tuple[str, str], ...]], ResponseHead] = {}  # that were made: see `response_head`
_LONGEST_REMEMBERED = 1024  # bytes of a head

_LINE_END = b"\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


class ResponseHead:
    """Status and headers as the application gave them, checked and compiled.

    ``code`` is the status; ``bodyless`` says that it forbids a body (RFC 9110 section 6.4.1); ``length`` is the
    Content-Length, None when there is none; ``block`` is all that the application says, and ``has_date`` whether there
    is a Date in it.
    Raises TypeError when something is not a str, a tuple or a list, and ValueError when it can't be sent.
    """

    __slots__ = ("block", "bodyless", "code", "has_date", "length")

    def __init__(self, status: str, headers: Iterable[tuple[str, str]]) -> None:
        self.length: int | None = None
        self.has_date = False
        self.code, line, self.bodyless = _STATUSES.get(status) or _check_status(status)
        lines = [line]
        for name, value in headers:
            key = _NAMES.get(name) or _check_name(name)
            try:
                # Mostly the first look will do, and costs nothing.
                if not value.isprintable() and _CONTROL.search(value):
                    raise ValueError(f"control character in the response header {name}: {value!r}")
            except AttributeError:
                raise TypeError(f"header {name}: the value must be str, not {type(value).__name__}") from None
            if key == "content-length":
                if self.length is not None or not (value.isascii() and value.isdigit()) or len(value) > _LONGEST_LENGTH:
                    raise ValueError(f"more than one Content-Length, or a malformed one: {value!r}")
                self.length = int(value)
                if self.code == 204:
                    continue  # RFC 9110 section 8.6
            elif key == "date":
                self.has_date = True
            lines.append(name + ": " + value + "\r\n")  # what the text is, whatever a subclass makes of it in a format
        self.block = "".join(lines).encode("latin-1")  # UnicodeEncodeError is a ValueError

    def render(self, date: bytes, framing: bytes) -> bytes:
        """The head on the wire. ``date`` and ``framing`` are whole header lines, each with its line break."""
        if self.has_date:
            date = b""
        return self.block + date + framing + _LINE_END


def response_head(status: str, headers: Iterable[tuple[str, str]]) -> ResponseHead:
    """The head that says this, which need not be made again if it has been said before; raises as it does."""
    said = status, tuple(headers)
    try:
        return HEADS[said]
    except TypeError:  # something in it is no str and no tuple: the head itself will say
        return ResponseHead(status, said[1])
    except KeyError:
        head = ResponseHead(status, said[1])
    if len(head.block) <= _LONGEST_REMEMBERED:
        if len(HEADS) >= _MOST_REMEMBERED:
            HEADS.clear()
        HEADS[said] = head
    return head


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


def _check_status(status: str) -> tuple[int, str, bool]:
    if type(status) is not str:
        raise TypeError(f"the status must be str, not {type(status).__name__}")
    match = _STATUS.fullmatch(status)
    if match is None:
        raise ValueError(f"malformed status {status!r}: expected such as '200 OK'")
    if match[1] < "200":
        raise ValueError(f"status {status!r} is not a final one")
    known = int(match[1]), f"HTTP/1.1 {status}\r\n", match[1] in ("204", "304")
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
