"""Who may ask a worker to run a job."""

from __future__ import annotations

import pytest

from procman.wire.http import RequestParser
from procman.workers.http_unit import _is_local


@pytest.mark.parametrize(
    ("address", "header", "local"),
    [
        ("127.0.0.1", b"", True),
        ("127.8.9.1", b"", True),
        ("::1", b"", True),
        ("::ffff:127.0.0.1", b"", True),
        ("", b"", True),  # a unix socket
        ("192.0.2.1", b"", False),
        ("::ffff:192.0.2.1", b"", False),
        ("2001:db8::1", b"", False),
        ("127.0.0.1", b"X-Forwarded-For: 127.0.0.1\r\n", False),
        ("127.0.0.1", b"Forwarded: for=127.0.0.1\r\n", False),
        ("", b"Via: 1.1 proxy\r\n", False),
    ],
)
def test_local(address: str, header: bytes, local: bool) -> None:
    parser = RequestParser()
    parser.feed(b"GET / HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n")
    assert _is_local(parser.requests[0], address) is local
