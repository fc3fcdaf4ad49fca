"""Listening addresses, endpoints, URLs, paths."""

from __future__ import annotations

import pytest

from procman.config.addresses import DatabaseUrl, Endpoint, FilePath, HttpUrl, ListenAddress, absolute
from procman.config.problems import Wrong
from procman.config.values import Given
from procman.core.spec import PassedSocket, TcpAddress, UnixAddress


def reading(kind, value):
    return kind.read(Given(value, ("key",), "/base"))


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("127.0.0.1:8069", TcpAddress(host="127.0.0.1", port=8069)),
        ("localhost:0", TcpAddress(host="localhost", port=0)),
        ("shop-1.example.com:80", TcpAddress(host="shop-1.example.com", port=80)),
        ("0.0.0.0:65535", TcpAddress(host="0.0.0.0", port=65535)),
        ("[::1]:8069", TcpAddress(host="::1", port=8069)),
        ("[fe80::1%eth0]:8069", TcpAddress(host="fe80::1%eth0", port=8069)),
        ("unix:run/shop.sock", UnixAddress(path="/base/run/shop.sock")),
        ("unix:/run/shop.sock", UnixAddress(path="/run/shop.sock")),
        ("fd:http", PassedSocket(name="http")),
    ],
)
def test_addresses(value, address):
    assert reading(ListenAddress(), value) == address
    assert reading(ListenAddress(), str(address)) == address


@pytest.mark.parametrize(
    ("value", "endpoint"),
    [
        ("ipc://var/control.sock", "ipc:///base/var/control.sock"),
        ("ipc:///run/procman/control.sock", "ipc:///run/procman/control.sock"),
        ("tcp://192.0.2.1:5555", "tcp://192.0.2.1:5555"),
        ("tcp://[2001:db8::1]:0", "tcp://[2001:db8::1]:0"),
    ],
)
def test_endpoints(value, endpoint):
    assert reading(Endpoint(), value) == endpoint


@pytest.mark.parametrize("length", [107, 108])
def test_a_socket_path_has_at_most_107_bytes(length):
    path = "/" + "é" * 30 + "x" * (length - 61)
    assert len(path.encode()) == length
    for kind, value in ((ListenAddress(), f"unix:{path}"), (Endpoint(), f"ipc://{path}")):
        if length == 107:
            assert reading(kind, value)
        else:
            with pytest.raises(Wrong):
                reading(kind, value)


@pytest.mark.parametrize(
    "value",
    [
        "embedded",
        "postgresql://",
        "postgresql://shop:secret@host:5432/shop?sslmode=require",
        "postgres:///shop?host=%2Frun",
        "dbname=shop",
        "host=/run/postgresql dbname = 'the shop' password='it\\'s'",
    ],
)
def test_database_urls(value):
    assert reading(DatabaseUrl(), value) == value


@pytest.mark.parametrize("value", ["http://host:8069", "http://host", "http://[::1]:8069/", "http://user:pw@host:1"])
def test_http_urls(value):
    assert reading(HttpUrl(), value) == value


@pytest.mark.parametrize(
    ("path", "result"), [("var", "/base/var"), ("./a/../b", "/base/b"), ("/x//y/", "/x/y"), (".", "/base")]
)
def test_paths_are_relative_to_the_file(path, result):
    assert absolute(path, "/base") == reading(FilePath(), path) == result
