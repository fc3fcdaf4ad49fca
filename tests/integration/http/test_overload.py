"""More than a worker wants to take, and slower: what clients may hold is bounded, and nobody else waits for them."""

from __future__ import annotations

import os
import resource
import time
from statistics import quantiles
from typing import TYPE_CHECKING

import pytest

from procman.daemon.looking import cpu_clock
from procman.observe.memory import memory
from tests.integration.http.harness import head, service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.http.harness import Client, Service, Worker


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip(f"1,500 connections need more than {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- connections ---------------------------------------------------------------------------------------------


def test_beyond_max_connections_is_a_503_until_there_is_room(short_path: Path) -> None:
    with service(short_path, max_connections=2, keepalive=60.0) as web, web.connect() as first:
        worker = web.start()
        second = web.connect()
        for client in (first, second):
            assert client.request("GET", "/").status == 200
        with web.connect() as third:
            refused = third.read()
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            assert refused.headers["connection"] == "close"
            assert third.closed()
        assert first.request("GET", "/").status == 200
        second.sock.close()
        while worker.board.read(0).traffic.connections > 1:
            assert first.request("GET", "/").status == 200
        with web.connect() as fourth:
            assert fourth.request("GET", "/").status == 200


def test_idle_and_slow_connections_do_not_hold_up_the_others(short_path: Path, many_descriptors: None) -> None:
    with service(short_path, keepalive=60.0, header_timeout=60.0) as web:
        worker = web.start()
        idle = kept(web, 1000)
        before = memory(worker.pid)
        slow = [web.connect() for _ in range(500)]
        worked = []
        with web.connect() as normal:
            for number in range(500):
                begun = cpu_clock(worker.pid)
                slow[number].send(b"GET / HTTP/1.1\r\nHost: test\r\nX-Slow: ")
                assert normal.request("GET", "/").status == 200
                slow[number].send(b"%d" % number)
                worked.append(cpu_clock(worker.pid) - begun)
        # The 99th percentile stays below 20 ms. Of the worker's processor time: how long a client waits depends on what
        # else the machine does; but it is for no more than that, because the worker never waits while there is work.
        assert quantiles(worked, n=100)[98] < 0.02
        # Those that have sent half a head take more than those that are idle; and both are little.
        assert (memory(worker.pid) - before) / len(slow) < 16 * 1024
        for client in slow:
            client.send(b"\r\n\r\n")
        assert {client.read().status for client in slow} == {200}
        for client in (*idle, *slow):
            client.sock.close()


def test_an_idle_connection_takes_less_than_10_kib(short_path: Path, many_descriptors: None) -> None:
    with service(short_path, keepalive=60.0) as web:
        worker = web.start()
        clients = kept(web, 200)  # the first ones fill what the allocator has got anyway
        before = memory(worker.pid)
        clients += kept(web, 1000)
        assert (memory(worker.pid) - before) / 1000 < 10 * 1024
        for client in clients:
            client.sock.close()


def kept(web: Service, number: int) -> list[Client]:
    clients = [web.connect() for _ in range(number)]
    for client in clients:
        assert client.request("GET", "/").status == 200
    return clients


# -- bodies --------------------------------------------------------------------------------------------------


def test_a_body_that_comes_too_slowly_is_a_408(short_path: Path) -> None:
    with service(short_path, header_timeout=0.5, body_rate=1000) as web, web.connect() as client:
        web.start()
        client.send(head("POST", "/echo", b"x" * 100_000))
        client.sock.settimeout(0.05)
        begun = time.monotonic()
        while (answer := some(client)) == b"":
            client.send(b"x")  # something comes all the time: that alone is not enough
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - begun >= 0.5


def test_a_body_that_keeps_the_rate_may_take_its_time(short_path: Path) -> None:
    with service(short_path, header_timeout=0.5, body_rate=1000) as web, web.connect() as client:
        web.start()
        body = b"x" * 20_000
        client.send(head("POST", "/echo", body) + body[:10_000])  # which is enough for ten seconds
        client.sock.settimeout(0.8)
        assert some(client) == b""
        client.sock.settimeout(20.0)
        client.send(body[10_000:])
        assert client.read().body == body


def some(client: Client) -> bytes:
    """What comes within the time-out of the client."""
    try:
        return client.sock.recv(4096)
    except TimeoutError:
        return b""


# -- responses -----------------------------------------------------------------------------------------------


def test_the_slow_reader_of_a_stream_does_not_hold_the_worker(web: Service) -> None:
    with web.connect() as slow, web.connect() as normal:
        slow.send(head("GET", "/blocks?64,200000"))
        assert normal.request("GET", "/").status == 200
        while web.workers[0].board.read(0).unit is not None:
            os.sched_yield()  # in another thread it may go on yet
        assert spooled(web.workers[0]) > 5_000_000
        response = slow.read()
        assert response.complete
        assert response.body == b"".join(b"%c" % (97 + number % 26) * 200_000 for number in range(64))
        assert normal.request("GET", "/").status == 200
        assert slow.request("GET", "/").status == 200
        assert spooled(web.workers[0]) == 0


def test_beyond_response_buffer_the_unit_waits(short_path: Path) -> None:
    with service(short_path, response_buffer=1_000_000) as web, web.connect() as slow, web.connect() as normal:
        worker = web.start()
        slow.send(head("GET", "/blocks?64,200000"))
        while worker.board.read(0).unit is None or spooled(worker) < 1_000_000:
            os.sched_yield()
        normal.send(head("GET", "/"))
        assert len(slow.read().body) == 64 * 200_000
        assert normal.read().status == 200


def test_a_client_that_goes_leaves_nothing_behind(web: Service) -> None:
    with web.connect() as normal:
        for _ in range(5):
            with web.connect() as slow:
                slow.send(head("GET", "/blocks?64,200000"))
                assert slow.sock.recv(1)
                assert normal.request("GET", "/").status == 200
        while web.workers[0].board.read(0).traffic.connections > 1:
            assert normal.request("GET", "/").status == 200
        assert spooled(web.workers[0]) == 0


def spooled(worker: Worker) -> int:
    """Bytes in files without a name that the worker has open."""
    total = 0
    for number in os.listdir(f"/proc/{worker.pid}/fd"):
        path = f"/proc/{worker.pid}/fd/{number}"
        try:
            if os.readlink(path).endswith(" (deleted)") and "scoreboard" not in os.readlink(path):
                total += os.stat(path).st_size
        except FileNotFoundError:
            pass  # closed meanwhile
    return total
