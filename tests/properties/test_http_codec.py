"""The codec under bytes nobody would send, and under every way to cut them."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procman.errors import BadRequest
from procman.wire import proxy_protocol
from procman.wire.authority import is_authority
from procman.wire.familiar import Familiar
from procman.wire.forwarded import ALL, Trust, origin
from procman.wire.http import RequestParser
from procman.wire.request import Head, Request, RequestLimits
from procman.wire.response import ResponseHead, response_head
from procman.workers.wsgi_environ import base_environ, make_environ, peer_environ
from tests.support.raw_requests import CORPUS, raw
from tests.support.reference import Seen, requests

if TYPE_CHECKING:
    from pathlib import Path

FILES = sorted(CORPUS.glob("*/*.http"))
BASE, REMOTE = base_environ("localhost", "80"), peer_environ(("192.0.2.1", 1234))
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
    return tuple((name.lower(), value.rstrip(b" \t")) for name, value in request.head.headers)


def found(request: Request) -> Any:
    line, head = request.line, request.head
    body = request.body and request.body.read()
    of_line = line.method, line.target, line.version, line.path, line.raw_path, line.query, line.authority, line.name
    return of_line, head.headers, head.fields, head.told, request.keep_alive, body, request.body_size


def outcome(parser: RequestParser) -> Any:
    requests = [found(request) for request in parser.requests]
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
        assert request.line.version == "HTTP/1.0" or "HTTP_HOST" in request.head.fields
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


# Request lines and headers as parts that come again in other company, on connections that share what is familiar.
starts = st.sampled_from(
    [fragment for fragment in FRAGMENTS if fragment.endswith(b"\r\n") and b" HTTP/" in fragment]
    + [b"GET /?a=b HTTP/1.1\r\n", b"GET /%2e HTTP/1.0\r\n", b"PURGE / HTTP/1.1\r\n", b"GET  / HTTP/1.1\r\n"]
    + [b"PROPFIND / HTTP/1.1\r\n", b"GET /# HTTP/1.1\r\n", b"GET / HTTP/1.2\r\n", b"\r\nGET / HTTP/1.1\r\n"]
)
headers = st.lists(
    st.sampled_from(
        [fragment for fragment in FRAGMENTS if b": " in fragment and fragment.endswith(b"\r\n")]
        + [b"Cookie: a=b\r\n", b"cookie: c=d\r\n", b"X-Forwarded-For: 1.2.3.4\r\n", b"Host : a\r\n", b" folded\r\n"]
        + [b"Upgrade: h2c\r\n", b"Proxy-Connection: close\r\n", b"Host: a\r", b"Content-Type: text/plain \r\n"]
    ),
    max_size=3,
).map(lambda some: b"".join([*some, b"\r\n"]))
heads = st.tuples(starts, headers.map(lambda some: b"Host: a\r\n" + some) | headers).map(b"".join)
told_apart = st.lists(heads | damaged(), min_size=1, max_size=6)


@settings(max_examples=300)
@given(told_apart, st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=24))
def test_what_is_familiar_is_read_as_what_is_new(whole: list[bytes], turns: list[tuple[int, bool]]) -> None:
    familiar = Familiar()
    ours, kept = RequestParser(familiar=familiar), RequestParser()
    for which, anew in turns:
        if anew:
            ours, kept = RequestParser(familiar=familiar), RequestParser()
        data = whole[which % len(whole)]
        ours.feed(data)
        # The other one of the pair remembers nothing, and has met the same before on its connection.
        kept._familiar.lines.clear()
        kept._familiar.heads.clear()
        kept.feed(data)
        assert outcome(ours) == outcome(kept)
        assert (ours.arriving, ours.finished, ours.awaits_continue) == (
            kept.arriving,
            kept.finished,
            kept.awaits_continue,
        )
        for request in ours.requests:
            new = Request()
            new.line, new.head = request.line, Head(request.head.headers, request.head.fields)
            fresh = make_environ(new, BASE, REMOTE)
            assert shown(make_environ(request, BASE, REMOTE)) == shown(fresh) or request.body is not None
        ours.requests.clear()
        kept.requests.clear()


def shown(environ: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in environ.items() if key != "wsgi.input"}


def ours(data: bytes) -> list[Seen]:
    parser = RequestParser()
    parser.feed(data)
    return [
        Seen(
            one.line.method,
            one.line.target.encode(),
            one.line.version,
            lines(one),
            one.body.read() if one.body else b"",
        )
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
    except ValueError as error:
        with pytest.raises(ValueError, match=f"^{re.escape(str(error))}$"):
            response_head(f"200 {phrase}", headers)
        return
    assert all(response_head(f"200 {phrase}", headers).render(b"", b"") == block for _ in range(2))
    first, *lines = block.removesuffix(b"\r\n\r\n").split(b"\r\n")
    assert first == f"HTTP/1.1 200 {phrase}".encode("latin-1")
    assert lines == [f"{name}: {value}".encode("latin-1") for name, value in headers]
