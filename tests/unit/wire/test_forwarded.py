"""Whose word about the client is taken, by tables."""

from __future__ import annotations

from typing import Any

import pytest

from procman.errors import BadRequest
from procman.wire.forwarded import ALL, Origin, Trust, node, origin

TRUST = Trust(["127.0.0.1", "10.0.0.0/8", "2001:db8::/32", "unix"])
FOR, PROTO, HOST, PORT = "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"


def seen(*headers: tuple[str, str], written: frozenset[str] = ALL) -> Origin:
    return origin(dict(headers), TRUST, written)


@pytest.mark.parametrize(
    ("chain", "address", "passed_on"),
    [
        ("1.2.3.4", "1.2.3.4", "1.2.3.4"),
        ("1.2.3.4, 10.1.1.1", "1.2.3.4", "1.2.3.4, 10.1.1.1"),
        ("1.2.3.4,10.1.1.1,  10.2.2.2\t", "1.2.3.4", "1.2.3.4, 10.1.1.1, 10.2.2.2"),
        # What stands left of the client is its own word.
        ("6.6.6.6, 1.2.3.4, 10.1.1.1", "1.2.3.4", "1.2.3.4, 10.1.1.1"),
        ("127.0.0.1, 1.2.3.4", "1.2.3.4", "1.2.3.4"),
        ("rubbish, 1.2.3.4, 10.1.1.1", "1.2.3.4", "1.2.3.4, 10.1.1.1"),
        # All of them are proxies: the first is the one that asked.
        ("10.3.3.3, 10.1.1.1", "10.3.3.3", "10.3.3.3, 10.1.1.1"),
        # A list that can't be read any further.
        ("1.2.3.4, unknown, 10.1.1.1", "10.1.1.1", "10.1.1.1"),
        ("1.2.3.4, 10.1.1", None, None),
        ("", None, None),
        (", ,", None, None),
        ("2001:db9::1", "2001:db9::1", "2001:db9::1"),
        ("2001:db9::1, 2001:db8::7", "2001:db9::1", "2001:db9::1, 2001:db8::7"),
        ("2001:DB9:0:0::1", "2001:db9::1", "2001:DB9:0:0::1"),
        ("::ffff:1.2.3.4, ::ffff:10.0.0.1", "1.2.3.4", "::ffff:1.2.3.4, ::ffff:10.0.0.1"),
        ("1.2.3.4, unix:", "1.2.3.4", "1.2.3.4, unix:"),
    ],
)
def test_the_first_untrusted_from_the_right_is_the_client(chain: str, address: str, passed_on: str | None) -> None:
    found = seen((FOR, chain))
    assert found.address == address
    assert dict(found.headers).get(FOR) == passed_on


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.2.3.4", ("1.2.3.4", None)),
        ("1.2.3.4:80", ("1.2.3.4", 80)),
        ("::1", ("::1", None)),
        ("[::1]", ("::1", None)),
        ("[::1]:80", ("::1", 80)),
        ("1.2.3.4:65536", None),
        ("1.2.3.4:", None),
        ("1.2.3", None),
        ("1.2.3.04", None),
        ("1.2.3.4 ", None),
        ("[1.2.3.4]", None),
        ("[::1", None),
        ("::1]", None),
        ("unknown", None),
        ("_hidden", None),
        ("localhost", None),
        ("", None),
        ("1.2.3.4\n", None),
    ],
)
def test_nodes(text: str, expected: Any) -> None:
    assert node(text) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([(PROTO, "https")], {"scheme": "https"}),
        ([(PROTO, "HTTPS")], {"scheme": "https"}),
        ([(PROTO, "wss")], {"scheme": "https"}),
        ([(HOST, "shop.example")], {"host": "shop.example"}),
        ([(HOST, "shop.example:8443"), (PORT, "8443")], {"host": "shop.example:8443", "server_port": 8443}),
        ([(FOR, "1.2.3.4:5678")], {"address": "1.2.3.4", "port": 5678}),
        # As many as there are hops: each proxy has written its own, and the client's own is not believed.
        (
            [(FOR, "6.6.6.6, 1.2.3.4, 10.0.0.1"), (PROTO, "http, https, http")],
            {"address": "1.2.3.4", "scheme": "https"},
        ),
        # Not as many: only the nearest proxy's is certain to be a proxy's.
        ([(FOR, "1.2.3.4, 10.0.0.1"), (PROTO, "a, b, https")], {"address": "1.2.3.4", "scheme": "https"}),
        ([(FOR, "1.2.3.4"), (HOST, "evil.example, shop.example")], {"address": "1.2.3.4", "host": "shop.example"}),
    ],
)
def test_x_forwarded(headers: list[tuple[str, str]], expected: dict[str, Any]) -> None:
    found = seen(*headers)
    fields = {name: getattr(found, name) for name in ("address", "port", "scheme", "host", "server_port")}
    assert {name: value for name, value in fields.items() if value is not None} == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("for=1.2.3.4", {"address": "1.2.3.4"}),
        ("For=1.2.3.4;Proto=https", {"address": "1.2.3.4", "scheme": "https"}),
        ('for="1.2.3.4:5678";host="shop.example:80"', {"address": "1.2.3.4", "port": 5678, "host": "shop.example:80"}),
        ('for="[2001:db9::1]:4711"', {"address": "2001:db9::1", "port": 4711}),
        ("for=[2001:db9::1]:4711", {"address": "2001:db9::1", "port": 4711}),
        # Each element tells of one hop: the host and scheme that count are those of the client's.
        (
            'for=6.6.6.6;host=evil;proto=http, for=1.2.3.4;host=shop.example;proto=https, for="10.0.0.1";proto=http',
            {"address": "1.2.3.4", "host": "shop.example", "scheme": "https"},
        ),
        ("for=10.2.2.2;proto=https, for=10.1.1.1;proto=http", {"address": "10.2.2.2", "scheme": "https"}),
        ("for=unknown;proto=https", {"scheme": "https"}),
        ("for=1.2.3.4, for=_hidden;proto=https", {"scheme": "https"}),
        ("for=1.2.3.4, for=unknown, for=10.0.0.1", {"address": "10.0.0.1"}),
        ("by=10.0.0.1;proto=https", {"scheme": "https"}),
        ('for="1.2.3.\\4"', {"address": "1.2.3.4"}),
        (" , for=1.2.3.4 ,, ", {"address": "1.2.3.4"}),
        ('for=1.2.3.4;proto=https;secret="a,b;c"', {"address": "1.2.3.4", "scheme": "https"}),
        ("", {}),
    ],
)
def test_forwarded(value: str, expected: dict[str, Any]) -> None:
    found = seen(("forwarded", value))
    fields = {name: getattr(found, name) for name in ("address", "port", "scheme", "host", "server_port")}
    assert {name: value for name, value in fields.items() if value is not None} == expected


