"""The codec under bytes nobody would send, and under every way to cut them."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procman.errors import BadRequest
from procman.wire import proxy_protocol
from procman.wire.authority import is_authority
from procman.wire.forwarded import ALL, Trust, origin
from procman.wire.http import RequestParser
from procman.wire.request import Request, RequestLimits
from procman.wire.response import ResponseHead
from tests.support.raw_requests import CORPUS, raw
from tests.support.reference import Seen, requests

if TYPE_CHECKING:
    from pathlib import Path

FILES = sorted(CORPUS.glob("*/*.http"))
LIMITS = RequestLimits(target=100, head=2000, headers=20, body=200)

# Fragments that matter to the grammar, so that the fuzz gets beyond the first line.
FRAGMENTS = [
    b"GET / HTTP/1.1\r\n",
    b"POST /a%20b?c HTTP/1.1\r\n",
    b"HEAD * HTTP/1.0\r\n",
    b"OPTIONS * HTTP/1.1\r\n",
    b"GET http://a/b HTTP/1.1\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n",
    b"Host: a\r\n",
    b"Host: b\r\n",
    b"Content-Length: 3\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    b"Connection: keep-alive\r\n",
    b"Expect: 100-continue\r\n",
    b"X_Y: z\r\n",
    b"\r\n",
    b"\r",
    b"\n",
    b" ",
    b":",
    b"\0",
    b"abc",
    b"3\r\nabc\r\n",
    b"0\r\n\r\n",
    b"0\r\nT: x\r\n\r\n",
    b"ffffffff\r\n",
    b"\xff",
]
streams = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=8)), max_size=30).map(b"".join)


def lines(request: Request) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((name.lower(), value.rstrip(b" \t")) for name, value in request.headers)


def outcome(parser: RequestParser) -> Any:
    requests = [
        (r.method, r.target, r.version, r.headers, r.keep_alive, r.body and r.body.read(), r.body_size)
        for r in parser.requests
    ]
    # Of two mistakes in one line after the other, it depends on the pieces which is seen first: the words may differ.
    return requests, parser.error and parser.error.status


def feed(pieces: list[bytes]) -> RequestParser:
    parser = RequestParser(LIMITS)
    for piece in pieces:
        parser.feed(piece)
    return parser


@settings(max_examples=400)
@given(streams, st.lists(st.integers(0, 400), max_size=10))
def test_the_outcome_does_not_depend_on_the_pieces(data: bytes, cuts: list[int]) -> None:
    cuts = sorted({cut for cut in cuts if cut < len(data)})
    whole = outcome(feed([data]))
    assert whole[1] is None or 400 <= whole[1] < 600
    assert outcome(feed([data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)])) == whole
    assert outcome(feed([data[n : n + 1] for n in range(len(data))])) == whole


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=300), max_size=20))
def test_any_bytes_are_requests_or_refused(pieces: list[bytes]) -> None:
    parser = feed(pieces)
    assert parser.error is None or type(parser.error) is BadRequest
    for request in parser.requests:
        assert request.version == "HTTP/1.0" or "HTTP_HOST" in request.fields
        assert request.body_size <= LIMITS.body


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A file of the corpus with a few bytes put in, taken out or doubled, and perhaps another one behind it."""
    data = raw(draw(st.sampled_from(FILES)))[:3000]
    for _ in range(draw(st.integers(0, 3))):
        at, cut = draw(st.integers(0, len(data))), draw(st.integers(0, 4))
        data = data[:at] + draw(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=3))) + data[at + cut :]
    return data + raw(draw(st.sampled_from(FILES)))[:3000] if draw(st.booleans()) else data


@settings(max_examples=300)
@given(damaged())
def test_damaged_requests_never_break_the_parser(data: bytes) -> None:
    parser = feed([data])
    parser.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert parser.error is None or 400 <= parser.error.status < 600
    assert outcome(feed([data[n : n + 1] for n in range(len(data))])) == outcome(feed([data]))


