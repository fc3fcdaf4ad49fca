"""TLS by a real worker, asked by real clients; the authority is made by the test."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import struct
import subprocess
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import urllib3

from tests.integration.http.harness import PATIENCE, Client, Service, head, service
from tests.support.authority import Authority

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def authority(short_path: Path) -> Authority:
    return Authority(short_path)


@pytest.fixture
def web(short_path: Path, authority: Authority) -> Iterator[Service]:
    with service(short_path, certfile=str(authority.cert), keyfile=str(authority.key)) as made:
        made.start()
        yield made


class TlsClient(Client):
    """A client that sees exactly what is in the TLS."""

    def __init__(self, address: Any, context: ssl.SSLContext) -> None:
        super().__init__(address)
        self.sock = context.wrap_socket(self.sock, server_hostname="localhost")


def test_the_application_knows(web: Service, authority: Authority) -> None:
    with TlsClient(web.address, authority.client) as client:
        seen = json.loads(client.request("GET", "/environ").body)
        assert (seen["wsgi.url_scheme"], seen["HTTPS"], seen["SSL_PROTOCOL"]) == ("https", "on", "TLSv1.3")
        assert client.request("GET", "/").status == 200  # the connection is kept


def test_python_s_client(web: Service, authority: Authority) -> None:
    client = http.client.HTTPSConnection("localhost", web.address[1], context=authority.client, timeout=PATIENCE)
    for body in (b"x" * 100_000, b"", b"y" * 3_000_000):
        client.request("POST", "/echo", body)
        response = client.getresponse()
        assert response.status == 200
        assert response.headers["X-Length"] == str(len(body))
        response.read()
    client.close()


def test_urllib3(web: Service, authority: Authority) -> None:
    with urllib3.PoolManager(ssl_context=authority.client, retries=False, timeout=PATIENCE) as pool:
        url = f"https://localhost:{web.address[1]}"
        assert [pool.request("GET", f"{url}/").status for _ in range(3)] == [200] * 3
        assert pool.request("GET", f"{url}/blocks?20,70000").data == b"".join(
            b"%c" % (97 + n) * 70000 for n in range(20)
        )
        assert pool.connection_from_url(url).num_connections == 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
@pytest.mark.parametrize("version", ["--tlsv1.2 --tls-max 1.2", "--tlsv1.3"])
def test_curl(web: Service, authority: Authority, version: str) -> None:
    url = f"https://localhost:{web.address[1]}/environ"
    command = ["curl", "-sS", "--cacert", str(authority.file), *version.split(), "-v", url, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout.count('"https"') == 2
    assert "ALPN" not in done.stderr or "http/1.1" in done.stderr


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl on this machine")
def test_openssl_says_goodbye(web: Service, authority: Authority) -> None:
    address = f"localhost:{web.address[1]}"
    command = ["openssl", "s_client", "-connect", address, "-CAfile", str(authority.file), "-alpn", "h2,http/1.1"]
    request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    done = subprocess.run([*command, "-ign_eof"], input=request, capture_output=True, timeout=PATIENCE, check=True)
    assert b"ALPN protocol: http/1.1" in done.stdout
    assert b"Verify return code: 0" in done.stdout
    assert b"hello from" in done.stdout
    assert b"unexpected eof" not in done.stderr.lower()


def test_what_is_older_than_1_2_is_refused(web: Service, authority: Authority) -> None:
    context = authority.client
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that is why nobody should get in with it
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        TlsClient(web.address, context)


def test_plain_http_gets_a_readable_answer(web: Service, authority: Authority) -> None:
    with web.connect() as client:
        response = client.request("GET", "/")
        assert (response.status, response.headers["connection"]) == (400, "close")
        assert "ask with https://" in response.text
        assert client.closed()
    with TlsClient(web.address, authority.client) as client:
        assert client.request("GET", "/").status == 200


def test_tls_to_a_plain_port_gets_a_readable_answer(short_path: Path) -> None:
    with service(short_path) as web:
        web.start()
        with web.connect() as client:
            client.send(b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03")
            response = client.read()
            assert (response.status, "this is TLS" in response.text) == (400, True)


def test_nonsense_is_closed_and_harms_nobody(web: Service, authority: Authority) -> None:
    with web.connect() as client:
        client.send(b"\0" * 100)
        client._more()
        assert client.closed() or client._more() is False
    with TlsClient(web.address, authority.client) as client:
        assert client.request("GET", "/").status == 200


def test_slow_handshakes_hold_nobody_and_are_ended(short_path: Path, authority: Authority) -> None:
    with service(short_path, certfile=str(authority.cert), keyfile=str(authority.key), header_timeout=2.0) as web:
        web.start()
        slow = [web.connect() for _ in range(20)]
        for number, client in enumerate(slow):
            if number % 2:
                client.send(b"\x16\x03\x01\x02\x00\x01")
        with TlsClient(web.address, authority.client) as client:
            assert client.request("GET", "/").status == 200
        for client in slow:
            assert client.closed()
            client.sock.close()


def test_a_request_that_comes_in_many_records(web: Service, authority: Authority) -> None:
    with TlsClient(web.address, authority.client) as client:
        for at in range(0, 60, 7):
            client.send(head("GET", "/")[at : at + 7])
        rest = head("GET", "/")[63:]
        client.send(rest)
        assert client.read().status == 200


def test_many_requests_in_one_record(web: Service, authority: Authority) -> None:
    with TlsClient(web.address, authority.client) as client:
        client.send(head("GET", "/") * 100)
        assert [client.read().status for _ in range(100)] == [200] * 100


def test_a_large_response_and_a_file_drain_while_others_are_served(
    web: Service, authority: Authority, short_path: Path
) -> None:
    content = bytes(range(256)) * 40_000
    (short_path / "file").write_bytes(content)
    with (
        TlsClient(web.address, authority.client) as big,
        TlsClient(web.address, authority.client) as file,
        TlsClient(web.address, authority.client) as other,
    ):
        big.send(head("GET", "/big?20000000"))
        file.send(head("GET", f"/file?{short_path / 'file'}"))
        assert other.request("GET", "/").status == 200
        assert big.read().body == b"x" * 20_000_000
        assert file.read().body == content
        assert file.request("GET", "/").status == 200


def test_a_response_that_ends_with_the_connection_ends_in_order(web: Service, authority: Authority) -> None:
    with TlsClient(web.address, authority.client) as client:
        client.sock.suppress_ragged_eofs = False
        client.send(b"GET /blocks?3,1000 HTTP/1.0\r\n\r\n")
        assert len(client.read().body) == 3000  # else SSLEOFError: it might have been cut


def test_a_response_that_breaks_off_looks_like_it(web: Service, authority: Authority) -> None:
    with TlsClient(web.address, authority.client) as client:
        client.sock.suppress_ragged_eofs = False
        client.send(b"GET /fail-late HTTP/1.0\r\n\r\n")
        with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
            client.sock.makefile("rb").read()


def test_a_refused_upload_gets_its_answer(web: Service, authority: Authority) -> None:
    with TlsClient(web.address, authority.client) as client:
        client.send(head("POST", "/echo", Content_Length="999999999999"))
        assert client.read().status == 413
        assert client.closed()


def test_one_connection_too_many_is_told_so_in_tls(short_path: Path, authority: Authority) -> None:
    files = {"certfile": str(authority.cert), "keyfile": str(authority.key)}
    with service(short_path, max_connections=1, **files) as web:
        web.start()
        with TlsClient(web.address, authority.client) as first:
            assert first.request("GET", "/").status == 200
            with TlsClient(web.address, authority.client) as second:
                response = second.read()
                assert (response.status, response.headers["retry-after"]) == (503, "1")
                assert second.closed()
            assert first.request("GET", "/").status == 200


def test_sessions_are_resumed_by_any_worker_of_a_template(web: Service, authority: Authority) -> None:
    context = authority.client
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with TlsClient(web.address, context) as client:
        client.request("GET", "/")
        session = client.sock.session
    plain = socket.create_connection(web.address, timeout=PATIENCE)
    with context.wrap_socket(plain, server_hostname="localhost", session=session) as again:
        assert again.session_reused


def test_a_unix_socket_speaks_plain_http(short_path: Path, authority: Authority) -> None:
    with service(short_path, unix=True, certfile=str(authority.cert), keyfile=str(authority.key)) as web:
        web.start()
        assert web.get("/").status == 200


def test_the_proxy_protocol_comes_before_tls(short_path: Path, authority: Authority) -> None:
    files = {"certfile": str(authority.cert), "keyfile": str(authority.key)}
    with service(short_path, trusted_proxies=("127.0.0.1",), proxy_protocol=True, **files) as web:
        web.start()
        client = Client(web.address)
        client.send(b"PROXY TCP4 1.2.3.4 5.6.7.8 4711 443\r\n")
        client.sock = authority.client.wrap_socket(client.sock, server_hostname="localhost")
        with client:
            seen = json.loads(client.request("GET", "/environ").body)
            assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"]) == ("1.2.3.4", "https")


def test_an_aborted_handshake(web: Service, authority: Authority) -> None:
    for _ in range(5):
        client = web.connect()
        client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sock.close()
    with TlsClient(web.address, authority.client) as client:
        assert client.request("GET", "/").status == 200
