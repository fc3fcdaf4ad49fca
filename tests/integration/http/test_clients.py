"""Slow, idle and many clients; limits on units."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from procman.core.lifecycle import Recycle, Retiring
from procman.core.reason import Reason
from procman.core.spec import Limits
from tests.integration.http.harness import Client, head, service

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.http.conftest import Gate
    from tests.integration.http.harness import Service, Worker


def test_slow_clients_do_not_hold_the_worker(web: Service) -> None:
    idle = [web.connect() for _ in range(300)]
    slow = [web.connect() for _ in range(100)]
    for client in slow:
        client.send(b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Le")
    with web.connect() as normal:
        for _ in range(50):
            assert normal.request("GET", "/").status == 200
    for number, client in enumerate(slow):
        client.send(b"ngth: 3\r\n\r\n")
        client.send(b"%03d" % number)
    for number, client in enumerate(slow):
        assert client.read().body == b"%03d" % number
    for client in idle + slow:
        client.sock.close()


def test_a_head_that_does_not_come_is_a_408(short_path: Path) -> None:
    with service(short_path, header_timeout=0.2) as web:
        web.start()
        with web.connect() as client, web.connect() as silent:
            client.send(b"GET / HTTP/1.1\r\nHost: te")
            assert client.read().status == 408
            assert client.closed()
            assert silent.closed()


def test_bytes_now_and_then_do_not_prolong_the_time_for_the_head(short_path: Path) -> None:
    with service(short_path, header_timeout=0.5) as web:
        web.start()
        with web.connect() as client:
            client.sock.settimeout(0.02)
            begun = time.monotonic()
            data = b""
            client.send(b"GET / HTTP/1.1\r\n")
            while not data:
                client.send(b"X: y\r\n")
                try:
                    data = client.sock.recv(4096)
                except TimeoutError:
                    assert time.monotonic() - begun < 10
            assert data.startswith(b"HTTP/1.1 408 ")


def test_an_idle_connection_is_closed_after_keepalive(short_path: Path) -> None:
    with service(short_path, keepalive=0.2) as web:
        web.start()
        with web.connect() as client:
            assert client.request("GET", "/").status == 200
            assert client.closed()


def test_keepalive_0_means_one_request_for_each_connection(short_path: Path) -> None:
    with service(short_path, keepalive=0.0) as web:
        web.start()
        with web.connect() as client:
            assert client.request("GET", "/").headers["connection"] == "close"
            assert client.closed()


def test_requests_that_came_during_a_long_unit_are_not_timed_out(short_path: Path, gate: Gate) -> None:
    # More connections than one epoll_wait(2) tells of, and a unit that outlasts all their times.
    with service(short_path, keepalive=2.0, header_timeout=2.0) as web:
        web.start()
        clients = [web.connect() for _ in range(150)]
        for client in clients:
            client.send(head("GET", "/") * 2)
            assert client.read().status == 200
            assert client.read().status == 200
        with web.connect() as busy:
            busy.send(head("GET", f"/hold?{gate.path}"))
            held = gate.held()
            for client in clients:
                client.send(head("GET", "/"))
            until = time.monotonic() + 2.2
            while time.monotonic() < until:  # the time that has to pass is what is tested
                time.sleep(until - time.monotonic())
            held.close()
            assert busy.read().body == b"held"
        for client in clients:
            assert client.read().status == 200
            client.sock.close()


def test_a_client_that_ends_its_sending_direction_still_gets_its_answers(web: Service) -> None:
    with web.connect() as client:
        client.send(head("GET", "/big?3000000") + head("GET", "/"))
        client.sock.shutdown(socket.SHUT_WR)
        assert len(client.read().body) == 3_000_000
        assert client.read().status == 200
        assert client.closed()


def test_workers_share_kept_connections(short_path: Path) -> None:
    # One after the other, each worker being idle: the kernel alone would give all of them to the same one.
    with service(short_path) as web:
        web.start()
        web.start()
        clients, answers = [], []
        for _ in range(40):
            clients.append(web.connect())
            answers.append(clients[-1].request("GET", "/").text)
        assert all(answers.count(f"hello from {worker.pid}") >= 1 for worker in web.workers)
        for client in clients:
            client.sock.close()


# -- limits --------------------------------------------------------------------------------------------------


def test_a_unit_over_its_cpu_limit_is_a_503_and_the_worker_goes(short_path: Path) -> None:
    with service(short_path, limits=Limits(time_cpu=1.0)) as web:
        worker = web.start()
        with web.connect() as client:
            response = client.request("GET", "/burn")
            assert (response.status, response.headers["connection"]) == (503, "close")
        assert worker.await_message(Retiring).reason == Reason.CPU_TIME
        assert worker.wait() == 0
        assert "GET /burn was ended: cpu_time" in worker.log.read_text()


def test_a_worker_serves_on_after_its_number_of_requests_until_it_is_told_to_go(short_path: Path) -> None:
    with service(short_path, limits=Limits(requests=3)) as web:
        worker = web.start()
        with web.connect() as client:
            kept = [client.request("GET", "/").headers.get("connection") for _ in range(5)]
            assert kept == [None] * 5
            assert worker.await_message(Recycle).reason == Reason.MAX_REQUESTS
            worker.retire(Reason.MAX_REQUESTS)
            assert client.request("GET", "/").headers.get("connection") == "close"
        assert worker.wait() == 0


def test_an_idle_worker_asks_to_be_replaced_when_it_is_old_and_sleeps_on(short_path: Path) -> None:
    with service(short_path, limits=Limits(age=0.3)) as web:
        worker = web.start()
        assert worker.await_message(Recycle).reason == Reason.MAX_AGE
        assert_sleeps(worker)
        worker.retire()
        assert worker.wait() == 0


def test_an_idle_worker_sleeps(web: Service) -> None:
    with web.connect() as client:
        client.request("GET", "/")
    # The end of the connection is the last thing it had to do; then it must not run at all.
    assert_sleeps(web.workers[0])


def assert_sleeps(worker: Worker) -> None:
    def switches() -> int:
        with open(f"/proc/{worker.pid}/status") as status:
            return sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)

    before = -1
    while before != switches():
        before = switches()
        time.sleep(0.1)
    time.sleep(0.5)
    assert switches() == before


@pytest.mark.parametrize("size", [70_000, 20_000])
def test_too_large_a_head_is_a_431(web: Service, size: int) -> None:
    with Client(web.address) as client:
        client.send(head("GET", "/", X_Big="x" * size, X_More="y" * size, X_Most="z" * size, X_End="z" * 10_000))
        assert client.read().status == 431
