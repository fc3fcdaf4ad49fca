"""Response heads and chunks."""

from __future__ import annotations

import pytest

from procman.wire.response import ResponseHead, chunk, plain, response_head

DATE = b"Date: Sat, 21 Nov 2026 10:00:00 GMT\r\n"


def test_a_head_on_the_wire() -> None:
    head = ResponseHead("200 OK", [("Content-Type", "text/plain"), ("X-Latin", "caf\xe9"), ("Content-Length", "5")])
    assert (head.code, head.length, head.bodyless) == (200, 5, False)
    assert head.render(DATE, b"Connection: close\r\n") == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Latin: caf\xe9\r\nContent-Length: 5\r\n"
        b"Date: Sat, 21 Nov 2026 10:00:00 GMT\r\nConnection: close\r\n\r\n"
    )


def test_the_date_of_the_application_counts() -> None:
    assert ResponseHead("200 OK", [("date", "today")]).render(DATE, b"") == b"HTTP/1.1 200 OK\r\ndate: today\r\n\r\n"


def test_no_length_with_204() -> None:
    assert b"Length" not in ResponseHead("204 No Content", [("Content-Length", "0")]).render(b"", b"")
    assert b"Length" in ResponseHead("304 Not Modified", [("Content-Length", "9")]).render(b"", b"")


@pytest.mark.parametrize(
    "header",
    [
        ("X", "a\r\nSet-Cookie: evil=1"),
        ("X", "a\nb"),
        ("X", "a\rb"),
        ("X", "a\r"),
        ("X", "\r\n"),
        ("X", "a\0b"),
        ("X", "\x7f"),
        ("X", "\u20ac"),
        ("X\r\nSet-Cookie", "evil"),
        ("X Y", "a"),
        ("X:", "a"),
        ("", "a"),
        ("Content-Length", "-1"),
        ("Content-Length", "1, 1"),
        ("Content-Length", ""),
        ("Content-Length", "\u0661"),
        ("Connection", "close"),
        ("transfer-encoding", "chunked"),
        ("Upgrade", "h2c"),
        ("Keep-Alive", "timeout=5"),
    ],
)
@pytest.mark.parametrize("after", [[], [("Y", "1")]])
def test_what_must_not_go_out(header: tuple[str, str], after: list[tuple[str, str]]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own text, and two are the codec's
        ResponseHead("200 OK", [header, *after])


def test_two_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="more than one Content-Length"):
        ResponseHead("200 OK", [("Content-Length", "1"), ("content-length", "1")])


@pytest.mark.parametrize(
    "status", ["OK", "200", "2000 OK", "200OK", "200 O\r\nK", "100 Continue", "099 X", "", "200 \u20ac"]
)
def test_malformed_statuses(status: str) -> None:
    with pytest.raises(ValueError, match="status"):
        ResponseHead(status, [])


def test_the_phrase_may_be_empty() -> None:
    assert ResponseHead("299 ", []).render(b"", b"") == b"HTTP/1.1 299 \r\n\r\n"


@pytest.mark.parametrize(
    ("status", "headers"), [(b"200 OK", []), ("200 OK", [("X", 1)]), ("200 OK", [(b"X", "1")]), (200, [])]
)
def test_wrong_types(status: object, headers: object) -> None:
    with pytest.raises(TypeError):
        ResponseHead(status, headers)  # type: ignore[arg-type]


def test_chunks() -> None:
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"


def test_plain_answers() -> None:
    head, body = plain(503, headers=(("Retry-After", "1"),))
    assert body == b"Service Unavailable\n"
    assert b"Retry-After: 1\r\n" in head.render(b"", b"")
    assert head.length == len(body)


def test_a_head_that_was_said_before_is_not_made_again() -> None:
    first = response_head("200 OK", [("X-Same", "1")])
    assert response_head("200 OK", [("X-Same", "".join(("1",)))]) is first  # by what it says, not by the objects
    for status, headers in (
        ("201 OK", [("X-Same", "1")]),
        ("200 OK", [("X-Same", "2")]),
        ("200 OK", [("x-same", "1")]),
    ):
        assert response_head(status, headers) is not first
    assert response_head("200 OK", [("X-Same", "1")] * 2).block == first.block + b"X-Same: 1\r\n"


@pytest.mark.parametrize(
    "headers", [[("X", "a\r\nb")], [("X", 1)], [("Connection", "close")], [(["X"], "1")], [("X",)]]
)
def test_what_is_refused_is_refused_each_time(headers: list[tuple[str, str]]) -> None:
    for _ in range(2):
        with pytest.raises((ValueError, TypeError)):
            response_head("200 OK", headers)


def test_headers_that_are_given_in_another_way_than_they_should_be() -> None:
    pairs = [["X-Other", "1"]]
    assert response_head("200 OK", pairs).block == b"HTTP/1.1 200 OK\r\nX-Other: 1\r\n"  # type: ignore[arg-type]
    assert response_head("200 OK", (pair for pair in [("X-Other", "1")])).block.endswith(b"X-Other: 1\r\n")  # type: ignore[arg-type]


def test_a_text_is_what_it_is_and_not_what_it_looks_like() -> None:
    class Odd(str):
        def __format__(self, spec: str) -> str:
            return "a\r\nSet-Cookie: b"

    for value in (Odd("plain"), "plain", Odd("plain")):
        assert response_head("200 OK", [("X-Odd", value)]).block == b"HTTP/1.1 200 OK\r\nX-Odd: plain\r\n"


def test_heads_that_never_come_again_take_no_room_for_ever() -> None:
    before = response_head("200 OK", [("X-Room", "")])
    for number in range(600):
        response_head("200 OK", [("X-Room", str(number))])
    assert response_head("200 OK", [("X-Room", "")]) is not before
