"""Details of RFC 9110 and 9112 on the wire, where clients and proxies have been seen to differ."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest

from procman.core.spec import TcpAddress
from procman.unix.sockets import bind
from tests.integration.http.harness import Client, Service, head, service

if TYPE_CHECKING:
    from pathlib import Path


def test_pipelined_requests_of_all_kinds_are_answered_in_order(web: Service) -> None:
    with web.connect() as client:
        client.send(
            head("HEAD", "/big?1000")
            + head("GET", "/nothing?204+No+Content")
            + head("GET", "/blocks?3,10")
            + head("POST", "/echo", b"abc")
            + b"abc"
            + head("POST", "/echo", Transfer_Encoding="chunked")
            + b"3;x=y\r\ndef\r\n0\r\nT: z\r\n\r\n"
            + head("HEAD", "/blocks?3,10")
            + head("GET", "/nothing?304+Not+Modified")
            + head("OPTIONS", "*")
            + head("GET", "/")
        )
        assert client.read("HEAD").headers["content-length"] == "1000"
        assert client.read().status == 204
        streamed = client.read()
        assert (streamed.headers["transfer-encoding"], streamed.body) == ("chunked", b"a" * 10 + b"b" * 10 + b"c" * 10)
        assert client.read().body == b"abc"
        assert client.read().body == b"def"
        assert client.read("HEAD").status == 200
        assert client.read().status == 304
        assert client.read().status == 200
        assert client.read().text.startswith("hello")


def test_a_refused_body_is_not_asked_for(short_path: Path) -> None:
    with service(short_path, max_body=1000) as web:
        web.start()
        for more, status in (
            ({"Content_Length": "1001", "Expect": "100-continue"}, 413),
            ({"Content_Length": "5", "Expect": "something-else"}, 417),
            ({"Content_Length": "5, 5", "Expect": "100-continue"}, 400),
            ({"Transfer_Encoding": "gzip", "Expect": "100-continue"}, 400),
        ):
            with web.connect() as client:
                client.send(head("POST", "/echo", **more))
                response = client.read()  # not 100
                assert (response.status, response.headers["connection"]) == (status, "close")
                assert client.closed()


def test_continue_is_said_once_and_only_to_who_waits(web: Service) -> None:
    with web.connect() as client:
        client.send(head("POST", "/echo", Content_Length="3", Expect="100-continue") + b"abc")
        assert client.read().status == 200  # all of it was there: RFC 9110 section 10.1.1 lets it be left out
        client.send(head("POST", "/echo", Content_Length="6", Expect="100-continue"))
        assert client.read().status == 100
        client.send(b"abc")
        client.send(b"def")
        assert client.read().body == b"abcdef"
        client.send(b"POST /echo HTTP/1.0\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        client.send(b"abc")
        assert client.read().body == b"abc"  # HTTP/1.0 knows no 100


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        ("1.1", None, True),
        ("1.1", "keep-alive", True),
        ("1.1", "Close", False),
        ("1.1", "x, close, y", False),
        ("1.1", "close, keep-alive", False),
        ("1.0", None, False),
        ("1.0", "Keep-Alive", True),
        ("1.0", "keep-alive, close", False),
        ("1.0", "close", False),
    ],
)
def test_who_keeps_the_connection(web: Service, version: str, connection: str | None, kept: bool) -> None:
    with web.connect() as client:
        option = "" if connection is None else f"Connection: {connection}\r\n"
        client.send(f"GET / HTTP/{version}\r\nHost: a\r\n{option}\r\n".encode())
        response = client.read()
        said = response.headers.get("connection")
        assert said == ("close" if not kept else "keep-alive" if version == "1.0" else None)
        if kept:
            assert client.request("GET", "/").status == 200
        else:
            assert client.closed()


def test_http_1_0_never_gets_chunks(web: Service) -> None:
    with web.connect() as client:
        client.send(b"GET /blocks?3,10 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        response = client.read()
        assert "transfer-encoding" not in response.headers
        assert (response.headers["connection"], response.body) == ("close", b"a" * 10 + b"b" * 10 + b"c" * 10)


def test_the_target_outweighs_the_host_header(web: Service) -> None:
    with web.connect() as client:
        seen = json.loads(client.request("GET", "http://shop.example:81/environ?a=b").body)
        assert (seen["HTTP_HOST"], seen["PATH_INFO"], seen["QUERY_STRING"]) == ("shop.example:81", "/environ", "a=b")
        assert seen["REQUEST_URI"] == "http://shop.example:81/environ?a=b"


def test_long_extensions_and_many_trailers_are_read_over(web: Service) -> None:
    with web.connect() as client:
        client.send(head("POST", "/echo", Transfer_Encoding="chunked"))
        for block in (b"abc", b"def"):
            client.send(b"%x;%b=%b\r\n%b\r\n" % (len(block), b"n" * 20_000, b"v" * 20_000, block))
        client.send(b"0\r\n" + b"Trailer: value\r\n" * 1000 + b"\r\n")
        response = client.read()
        assert response.body == b"abcdef"
        assert client.request("GET", "/").status == 200


def test_endless_extensions_are_refused(web: Service) -> None:
    with web.connect() as client:
        client.send(head("POST", "/echo", Transfer_Encoding="chunked") + b"3;a=")
        try:
            for _ in range(10):
                client.send(b"x" * 50_000)
        except OSError:
            pass
        assert client.read().status == 400


def test_an_offer_of_another_protocol_is_declined(web: Service) -> None:
    with web.connect() as client:
        offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2_Settings": "AAMAAABk"}
        assert client.request("GET", "/", **offer).status == 200
        assert client.request("POST", "/echo", b"abc", **offer).body == b"abc"
        assert client.request("GET", "/").status == 200


def test_names_with_underscores_shadow_nothing(web: Service) -> None:
    with web.connect() as client:
        client.send(
            b"GET /environ HTTP/1.1\r\nHost: a\r\nX-Token: right\r\nX_Token: wrong\r\nX-Token_: wrong\r\n"
            b"Remote_Addr: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nContent_Length: 5\r\n\r\n"
        )
        seen = json.loads(client.read().body)
        assert seen["HTTP_X_TOKEN"] == "right"
        assert not {"HTTP_REMOTE_ADDR", "HTTP_X_FORWARDED_FOR", "CONTENT_LENGTH", "HTTP_CONTENT_LENGTH"} & seen.keys()


def test_ipv6(short_path: Path) -> None:
    address = TcpAddress(host="::1", port=0)
    try:
        bind(address).close()
    except Exception as error:
        pytest.skip(f"no IPv6 on this machine: {error}")
    with service(short_path, bound=address) as web:
        web.start()
        client = Client.__new__(Client)
        client.sock = socket.create_connection(web.address[:2], timeout=20)
        client._buffer = b""
        with client:
            seen = json.loads(client.request("GET", "/environ").body)
            assert (seen["REMOTE_ADDR"], seen["SERVER_NAME"]) == ("::1", "::1")
