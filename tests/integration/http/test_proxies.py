"""Proxies in front of a real worker: whose word about the client is believed, and what the application gets to see."""

from __future__ import annotations

import json
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.http.harness import Service, head, service

if TYPE_CHECKING:
    from pathlib import Path

CHAIN = {
    "X_Forwarded_For": "6.6.6.6, 1.2.3.4, 10.1.1.1",
    "X_Forwarded_Proto": "https",
    "X_Forwarded_Host": "shop.example",
}
LOOPBACK = ("127.0.0.1", "10.0.0.0/8")
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def environ(web: Service, **headers: str) -> dict[str, str]:
    response = web.get("/environ", **headers)
    assert response.status == 200, response.text
    seen: dict[str, str] = json.loads(response.body)
    return seen


def test_by_default_nobody_is_believed_and_nothing_of_it_is_seen(web: Service) -> None:
    seen = environ(web, **CHAIN, Forwarded="for=6.6.6.6;proto=https", X_Real_IP="6.6.6.6", X_Forwarded_Prefix="/evil")
    assert not [key for key in seen if "FORWARD" in key or "REAL" in key]
    assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"], seen["HTTP_HOST"]) == ("127.0.0.1", "http", "test")
    environ(web, **CHAIN)
    assert web.workers[0].log.read_text().count("is not believed: not one of trusted_proxies") == 1


def test_a_trusted_proxy_is_believed(short_path: Path) -> None:
    with service(short_path, trusted_proxies=LOOPBACK) as web:
        web.start()
        seen = environ(web, **CHAIN, X_Forwarded_Port="443", X_Real_IP="6.6.6.6", X_Forwarded_Prefix="/shop")
        facts = {
            "REMOTE_ADDR": "1.2.3.4",
            "wsgi.url_scheme": "https",
            "HTTPS": "on",
            "HTTP_HOST": "shop.example",
            "SERVER_NAME": "shop.example",
            "SERVER_PORT": "443",
            # What frameworks look at says the same.
            "HTTP_X_FORWARDED_FOR": "1.2.3.4, 10.1.1.1",
            "HTTP_X_FORWARDED_PROTO": "https",
            "HTTP_X_FORWARDED_HOST": "shop.example",
            "HTTP_X_FORWARDED_PORT": "443",
            "HTTP_X_FORWARDED_PREFIX": "/shop",
            "HTTP_X_REAL_IP": "1.2.3.4",
        }
        assert {key: seen.get(key) for key in facts} == facts
        assert "REMOTE_PORT" not in seen  # the proxy's own port is nobody's business
        assert environ(web)["REMOTE_ADDR"] == "127.0.0.1"


def test_forwarded_is_believed_as_well(short_path: Path) -> None:
    with service(short_path, trusted_proxies=LOOPBACK) as web:
        web.start()
        seen = environ(
            web, Forwarded='for=6.6.6.6, for="1.2.3.4:4711";proto=https;host="shop.example:8443", for=10.0.0.1'
        )
        assert (seen["REMOTE_ADDR"], seen["REMOTE_PORT"]) == ("1.2.3.4", "4711")
        assert (seen["HTTP_HOST"], seen["SERVER_NAME"], seen["SERVER_PORT"]) == (
            "shop.example:8443",
            "shop.example",
            "8443",
        )
        assert seen["wsgi.url_scheme"] == "https"


def test_both_kinds_at_once_are_refused(short_path: Path) -> None:
    with service(short_path, trusted_proxies=LOOPBACK) as web, web.connect() as client:
        web.start()
        response = client.request("GET", "/environ", Forwarded="for=6.6.6.6", X_Forwarded_For="1.2.3.4")
        assert (response.status, response.headers["connection"]) == (400, "close")
        assert "only one can be the proxy's" in response.text
        assert client.closed()


def test_what_the_proxies_do_not_write_is_not_believed(short_path: Path) -> None:
    with service(short_path, trusted_proxies=LOOPBACK, proxy_headers=("x-forwarded-for", "x-forwarded-proto")) as web:
        web.start()
        seen = environ(web, **CHAIN, Forwarded="for=6.6.6.6;host=evil.example", X_Forwarded_Port="1")
        assert (seen["REMOTE_ADDR"], seen["HTTP_HOST"], seen["SERVER_PORT"]) == ("1.2.3.4", "test", "443")
        assert not {"HTTP_FORWARDED", "HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_PORT"} & seen.keys()


@pytest.mark.parametrize(("trusted", "address"), [(("unix",), "1.2.3.4"), (("127.0.0.1",), "")])
def test_peers_of_a_unix_socket(short_path: Path, trusted: tuple[str, ...], address: str) -> None:
    with service(short_path, unix=True, trusted_proxies=trusted) as web:
        web.start()
        assert environ(web, X_Forwarded_For="1.2.3.4")["REMOTE_ADDR"] == address


