"""What comes while nobody looks: epoll tells each arrival once, so none may be forgotten.

A connection is kept for an hour here: what was forgotten would come back with no time-out.
"""

from __future__ import annotations

import hashlib
import socket
from typing import TYPE_CHECKING

import pytest

from tests.integration.http.harness import head, service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.http.conftest import Gate
    from tests.integration.http.harness import Client, Service


@pytest.fixture(params=[(1, False), (3, False), (1, True)], ids=["one-thread", "threads", "unix"])
def patient(request: pytest.FixtureRequest, short_path: Path) -> Iterator[Service]:
    threads, unix = request.param
    with service(short_path, threads=threads, unix=unix, keepalive=3600.0, header_timeout=3600.0) as made:
        made.start()
        yield made


@pytest.fixture
def kept(patient: Service) -> Iterator[Client]:
    """A connection that waits for its next request."""
    with patient.connect() as client:
        assert client.request("GET", "/").status == 200
        yield client


def test_the_end_that_comes_with_the_request(patient: Service, kept: Client, gate: Gate) -> None:
    with patient.connect() as other:
        other.send(head("GET", f"/hold?{gate.path}"))
        with gate.held():
            kept.send(head("GET", "/"))
            kept.sock.shutdown(socket.SHUT_WR)
        assert kept.read().status == 200
        assert kept.closed()
        assert other.read().status == 200


def test_the_end_alone(kept: Client) -> None:
    kept.sock.shutdown(socket.SHUT_WR)
    assert kept.closed()


def test_the_end_in_the_midst_of_a_unit(kept: Client, gate: Gate) -> None:
    kept.send(head("GET", f"/hold?{gate.path}"))
    with gate.held():
        kept.sock.shutdown(socket.SHUT_WR)
    assert kept.read().status == 200
    assert kept.closed()


def test_a_request_that_comes_in_the_midst_of_a_unit(kept: Client, gate: Gate) -> None:
    for _ in range(3):
        kept.send(head("GET", f"/hold?{gate.path}"))
        with gate.held():
            kept.send(head("GET", "/environ"))
        assert kept.read().status == 200
        assert kept.read().status == 200


def test_requests_that_come_while_others_of_the_same_connection_wait(kept: Client, gate: Gate) -> None:
    kept.send(3 * head("GET", f"/hold?{gate.path}"))
    for _ in range(3):
        with gate.held():
            kept.send(head("GET", "/"))
    for _ in range(6):
        assert kept.read().status == 200


@pytest.mark.parametrize("size", [65536, 1_000_000])
def test_more_than_is_received_at_once(patient: Service, kept: Client, gate: Gate, size: int) -> None:
    body = bytes(range(256)) * (size // 256)
    start = head("POST", "/echo", **{"Content-Length": str(len(body))})
    with patient.connect() as other:
        other.send(head("GET", f"/hold?{gate.path}"))
        with gate.held():
            kept.sock.setblocking(False)
            data = start + body
            sent = kept.sock.send(data)  # as much as there is room for
        kept.sock.settimeout(20)
        kept.send(data[sent:])
        assert kept.read().headers["x-hash"] == hashlib.sha256(body).hexdigest()
        assert kept.request("GET", "/").status == 200


def test_exactly_what_is_received_at_once(kept: Client) -> None:
    first = head("POST", "/echo", **{"Content-Length": "200000"})
    kept.send(first + bytes(65536 - len(first)))
    kept.send(bytes(200_000 - 65536 + len(first)))
    assert kept.read().headers["x-length"] == "200000"


def test_a_request_that_comes_before_the_last_response_has_been_read(kept: Client) -> None:
    kept.send(head("GET", "/big?20000000"))
    assert kept.sock.recv(1, socket.MSG_PEEK)
    kept.send(head("GET", "/"))
    assert len(kept.read().body) == 20_000_000
    assert kept.read().status == 200
    assert kept.request("GET", "/").status == 200


def test_a_request_in_two_parts(kept: Client, gate: Gate, patient: Service) -> None:
    whole = head("GET", "/")
    for cut in (1, 20, len(whole) - 1):
        kept.send(whole[:cut])
        assert patient.get("/").status == 200  # by now the first part has been looked at
        kept.send(whole[cut:])
        assert kept.read().status == 200


def test_a_reset(patient: Service, kept: Client) -> None:
    kept.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    kept.sock.close()
    with patient.connect() as other:
        assert other.request("GET", "/").status == 200
