"""curl, as people use it."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.integration.http.harness import PATIENCE, Service, service

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")


def curl(*arguments: str, data: bytes = b"") -> tuple[bytes, str]:
    """What it prints, and what it says."""
    command = ["curl", "-sS", "-v", "--noproxy", "*", *arguments]
    done = subprocess.run(command, input=data, capture_output=True, timeout=PATIENCE, check=True)
    return done.stdout, done.stderr.decode("latin-1")


def url(web: Service, path: str) -> str:
    return f"http://127.0.0.1:{web.address[1]}{path}"


def test_a_connection_is_kept_and_used_again(web: Service) -> None:
    out, said = curl(url(web, "/"), url(web, "/big?3000000"), url(web, "/blocks?3,1000"), url(web, "/"))
    assert out.count(b"hello from") == 2
    assert said.count("Re-using existing connection") == 3


def test_uploads(web: Service, short_path: Path) -> None:
    (short_path / "file").write_bytes(b"x" * 2_000_000)
    for more in (["--data-binary", f"@{short_path / 'file'}"], ["-T", str(short_path / "file")]):
        out, said = curl(*more, "-H", "Expect: 100-continue", url(web, "/echo"))
        assert out == b"2000000"
        assert "100 Continue" in said
    out, said = curl("-T", "-", url(web, "/echo"), data=b"y" * 300_000)
    assert (out, "Transfer-Encoding: chunked" in said) == (b"300000", True)


def test_an_upload_that_is_too_large_is_not_sent(short_path: Path) -> None:
    (short_path / "file").write_bytes(b"x" * 20_000_000)
    with service(short_path, max_body=1000) as web:
        web.start()
        out, said = curl("-T", str(short_path / "file"), "-w", "%{http_code} %{size_upload}", url(web, "/echo"))
        assert out.split()[-2:] == [b"413", b"0"], said


def test_head_and_http_1_0_and_options(web: Service) -> None:
    out, _ = curl("-I", url(web, "/big?1000"))
    assert b"Content-Length: 1000" in out
    out, said = curl("--http1.0", url(web, "/blocks?2,3"))
    assert (out, "Transfer-Encoding" in said) == (b"aaabbb", False)
    out, _ = curl("-X", "OPTIONS", "--request-target", "*", url(web, ""))
    assert out.startswith(b"hello")


def test_a_unix_socket_and_a_target_as_a_proxy_gets_it(short_path: Path, web: Service) -> None:
    out, _ = curl("--proxy", url(web, ""), "--noproxy", "", "http://shop.example/environ")
    assert json.loads(out)["HTTP_HOST"] == "shop.example"


def test_the_proxy_protocol(short_path: Path) -> None:
    with service(short_path, trusted_proxies=("127.0.0.1",), proxy_protocol=True) as web:
        web.start()
        out, _ = curl("--haproxy-protocol", url(web, "/environ"), url(web, "/environ"))
        assert b'"REMOTE_ADDR": "127.0.0.1"' in out