@pytest.mark.parametrize(
    "headers",
    [
        [("forwarded", "for")],
        [("forwarded", "for=")],
        [("forwarded", "for=1.2.3.4;")],
        [("forwarded", "for=1.2.3.4;for=1.2.3.5")],
        [("forwarded", 'for="1.2.3.4')],
        [("forwarded", "for=1.2.3.4 proto=https")],
        [("forwarded", 'for="a"b')],
        [("forwarded", "for = 1.2.3.4")],
        [("forwarded", "for=1.2.3.4;host=a/b")],
        [("forwarded", 'for=1.2.3.4;host="a, b"')],
        [("forwarded", "for=1.2.3.4;proto=ftp")],
        # What a client has begun, a proxy's own quotes must not end.
        [("forwarded", 'for="6.6.6.6, for="1.2.3.4"')],
        [("forwarded", 'x="\\, for="1.2.3.4"')],
        [(PROTO, "ftp")],
        [(PROTO, "https://")],
        [(HOST, "a/b")],
        [(HOST, "u@a")],
        [(HOST, "a b")],
        [(PORT, "0")],
        [(PORT, "65536")],
        [(PORT, "+80")],
        [(PORT, "\xb2")],
        [("forwarded", "for=1.2.3.4"), (FOR, "1.2.3.4")],
        [("forwarded", "for=1.2.3.4"), (PROTO, "https")],
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(BadRequest) as caught:
        seen(*headers)
    assert caught.value.status == 400


def test_only_what_the_proxies_write_is_looked_at() -> None:
    both = [("forwarded", "for=6.6.6.6"), (FOR, "1.2.3.4"), (HOST, "evil.example"), (PORT, "nonsense")]
    found = seen(*both, written=frozenset([FOR, PROTO]))
    assert (found.address, found.host, found.headers) == ("1.2.3.4", None, ((FOR, "1.2.3.4"),))
    assert seen(*both, written=frozenset(["forwarded"])).address == "6.6.6.6"


def test_without_headers_nothing_is_said() -> None:
    assert seen(("host", "a")) == Origin()


def test_trust() -> None:
    assert "127.0.0.1" in TRUST
    assert "10.255.0.1" in TRUST
    assert "::ffff:10.0.0.1" in TRUST
    assert "2001:db8::1" in TRUST
    assert "fe80::1%eth0" in Trust(["fe80::/10"])
    assert "" in TRUST
    assert "" not in Trust(["0.0.0.0/0", "::/0"])
    assert "11.0.0.1" not in TRUST
    assert "nonsense" not in TRUST
    assert not Trust([])
    with pytest.raises(ValueError, match="nonsense"):
        Trust(["nonsense"])


def test_what_is_remembered_of_addresses_is_bounded() -> None:
    trust = Trust(["10.0.0.0/8"])
    assert [f"10.0.{n // 256}.{n % 256}" in trust for n in range(5000)] == [True] * 5000
    assert len(trust._known) <= 1024
