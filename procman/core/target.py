"""What a probe asks, and what it makes of the answer: bytes only, no sockets.

An HTTP target is ready when it answers a GET with a status of 2xx or 3xx; a TCP target, or a unix socket, when it
accepts a connection. Names are not looked up, because that can take any time, and the arbiter has none: an address is
numeric, or ``localhost``, which is 127.0.0.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from procman.core.command import in_slot
from procman.core.spec import ProbeKind, TcpAddress, UnixAddress

if TYPE_CHECKING:
    from procman.core.spec import Probe

MOST_HEAD = 4096  # bytes of an answer that are looked at; its first line is all that is wanted

_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: |\r|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to connect, and what to send then; nothing when a connection is all that is asked for."""

    address: TcpAddress | UnixAddress
    request: bytes = b""


def target(probe: Probe, slot: int) -> Target:
    """What the probe asks the worker of this slot. ValueError: the probe's target is not one."""
    text = in_slot(probe.target[0], slot)
    return _http(text) if probe.kind is ProbeKind.HTTP else Target(address=_address(text))


def verdict(head: bytes) -> str | None:
    """What the beginning of an answer says: why it is no sign of readiness, "" when it is one, None: not yet known."""
    line, end, _ = head.partition(b"\n")
    if not end and len(head) < MOST_HEAD:
        return None
    match = _STATUS.match(line)
    if match is None:
        return "it does not answer in HTTP"
    status = int(match[1])
    return "" if 200 <= status < 400 else f"it answers with status {status}"


def _http(url: str) -> Target:
    parts = urlsplit(url)
    visible = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme != "http" or not parts.hostname or not visible or parts.username is not None:
        raise ValueError("not a URL such as http://127.0.0.1:8000/ready")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    request = f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: procman\r\nConnection: close\r\n\r\n"
    return Target(address=TcpAddress(host=_host(parts.hostname), port=parts.port or 80), request=request.encode())


def _address(text: str) -> TcpAddress | UnixAddress:
    if text.startswith("unix:/"):
        return UnixAddress(path=text.removeprefix("unix:"))
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError("not an address such as 127.0.0.1:8000 or unix:/PATH")
    return TcpAddress(host=_host(host.removeprefix("[").removesuffix("]")), port=int(port))


def _host(host: str) -> str:
    if host == "localhost":
        return "127.0.0.1"
    try:
        return str(ip_address(host))
    except ValueError:
        raise ValueError(f"{host} would have to be looked up; a probe takes a numeric address, or localhost") from None
