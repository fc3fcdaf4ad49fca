"""What is kept of requests that come again, and what is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from procman.wire.familiar import Familiar
from procman.wire.http import RequestParser

if TYPE_CHECKING:
    from procman.wire.request import Request

HEAD = b"Host: a\r\nCookie: b=c\r\n\r\n"


def ask(familiar: Familiar, data: bytes) -> Request:
    parser = RequestParser(familiar=familiar)
    parser.feed(data)
    (request,) = parser.requests
    return request


def test_what_has_come_twice_is_not_read_a_third_time() -> None:
    familiar = Familiar()
    once, twice, again = (ask(familiar, b"GET /a HTTP/1.1\r\n" + HEAD) for _ in range(3))
    assert once.head is not twice.head
    assert (again.head, again.line) == (twice.head, twice.line)
    assert again.head.familiar
    assert not once.head.familiar


def test_a_line_and_headers_are_familiar_each_for_itself() -> None:
    familiar = Familiar()
    known = [ask(familiar, b"GET /a HTTP/1.1\r\n" + HEAD) for _ in range(2)][-1]
    other = ask(familiar, b"POST /b%20c?d=%65 HTTP/1.1\r\n" + HEAD)
    assert other.head is known.head
    assert (other.line.method, other.line.path, other.line.query) == ("POST", "/b c", "d=%65")
    another = ask(familiar, b"GET /a HTTP/1.1\r\nHost: b\r\n\r\n")
    assert another.line is known.line
    assert another.head.fields == {"HTTP_HOST": "b"}


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PROPFIND / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + 4096 * b"x" + b"\r\n\r\n",
    ],
)
def test_what_is_unusual_is_read_anew_each_time(data: bytes) -> None:
    familiar = Familiar()
    for _ in range(3):
        ask(familiar, data)
    assert not familiar.heads
    assert not familiar.lines


def test_familiar_headers_do_not_help_a_line_that_is_wrong() -> None:
    familiar = Familiar()
    for _ in range(3):
        ask(familiar, b"GET /a HTTP/1.1\r\n" + HEAD)
    for line, status in ((b"FETCH / HTTP/1.1", 501), (b"GET  / HTTP/1.1", 400), (b"GET / HTTP/2.0", 505)):
        parser = RequestParser(familiar=familiar)
        parser.feed(line + b"\r\n" + HEAD)
        assert parser.error is not None
        assert parser.error.status == status


def test_what_was_good_without_a_host_is_not_in_a_later_version() -> None:
    familiar = Familiar()
    for _ in range(3):
        ask(familiar, b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    parser = RequestParser(familiar=familiar)
    parser.feed(b"GET /a HTTP/1.1\r\nConnection: keep-alive\r\n\r\n")
    assert str(parser.error) == "missing Host header"


def test_what_a_request_asks_behind_a_familiar_one_keeps_its_turn() -> None:
    familiar = Familiar()
    for _ in range(3):
        ask(familiar, b"GET /a HTTP/1.1\r\n" + HEAD)
    parser = RequestParser(familiar=familiar)
    parser.feed(b"GET /1 HTTP/1.1\r\n" + HEAD + b"GET /2 HTTP/1.1\r\n" + HEAD)
    assert parser.read(b"GET /a HTTP/1.1\r\n" + HEAD) is None
    assert [request.line.path for request in parser.requests] == ["/1", "/2", "/a"]


def test_nobody_can_fill_it() -> None:
    familiar = Familiar()
    for number in range(3000):
        for _ in range(2):
            ask(familiar, b"GET /%d HTTP/1.1\r\nHost: a\r\nX: %d\r\n\r\n" % (number, number))
    assert 0 < len(familiar.heads) <= 256
    assert 0 < len(familiar.lines) <= 1024


def test_what_comes_once_only_takes_no_room() -> None:
    familiar = Familiar()
    for number in range(3000):
        ask(familiar, b"GET /%d HTTP/1.1\r\nHost: a\r\nX: %d\r\n\r\n" % (number, number))
    assert (len(familiar.heads), len(familiar.lines)) == (0, 0)
