"""What the grammar leaves to the server: the size of a head, repeated headers, the target, the host.

Each rule looks at the head of one request, or completes it, and raises BadRequest for what may be read in two ways.
None knows what came before on the connection, nor how a body comes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from procman.errors import BadRequest
from procman.wire.authority import is_authority
from procman.wire.forwarded import told
from procman.wire.request import KEYS

if TYPE_CHECKING:
    from procman.wire.request import Line, Request, RequestLimits

_ABSOLUTE = re.compile(r"https?://([^/?#@]+)(/[^?#]*)?(?:\?([^#]*))?", re.IGNORECASE)
_NEVER_REPEATED = {
    "HTTP_HOST": "more than one Host header",
    "CONTENT_LENGTH": "malformed Content-Length",
    "HTTP_TRANSFER_ENCODING": "unknown transfer coding",
    "HTTP_EXPECT": "unknown expectation",
}

# Hosts that were found to be good: nearly all requests have one of a few.
GOOD_HOSTS: set[str | None] = set()
_MOST_HOSTS = 512


def check_size(request: Request, limits: RequestLimits) -> None:
    """Refuse a head that has too many headers, or is too long."""
    if len(request.head.headers) > limits.headers:
        raise BadRequest("too many headers", 431)
    # What was fed is never less than the head, so that mostly nothing needs to be added up.
    headers = request.head.headers
    size = len(request.line.target) + sum(len(name) + len(value) + 4 for name, value in headers)
    if size > limits.head:
        raise BadRequest("request head too large", 431)


def join_repeated(request: Request) -> None:
    """Make one field of headers that came several times, where that may be."""
    fields = request.head.fields
    fields.clear()
    for name, value in request.head.headers:
        key, text = KEYS[name], value.decode("latin-1").rstrip(" \t")
        if not key:
            continue
        if key not in fields:
            fields[key] = text
        elif key in _NEVER_REPEATED:
            raise BadRequest(_NEVER_REPEATED[key], 417 if key == "HTTP_EXPECT" else 400)
        else:
            # RFC 6265 section 5.4 for cookies, RFC 9110 section 5.3 for all others.
            fields[key] += ("; " if key == "HTTP_COOKIE" else ",") + text


def read_target(line: Line) -> None:
    """Any form of a target but the usual one, and its refusal."""
    target = line.target
    if "#" in target:
        raise BadRequest("fragment in the request target")
    if line.method == "CONNECT":
        raise BadRequest("CONNECT is not supported", 501)
    if target.startswith("/"):
        path, _, query = target.partition("?")
        line.lead_to(path, query)
    elif target != "*":
        _read_absolute(line)
    elif line.method == "OPTIONS":
        line.lead_to("*", "")
        line.path = ""  # of no resource
    else:
        raise BadRequest("only OPTIONS may ask for *")


def _read_absolute(line: Line) -> None:
    match = _ABSOLUTE.fullmatch(line.target)
    if match is None or not is_authority(match[1]):
        raise BadRequest("malformed request target")
    line.authority = match[1]
    line.lead_to(match[2] or "/", match[3] or "")


def check_host(request: Request, host: str | None) -> None:
    """Refuse what is no host; one that is good is remembered."""
    if host is None:
        if request.line.version == "HTTP/1.1":
            raise BadRequest("missing Host header")
    elif host and not is_authority(host):  # RFC 9110 section 7.2 lets it be empty
        raise BadRequest("malformed Host header")
    elif len(GOOD_HOSTS) < _MOST_HOSTS:
        GOOD_HOSTS.add(host)


def set_aside(request: Request) -> int:
    """Take out what is no field of an environ, and keep of it what proxies tell; how many headers that were."""
    head = request.head
    del head.fields[""]
    head.told = told(head.headers)
    return sum(not KEYS[name] for name, _ in head.headers)


def kept(fields: dict[str, str]) -> bool:
    """Whether an HTTP/1.0 client asks to keep the connection: llhttp also hears Proxy-Connection, and not "close"."""
    options = {option.strip(" \t") for option in fields.get("HTTP_CONNECTION", "").lower().split(",")}
    return "keep-alive" in options and "close" not in options
