"""What a request is once it has been read, and how the names of its headers are called in an environ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

from procman.wire.forwarded import is_told

_MOST_REMEMBERED = 512


class _Keys(dict[bytes, str]):
    """Header names, as they came, to the keys of an environ; to "" those that are none of its keys.

    Names with an underscore would get the key of their twin with a dash, which a proxy in front may have checked or
    removed. What proxies tell is a matter of its own: anybody can send it. And ``Proxy`` would be HTTP_PROXY, which is
    taken for a setting by what passes an environ on to programs (CVE-2016-5385 and its siblings); nobody needs it.
    """

    def __missing__(self, name: bytes) -> str:
        key = "" if b"_" in name or is_told(name) else name.decode("latin-1").upper().replace("-", "_")
        if key == "PROXY":
            key = ""
        elif key and key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = "HTTP_" + key
        if len(self) < _MOST_REMEMBERED:
            self[name] = key
        return key


KEYS = _Keys()
for _name in (
    b"Accept Accept-Charset Accept-Encoding Accept-Language Authorization Cache-Control Connection Content-Encoding "
    b"Content-Length Content-Type Cookie DNT Expect Forwarded Host If-Match If-Modified-Since If-None-Match Keep-Alive "
    b"Origin Pragma Range Referer Sec-Fetch-Dest Sec-Fetch-Mode Sec-Fetch-Site Sec-Fetch-User TE Transfer-Encoding "
    b"Upgrade Upgrade-Insecure-Requests User-Agent Via X-Forwarded-For X-Forwarded-Host X-Forwarded-Proto X-Real-IP "
    b"X-Request-Id X-Requested-With"
).split():
    # Known from the beginning, so that nobody can fill the room for them with names of his own.
    KEYS[_name] = KEYS[_name.lower()] = KEYS[_name]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """What a client may send, in bytes; ``headers`` is their number. Beyond: 414, 431 and 413."""

    target: int = 8190
    head: int = 65536
    headers: int = 100
    body: int = 128 * 1024 * 1024


class Line:
    """A request line (RFC 9112 section 3). Its texts are latin-1 in a str, as PEP 3333 has them.

    ``path`` is decoded from per cents; ``raw_path`` and ``query`` are not. ``name`` is that of a unit which answers it.
    ``authority`` is that of an absolute-form target, which outweighs the Host header (RFC 9112 section 3.2.2).
    ``environ`` is for whoever makes something of it to keep.
    """

    __slots__ = ("authority", "environ", "method", "name", "path", "query", "raw_path", "target", "version")

    def __init__(self, method: str, target: str, version: str, path: str = "", query: str = "") -> None:
        self.method = method
        self.target = target
        self.version = version
        self.authority: str | None = None
        self.environ: dict[str, str] | None = None
        self.lead_to(path, query)

    def lead_to(self, path: str, query: str) -> None:
        """Ask for this, as the target has it."""
        self.raw_path = path
        self.path = path if "%" not in path else unquote(path)
        self.query = query
        self.name = f"{self.method} {path}".encode()


class Head:
    """The headers of a request. ``headers`` are as they came.

    ``fields`` has them by their names in an environ (RFC 3875 section 4.1.18: CONTENT_TYPE, HTTP_HOST), repeated ones
    joined, without the white space around values and without names that have an underscore. ``told`` is what proxies
    tell, or whoever says that he is one (`procman.wire.forwarded`), None when there is nothing of the sort.
    ``familiar``: there is no body, nothing else to be done and nothing wrong, and other requests may have the same
    object; ``environ`` is for whoever makes something of it to keep, with what else has gone into it.
    """

    __slots__ = ("environ", "familiar", "fields", "headers", "told")

    def __init__(self, headers: list[tuple[bytes, bytes]], fields: dict[str, str]) -> None:
        self.headers = headers
        self.fields = fields
        self.told: dict[str, str] | None = None
        self.familiar = False
        self.environ: tuple[object, dict[str, Any]] | None = None


class Request:
    """One complete request.

    ``body`` is None when there is none, else rewound; ``body_size`` is its real size also when it came in chunks.
    ``keep_alive``: the client wants the connection to go on. Whoever makes one gives it its line and its head: a
    function that does nothing else would take as long as all the rest of it.
    """

    line: Line
    head: Head
    # What is rarely anything else is said once, here.
    keep_alive = True
    body: BinaryIO | None = None
    body_size = 0


def unquote(path: str) -> str:
    """The path without its percent-encoding, as latin-1."""
    return unquote_to_bytes(path).decode("latin-1")
