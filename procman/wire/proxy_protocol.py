"""The PROXY protocol, versions 1 and 2: who has connected to the proxy that now connects to us.

From "The PROXY protocol" by Willy Tarreau (haproxy, doc/proxy-protocol.txt), sections 2.1 and 2.2. The header is the
first thing on a connection, before TLS and HTTP. Whether one comes is never guessed: it has to come from every
proxy that is trusted to send one, and whoever else sends one has sent a malformed request.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from procman.errors import BadRequest

LONGEST = 4096  # of version 2, whose extensions may be 65,535 bytes by the format; a certificate's name is among them

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_LONGEST_LINE = 107  # of version 1
_HEAD = struct.Struct("!12sBBH")
_LINE = re.compile(
    rb"PROXY (?:UNKNOWN(?: [^\r\n]*)?|TCP(?P<family>[46]) (?P<source>[0-9A-Fa-f:.]+) (?P<target>[0-9A-Fa-f:.]+) "
    rb"(?P<source_port>0|[1-9][0-9]{0,4}) (?P<target_port>0|[1-9][0-9]{0,4}))\r\n"
)
_LOCAL, _PROXY = 0, 1
# Family and transport in one byte; UDP and datagrams can't be meant. The width of an address, in bytes.
_TCP = {0x11: 4, 0x21: 16}
_UNIX_STREAM, _UNSPECIFIED = 0x31, 0x00
_UNIX_ADDRESSES = 216  # bytes
_PORTS = struct.Struct("!HH")
_EXTENSION = struct.Struct("!BH")
_SSL = 0x20  # PP2_TYPE_SSL; the first bit of its first byte says that the client came by TLS (PP2_CLIENT_SSL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxied:
    """``source`` is the client, ``target`` where it connected to; None when they are not known. ``local``: the proxy
    speaks for itself, to see whether we live. ``tls``: the client came by TLS."""

    source: tuple[str, int] | None = None
    target: tuple[str, int] | None = None
    local: bool = False
    tls: bool = False


def read(data: bytes) -> tuple[Proxied, int] | None:
    """The header that ``data`` begins with and its length; None when there is more to come.

    Raises BadRequest when it is none. Data without an end are refused after `LONGEST` bytes at the latest.
    """
    if data.startswith(_SIGNATURE[: len(data)]):
        return _read_binary(data)
    if not data.startswith(b"PROXY "[: len(data)]):
        raise BadRequest("expected a PROXY protocol header from this proxy")
    return _read_line(data)


def _read_line(data: bytes) -> tuple[Proxied, int] | None:
    end = data.find(b"\n", 0, _LONGEST_LINE) + 1
    if not end:
        if len(data) >= _LONGEST_LINE:
            raise _malformed()
        return None
    match = _LINE.fullmatch(data, 0, end)
    if match is None:
        raise _malformed()
    if match["family"] is None:
        return Proxied(), end
    kind = IPv4Address if match["family"] == b"4" else IPv6Address
    return Proxied(
        source=(_address(match["source"], kind), _port(match["source_port"])),
        target=(_address(match["target"], kind), _port(match["target_port"])),
    ), end


def _address(text: bytes, kind: type[IPv4Address | IPv6Address]) -> str:
    try:
        return str(kind(text.decode("ascii")))
    except ValueError:
        raise _malformed() from None


def _port(text: bytes) -> int:
    if int(text) > 65535:
        raise _malformed()
    return int(text)


def _read_binary(data: bytes) -> tuple[Proxied, int] | None:
    if len(data) < _HEAD.size:
        return None
    _, version_and_command, kind, size = _HEAD.unpack_from(data)
    end = _HEAD.size + size
    command = version_and_command & 15
    if version_and_command >> 4 != 2 or command not in (_LOCAL, _PROXY) or end > LONGEST:
        raise _malformed()
    if len(data) < end:
        return None
    if command == _LOCAL:
        return Proxied(local=True), end
    return _addresses(kind, data[_HEAD.size : end]), end


def _addresses(kind: int, block: bytes) -> Proxied:
    if kind == _UNSPECIFIED:
        return Proxied()
    if kind == _UNIX_STREAM:  # whose clients have no address
        return Proxied(tls=_has_tls(block[_UNIX_ADDRESSES:]))
    width = _TCP.get(kind)
    if width is None:
        raise _malformed()
    ports = 2 * width
    if len(block) < ports + _PORTS.size:
        raise _malformed()
    source, target = block[:width], block[width:ports]
    source_port, target_port = _PORTS.unpack_from(block, ports)
    return Proxied(
        source=(str(ip_address(source)), source_port),
        target=(str(ip_address(target)), target_port),
        tls=_has_tls(block[ports + _PORTS.size :]),
    )


def _has_tls(extensions: bytes) -> bool:
    """Whether one of the type-length-value extensions says that the client came by TLS (section 2.2.6)."""
    at, found = 0, False
    while at < len(extensions):
        if at + _EXTENSION.size > len(extensions):
            raise _malformed()
        kind, size = _EXTENSION.unpack_from(extensions, at)
        at += _EXTENSION.size
        if at + size > len(extensions):
            raise _malformed()
        if kind == _SSL and size:
            found = bool(extensions[at] & 1)
        at += size
    return found


def _malformed() -> BadRequest:
    return BadRequest("malformed PROXY protocol header")