def ours(data: bytes) -> list[Seen]:
    parser = RequestParser()
    parser.feed(data)
    return [
        Seen(one.method, one.target.encode(), one.version, lines(one), one.body.read() if one.body else b"")
        for one in parser.requests
    ]


def same_but_for_case(seen: Seen) -> Any:
    # h11 writes the name of the coding in small letters.
    return seen.method, seen.target, seen.version, [(name, value.lower()) for name, value in seen.headers], seen.body


@settings(max_examples=500)
@given(st.one_of(damaged(), streams))
def test_another_parser_sees_the_same_requests(data: bytes) -> None:
    # What only one of the two accepts is no matter: most of what we refuse, h11 takes. But what both take must be
    # the same, request after request, or somebody else's request could be put in front of a user's.
    for mine, reference in zip(ours(data), requests(data), strict=False):
        assert same_but_for_case(mine) == same_but_for_case(reference)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("valid/*.http")), ids=lambda path: path.stem)
def test_another_parser_sees_the_same_in_the_corpus(path: Path) -> None:
    data = raw(path)
    seen = requests(data)
    assert [same_but_for_case(one) for one in ours(data)[: len(seen)]] == [same_but_for_case(one) for one in seen]


proxies = Trust(["127.0.0.0/8", "10.0.0.0/8", "unix"])
told = st.lists(
    st.sampled_from(["127.0.0.1", "10.0.0.1", "1.2.3.4", "for=", "proto=https", "host=a", '"', ";", ",", " "])
    | st.text(st.characters(max_codepoint=0xFF), max_size=4),
    max_size=12,
).map("".join)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(sorted(ALL)), told, max_size=4))
def test_whatever_is_forwarded_is_understood_or_refused(headers: dict[str, str]) -> None:
    try:
        found = origin(headers, proxies)
    except BadRequest:
        return
    assert found.address is None or ip_address(found.address)
    assert found.scheme in (None, "http", "https")
    assert found.host is None or is_authority(found.host)
    # What is passed on says the same, to whoever looks at it next.
    assert origin(dict(found.headers), proxies) == found


@settings(max_examples=200)
@given(told, st.lists(st.sampled_from(["127.0.0.1", "10.0.0.1"]), max_size=3))
def test_what_a_client_says_does_not_count(spoofed: str, hops: list[str]) -> None:
    chain = ", ".join([spoofed, "1.2.3.4", *hops])
    assert origin({"x-forwarded-for": chain}, proxies).address == "1.2.3.4"


@settings(max_examples=300)
@given(st.one_of(st.sampled_from([b"PROXY ", b"PROXY TCP4 ", b"\r\n\r\n\0\r\nQUIT\n", b""])), st.binary(max_size=80))
def test_a_proxy_protocol_header_is_one_or_none_however_it_comes(start: bytes, rest: bytes) -> None:
    def outcome(data: bytes) -> Any:
        try:
            return proxy_protocol.read(data)
        except BadRequest:
            return "refused"

    data = start + rest
    whole = outcome(data)
    in_pieces = next((found for end in range(len(data) + 1) if (found := outcome(data[:end])) is not None), None)
    assert in_pieces == whole


header_text = st.text(st.characters(max_codepoint=0x100), max_size=12)


@settings(max_examples=300)
@given(header_text, st.lists(st.tuples(header_text, header_text), max_size=4))
def test_a_response_head_is_one_head_with_these_lines_or_nothing(phrase: str, headers: list[tuple[str, str]]) -> None:
    try:
        block = ResponseHead(f"200 {phrase}", headers).render(b"", b"")
    except ValueError:
        return
    first, *lines = block.removesuffix(b"\r\n\r\n").split(b"\r\n")
    assert first == f"HTTP/1.1 200 {phrase}".encode("latin-1")
    assert lines == [f"{name}: {value}".encode("latin-1") for name, value in headers]
