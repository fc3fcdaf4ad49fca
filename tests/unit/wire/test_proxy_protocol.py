"""Both versions of the PROXY protocol, by tables and in every piece."""

from __future__ import annotations

import socket
import struct

import pytest

from procman.errors import BadRequest
from procman.wire.proxy_protocol import LONGEST, Proxied, read

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def binary(family: int, block: bytes, *, command: int = 1, version: int = 2, size: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", version << 4 | command, family, len(block) if size is None else size) + block


def tcp4(source: str, target: str, ports: tuple[int, int]) -> bytes:
    return socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!HH", *ports)


def tcp6(source: str, target: str, ports: tuple[int, int]) -> bytes:
    return b"".join(socket.inet_pton(socket.AF_INET6, one) for one in (source, target)) + struct.pack("!HH", *ports)


def extension(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


FOUR = tcp4("1.2.3.4", "5.6.7.8", (56324, 443))
SEEN_FOUR = Proxied(source=("1.2.3.4", 56324), target=("5.6.7.8", 443))
LONG_IPV6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"

GOOD = {
    "line, IPv4": (b"PROXY TCP4 1.2.3.4 5.6.7.8 56324 443\r\n", SEEN_FOUR),
    "line, IPv6": (
        b"PROXY TCP6 2001:DB8::1 ::1 65535 0\r\n",
        Proxied(source=("2001:db8::1", 65535), target=("::1", 0)),
    ),
    "line, the longest": (
        f"PROXY TCP6 {LONG_IPV6} {LONG_IPV6} 65535 65535\r\n".encode(),
        Proxied(source=(LONG_IPV6, 65535), target=(LONG_IPV6, 65535)),
    ),
    "line, unknown": (b"PROXY UNKNOWN\r\n", Proxied()),
    "line, unknown with addresses": (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", Proxied()),
    "binary, IPv4": (binary(0x11, FOUR), SEEN_FOUR),
    "binary, IPv6": (
        binary(0x21, tcp6("2001:db8::1", "::1", (1, 2))),
        Proxied(source=("2001:db8::1", 1), target=("::1", 2)),
    ),
    "binary, a client of a unix socket": (binary(0x31, bytes(216)), Proxied()),
    "binary, unspecified": (binary(0x00, b"whatever"), Proxied()),
    "binary, unspecified and empty": (binary(0x00, b""), Proxied()),
    "binary, a health check": (binary(0x00, b"", command=0), Proxied(local=True)),
    "binary, a health check with an address": (binary(0x11, FOUR, command=0), Proxied(local=True)),
    "binary, extensions": (binary(0x11, FOUR + extension(0x01, b"h2") + extension(0x04, b"\0" * 9)), SEEN_FOUR),
    "binary, TLS": (
        binary(0x11, FOUR + extension(0x20, b"\x01" + bytes(4) + extension(0x21, b"TLSv1.3"))),
        Proxied(source=SEEN_FOUR.source, target=SEEN_FOUR.target, tls=True),
    ),
    "binary, no TLS": (binary(0x11, FOUR + extension(0x20, b"\0" + bytes(4))), SEEN_FOUR),
    "binary, the longest": (binary(0x11, FOUR + extension(0x04, bytes(LONGEST - 16 - 12 - 3))), SEEN_FOUR),
}
BAD = {
    "nothing of the kind": b"GET / HTTP/1.1\r\n",
    "lower case": b"proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    "no family": b"PROXY\r\n",
    "another family": b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
    "the wrong family": b"PROXY TCP4 ::1 ::1 1 2\r\n",
    "the wrong family, other way": b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
    "no address": b"PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
    "a port too large": b"PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n",
    "a port with a zero": b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
    "a port with a sign": b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
    "one port": b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
    "two spaces": b"PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    "more": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
    "bare LF": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
    "bare CR": b"PROXY UNKNOWN a\rb\r\n",
    "without end": b"PROXY UNKNOWN " + b"x" * 107,
    "version 1 in binary": binary(0x11, FOUR, version=1),
    "another command": binary(0x11, FOUR, command=2),
    "UDP": binary(0x12, FOUR),
    "another family in binary": binary(0x41, FOUR),
    "addresses cut": binary(0x11, FOUR[:-1]),
    "extension cut": binary(0x11, FOUR + b"\x01\0"),
    "extension longer than all": binary(0x11, FOUR + b"\x01\0\x09ab"),
    "too long": binary(0x11, b"", size=LONGEST),
    "the signature with a mistake": SIGNATURE[:-1] + b"\r" + bytes(8),
}


@pytest.mark.parametrize(("data", "expected"), GOOD.values(), ids=GOOD)
def test_good_ones_are_read_when_they_are_complete(data: bytes, expected: Proxied) -> None:
    for end in range(len(data)):
        assert read(data[:end]) is None
    assert read(data) == (expected, len(data))
    assert read(data + b"GET / HTTP/1.1\r\n") == (expected, len(data))


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_others_are_refused(data: bytes) -> None:
    with pytest.raises(BadRequest, match="PROXY protocol header"):
        read(data)
    # Or earlier, but never taken for a header.
    for end in range(len(data)):
        try:
            assert read(data[:end]) is None
        except BadRequest:
            break


@pytest.mark.parametrize("data", [b"PROXY UNKNOWN " + b"x" * 9999, binary(0, b"x" * 9999)])
def test_data_without_end_are_refused_in_time(data: bytes) -> None:
    with pytest.raises(BadRequest):
        read(data[:LONGEST])