@pytest.mark.parametrize(
    ("headers", "host", "port"),
    [
        ({"X_Forwarded_Proto": "https"}, "test", "443"),
        ({"X_Forwarded_Proto": "https", "X_Forwarded_Port": "8443"}, "test:8443", "8443"),
        ({"X_Forwarded_Port": "80"}, "test", "80"),
        ({"X_Forwarded_Host": "[::1]:8080"}, "[::1]:8080", "8080"),
        ({"X_Forwarded_Host": "[::1]", "X_Forwarded_Port": "81"}, "[::1]:81", "81"),
    ],
)
def test_host_and_port(short_path: Path, headers: dict[str, str], host: str, port: str) -> None:
    with service(short_path, trusted_proxies=LOOPBACK) as web:
        web.start()
        seen = environ(web, **headers)
        assert (seen["HTTP_HOST"], seen["SERVER_PORT"]) == (host, port)


@pytest.mark.parametrize("headers", [{"X_Forwarded_Proto": "gopher"}, {"X_Forwarded_Host": "a/b"}, {"Forwarded": "x"}])
def test_what_can_not_be_understood_is_a_400(short_path: Path, headers: dict[str, str]) -> None:
    with service(short_path, trusted_proxies=LOOPBACK) as web:
        web.start()
        assert web.get("/", **headers).status == 400
        assert web.get("/").status == 200


def test_location_of_files_is_passed_through_to_the_proxy(web: Service) -> None:
    response = web.get("/accel")
    assert response.headers["x-accel-redirect"] == "/protected/x"
    assert response.headers["x-sendfile"] == "/srv/x"


# -- the PROXY protocol --------------------------------------------------------------------------------------


def version_2(source: str, *, command: int = 1) -> bytes:
    block = socket.inet_aton(source) + socket.inet_aton("5.6.7.8") + struct.pack("!HH", 4711, 443)
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, 0x11, len(block)) + block


HEADERS = {"line": b"PROXY TCP4 1.2.3.4 5.6.7.8 4711 443\r\n", "binary": version_2("1.2.3.4")}


def proxied(short_path: Path, **more: Any) -> Any:
    return service(short_path, trusted_proxies=("127.0.0.1",), proxy_protocol=True, **more)


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_header_names_the_client_however_it_comes(short_path: Path, header: bytes, step: int) -> None:
    with proxied(short_path) as web:
        web.start()
        with web.connect() as client:
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            data = header + head("GET", "/environ")
            for at in range(0, len(data), step):
                client.send(data[at : at + step])
            seen = json.loads(client.read().body)
            assert (seen["REMOTE_ADDR"], seen["REMOTE_PORT"]) == ("1.2.3.4", "4711")
            assert (seen["SERVER_NAME"], seen["SERVER_PORT"]) == ("5.6.7.8", "443")
            # It is of the connection, not of a request; and the client is no proxy of ours.
            seen = json.loads(client.request("GET", "/environ", X_Forwarded_For="6.6.6.6").body)
            assert seen["REMOTE_ADDR"] == "1.2.3.4"


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", version_2("1.2.3.4", command=0)])
def test_a_proxy_that_speaks_for_itself(short_path: Path, header: bytes) -> None:
    with proxied(short_path) as web:
        web.start()
        with web.connect() as client:
            client.send(header + head("GET", "/environ"))
            assert json.loads(client.read().body)["REMOTE_ADDR"] == "127.0.0.1"


def test_a_trusted_proxy_without_a_header_is_refused(short_path: Path) -> None:
    with proxied(short_path) as web:
        web.start()
        with web.connect() as client:
            response = client.request("GET", "/")
            assert (response.status, "expected a PROXY protocol header" in response.text) == (400, True)
            assert client.closed()
        assert "A connection from 127.0.0.1 was refused" in web.workers[0].log.read_text()


def test_from_others_it_is_a_malformed_request(short_path: Path) -> None:
    with service(short_path, trusted_proxies=("10.0.0.0/8",), proxy_protocol=True) as web:
        web.start()
        with web.connect() as client:
            client.send(HEADERS["line"])
            assert client.read().status == 400
        assert web.get("/").status == 200


def test_a_header_that_does_not_come_holds_nobody(short_path: Path) -> None:
    with proxied(short_path, header_timeout=2.0) as web:
        web.start()
        with web.connect() as slow, web.connect() as silent:
            slow.send(b"PROXY TCP4 1.2.3.4")
            with web.connect() as client:
                client.send(HEADERS["line"] + head("GET", "/"))
                assert client.read().status == 200
            assert slow.closed()
            assert silent.closed()
