"""PEP 3333 from the application's side, without a socket."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

import pytest

from procman.wire.http import RequestParser
from procman.wire.response import ResponseHead
from procman.workers.wsgi import MOST_COLLECTED, Exchange, FileWrapper
from procman.workers.wsgi_environ import base_environ, make_environ, peer_environ

if TYPE_CHECKING:
    from procman.wire.request import Request

App = Callable[[dict[str, Any], Any], Iterable[bytes]]
BASE = base_environ("example.org", "80")


class Recorder:
    """A client that writes down what it gets, and when."""

    def __init__(self) -> None:
        self.closed = False
        self.aborted = False
        self.events: list[bytes | str] = []
        self.kept: bool | None = None

    def head(self, request: Request, head: ResponseHead, framing: bytes, *, keep: bool) -> bytes:
        self.kept = keep
        return head.render(b"", framing)

    def respond(
        self, request: Request, head: ResponseHead, framing: bytes, blocks: Sequence[bytes], keep: bool, now: float
    ) -> None:
        self.send([self.head(request, head, framing, keep=keep), *blocks])

    def send(self, parts: list[bytes]) -> None:
        self.events += [part for part in parts if part]

    def stream(self, data: bytes) -> None:
        self.events.append(data)

    def send_file(self, head: bytes, file: FileWrapper, region: tuple[int, int, int]) -> None:
        self.events += [head, f"file {region[1]}+{region[2]}"]
        file.close()

    def abort(self) -> None:
        self.aborted = self.closed = True

    @property
    def sent(self) -> bytes:
        return b"".join(event for event in self.events if isinstance(event, bytes))

    @property
    def body(self) -> bytes:
        return self.sent.partition(b"\r\n\r\n")[2]


def request(raw: bytes = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n") -> Exchange:
    parser = RequestParser(make=Exchange)
    parser.feed(raw)
    assert parser.error is None
    return parser.requests[0]


def call(app: App, raw: bytes = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", *, held: bool = True) -> Recorder:
    client, asked = Recorder(), request(raw)
    exchange = asked
    exchange.client = client
    exchange.held = lambda: held
    exchange.run(app, make_environ(asked, BASE, peer_environ(("127.0.0.1", 1234))))
    client.events.append("commit")
    exchange.finish(0.0)
    return client


def environ(raw: bytes, peer: tuple[str, int] = ("127.0.0.1", 1234)) -> dict[str, Any]:
    return make_environ(request(raw), BASE, peer_environ(peer))


# -- environ -------------------------------------------------------------------------------------------------


def test_the_environ() -> None:
    made = environ(
        b"POST /caf%C3%A9/%2Fx?q=%C3%A9 HTTP/1.1\r\nHost: example.org:8069\r\nContent-Type: text/plain\r\n"
        b"Content-Length: 2\r\nX-Latin: \xe9\r\nCookie: a=1\r\nX-A: 1\r\nCookie: b=2\r\nX-A: 2\r\n\r\nhi"
    )
    body = made.pop("wsgi.input")
    assert body.read() == b"hi"
    assert made == {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/caf\xc3\xa9//x",
        "QUERY_STRING": "q=%C3%A9",
        "REQUEST_URI": "/caf%C3%A9/%2Fx?q=%C3%A9",
        "SERVER_NAME": "example.org",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "procman",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "1234",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "2",
        "HTTP_HOST": "example.org:8069",
        "HTTP_X_LATIN": "\xe9",
        "HTTP_COOKIE": "a=1; b=2",
        "HTTP_X_A": "1,2",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.input_terminated": True,
    }
    assert type(made) is dict


def test_underscores_do_not_shadow_dashes() -> None:
    made = environ(b"GET / HTTP/1.1\r\nHost: x\r\nX_Forwarded_For: evil\r\nX-Accepted: 1\r\nX_Accepted: evil\r\n\r\n")
    assert made["HTTP_X_ACCEPTED"] == "1"
    assert "HTTP_X_FORWARDED_FOR" not in made


def test_no_client_can_set_a_proxy() -> None:
    made = environ(b"GET / HTTP/1.1\r\nHost: x\r\nProxy: http://evil/\r\npRoXy: http://evil/\r\n\r\n")
    assert not [key for key in made if "PROXY" in key]


def test_a_chunked_body_has_a_length_and_no_coding() -> None:
    made = environ(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert (made["CONTENT_LENGTH"], made["wsgi.input"].read()) == ("3", b"abc")
    assert "HTTP_TRANSFER_ENCODING" not in made


def test_absolute_form_outweighs_host() -> None:
    assert environ(b"GET http://real/ HTTP/1.1\r\nHost: other\r\n\r\n")["HTTP_HOST"] == "real"


def test_a_peer_on_a_unix_socket_has_no_address() -> None:
    made = environ(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", ("", 0))
    assert made["REMOTE_ADDR"] == ""
    assert "REMOTE_PORT" not in made


def test_one_request_can_not_reach_into_the_next() -> None:
    first = environ(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    first["wsgi.input"].close()
    first["x"] = 1
    second = environ(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert second["wsgi.input"].read() == b""
    assert "x" not in second


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS"])
def test_wsgiref_has_nothing_to_complain_about(method: str) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["wsgi.input"].read(1)
        environ["wsgi.input"].readline()
        list(environ["wsgi.input"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"fine"]

    target = b"*" if method == "OPTIONS" else b"/a?b"
    raw = method.encode() + b" " + target + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab\nc"
    assert b"200 OK" in call(validator(app), raw).sent


# -- start_response ------------------------------------------------------------------------------------------


def test_the_length_of_what_is_complete_is_told() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [b"hel", b"", b"lo"]

    assert call(app).events[0] == "commit"
    assert call(app).sent == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def test_start_response_may_come_with_the_first_block() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        yield b""
        start_response("200 OK", [])
        yield b"late"

    assert call(app).body == b"late"


def test_start_response_is_needed() -> None:
    with pytest.raises(AssertionError, match="did not call"):
        call(lambda environ, start_response: [])
    with pytest.raises(AssertionError, match="before it called"):
        call(lambda environ, start_response: [b"x"])


def test_start_response_twice_needs_exc_info() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        start_response("200 OK", [])
        return []

    with pytest.raises(AssertionError, match="again"):
        call(app)


def test_exc_info_replaces_what_has_not_been_sent() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("X", "first")])
        yield b"half a pa"
        try:
            raise LookupError
        except LookupError:
            start_response("500 Oh", [("X", "second")], sys.exc_info())
        yield b"sorry"

    assert call(app).sent == b"HTTP/1.1 500 Oh\r\nX: second\r\nContent-Length: 5\r\n\r\nsorry"


def test_exc_info_is_raised_when_the_head_is_out() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"out"
        try:
            raise LookupError("the application's own")
        except LookupError:
            start_response("500 Oh", [], sys.exc_info())

    with pytest.raises(LookupError, match="own"):
        call(app, held=False)


def test_a_malformed_head_is_the_application_s_error_where_it_makes_it() -> None:
    caught = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            start_response("200 OK", [("X", "a\nb")])
        except ValueError as error:
            caught.append(error)
        start_response("200 OK", [])
        return [b"ok"]

    assert call(app).body == b"ok"
    assert len(caught) == 1


def test_write_comes_before_the_iterable() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        write(b"a")
        write(b"b")
        return [b"c"]

    assert call(app).body == b"abc"
    assert call(app, held=False).body == b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n"


@pytest.mark.parametrize("block", ["text", bytearray(b"x"), None, 3])
@pytest.mark.parametrize("kind", [list, iter])
def test_blocks_are_bytes(block: Any, kind: Callable[[Any], Any]) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        result: Iterable[bytes] = kind([block])
        return result

    with pytest.raises(TypeError, match="bytes"):
        call(app)


# -- close() -------------------------------------------------------------------------------------------------


class Closing:
    def __init__(self, blocks: list[bytes], fails: bool = False) -> None:
        self.closed = 0
        self._blocks = blocks
        self._fails = fails

    def __iter__(self) -> Iterator[bytes]:
        yield from self._blocks
        if self._fails:
            raise LookupError("in the iterator")

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_close_is_called_once(held: bool, method: bytes) -> None:
    result = Closing([b"a", b"b"])

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return result

    call(app, method + b" / HTTP/1.1\r\nHost: x\r\n\r\n", held=held)
    assert result.closed == 1


def test_close_is_called_after_a_failure() -> None:
    result = Closing([b"a"], fails=True)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return result

    with pytest.raises(LookupError):
        call(app)
    assert result.closed == 1


# -- what goes out when --------------------------------------------------------------------------------------


def blocks(*data: bytes, headers: tuple[tuple[str, str], ...] = ()) -> App:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(headers))
        yield from data

    return app


def test_in_a_transaction_nothing_goes_out_before_the_commit() -> None:
    client = call(blocks(b"a", b"b"), held=True)
    assert client.events[0] == "commit"
    assert client.body == b"ab"


def test_without_a_transaction_blocks_go_out_and_the_end_waits_for_the_commit() -> None:
    client = call(blocks(b"a", b"b"), held=False)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert client.events == [head, b"1\r\na\r\n", b"1\r\nb\r\n", "commit", b"0\r\n\r\n"]


def test_the_block_that_completes_a_known_length_waits_for_the_commit() -> None:
    client = call(blocks(b"ab", b"cd", b"ef", headers=(("Content-Length", "6"),)), held=False)
    assert client.events == [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", b"ab", b"cd", "commit", b"ef"]


def test_a_large_response_streams_even_in_a_transaction() -> None:
    block = b"x" * (MOST_COLLECTED // 2)
    client = call(blocks(block, block, block, block), held=True)
    assert client.events.index("commit") == len(client.events) - 2
    assert client.events[-1] == b"0\r\n\r\n"
    assert client.body.count(b"x") == 4 * len(block)


def test_a_list_is_never_streamed() -> None:
    block = b"x" * MOST_COLLECTED

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [block, block, block]

    client = call(app, held=True)
    assert client.events[0] == "commit"
    assert len(client.body) == 3 * len(block)


def test_http_1_0_streams_to_the_end_of_the_connection() -> None:
    client = call(blocks(b"a", b"b"), b"GET / HTTP/1.0\r\n\r\n", held=False)
    assert (client.sent, client.kept) == (b"HTTP/1.1 200 OK\r\n\r\nab", False)


def test_too_little_breaks_the_connection() -> None:
    announced = (("Content-Length", "6"),)
    assert call(blocks(b"ab", headers=announced), held=False).aborted
    collected = call(blocks(b"ab", headers=announced), held=True)
    assert (collected.body, collected.kept) == (b"ab", False)


def test_too_much_is_cut() -> None:
    announced = (("Content-Length", "3"),)
    assert call(blocks(b"ab", b"cd", b"ef", headers=announced), held=False).body == b"abc"
    assert call(blocks(b"ab", b"cd", b"ef", headers=announced), held=True).body == b"abc"


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("held", [True, False])
def test_statuses_without_a_body(status: str, held: bool) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response(status, [])
        yield b"nobody sees this"

    client = call(app, held=held)
    assert client.sent == f"HTTP/1.1 {status}\r\n\r\n".encode()
    assert client.kept


# -- files ---------------------------------------------------------------------------------------------------


def test_a_file_is_left_to_the_kernel_from_where_it_stands(tmp_path: Any) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    opened = path.open("rb")
    opened.read(4)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        result: Iterable[bytes] = environ["wsgi.file_wrapper"](opened)
        return result

    client = call(app)
    assert client.events == ["commit", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", "file 4+6"]
    assert opened.closed


def test_a_file_for_head_is_closed(tmp_path: Any) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    opened = path.open("rb")

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return FileWrapper(opened)

    assert call(app, b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n").sent == b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
    assert opened.closed


def test_what_is_like_a_file_is_read() -> None:
    opened = BytesIO(b"x" * 200_000)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return FileWrapper(opened, 8192)

    assert call(app).body == b"x" * 200_000
    assert opened.closed


# -- replacing -----------------------------------------------------------------------------------------------


def test_a_failed_unit_is_answered_with_something_else() -> None:
    client, asked = Recorder(), request()
    exchange = asked
    exchange.client = client
    exchange.held = lambda: True
    exchange.run(blocks(b"never seen"), make_environ(asked, BASE, peer_environ(("", 0))))
    exchange.replace(ResponseHead("503 Later", []), b"later")
    exchange.finish(0.0)
    assert client.sent == b"HTTP/1.1 503 Later\r\nContent-Length: 5\r\n\r\nlater"


def test_what_has_gone_out_can_only_be_broken_off() -> None:
    client, asked = Recorder(), request()
    exchange = asked
    exchange.client = client
    exchange.run(blocks(b"seen"), make_environ(asked, BASE, peer_environ(("", 0))))
    exchange.replace(ResponseHead("503 Later", []), b"later")
    assert client.aborted
    assert b"503" not in client.sent
