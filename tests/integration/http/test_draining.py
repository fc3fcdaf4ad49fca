"""A worker that is told to go: no request that reached the kernel is lost."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from procman.core.lifecycle import Ready, Retiring
from procman.core.reason import Reason
from tests.integration.http.harness import head, service

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.http.conftest import Gate
    from tests.integration.http.harness import Service


def test_an_idle_worker_without_connections_goes_at_once(web: Service) -> None:
    web.workers[0].retire()
    assert web.workers[0].wait() == 0


def test_a_kept_connection_gets_one_more_answer_and_is_told_to_close(web: Service) -> None:
    with web.connect() as client:
        client.request("GET", "/")
        web.workers[0].retire()
        response = client.request("GET", "/")
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert client.closed()
    assert web.workers[0].wait() == 0


def test_a_kept_connection_that_asks_nothing_is_closed_after_keepalive(short_path: Path) -> None:
    with service(short_path, keepalive=0.3) as web:
        worker = web.start()
        with web.connect() as client:
            client.request("GET", "/")
            worker.retire()
            assert client.closed()
        assert worker.wait() == 0


def test_a_request_that_is_arriving_is_finished(web: Service) -> None:
    with web.connect() as client:
        client.send(head("POST", "/echo", Content_Length="5") + b"he")
        web.get("/")  # so that the worker has seen the first part
        web.workers[0].retire()
        client.send(b"llo")
        response = client.read()
        assert (response.body, response.headers["connection"]) == (b"hello", "close")
    assert web.workers[0].wait() == 0


def test_requests_behind_the_one_that_runs_are_answered(web: Service, gate: Gate) -> None:
    with web.connect() as client:
        client.send(head("GET", f"/hold?{gate.path}") + head("GET", "/") * 3)
        held = gate.held()
        worker = web.workers[0]
        os.kill(worker.pid, signal.SIGTERM)
        assert worker.await_message(Retiring).reason == Reason.KILLED_BY_USER
        held.close()
        answers = [client.read() for _ in range(4)]
        assert [answer.headers.get("connection") for answer in answers] == [None, None, None, "close"]
    assert worker.wait() == 0


def test_a_response_that_is_being_read_is_finished(web: Service) -> None:
    with web.connect() as client:
        client.send(head("GET", "/big?50000000"))
        client.sock.recv(100, 2)  # MSG_PEEK: it has begun
        web.workers[0].retire()
        assert len(client.read().body) == 50_000_000
    assert web.workers[0].wait() == 0


def test_connections_that_wait_in_the_queue_are_left_for_others(web: Service, gate: Gate) -> None:
    first = web.workers[0]
    with web.connect() as busy:
        busy.send(head("GET", f"/hold?{gate.path}"))
        held = gate.held()
        waiting = [web.connect() for _ in range(20)]
        for client in waiting:
            client.send(head("GET", "/"))
        second = web.start()
        held.close()
        first.retire()
        assert busy.read().body == b"held"
        assert {client.read().text for client in waiting} <= {f"hello from {w.pid}" for w in (first, second)}
        for client in waiting:
            client.sock.close()
    assert first.wait() == 0


def test_the_end_of_the_arbiter_ends_the_worker_after_its_unit(web: Service, gate: Gate) -> None:
    worker = web.workers[0]
    with web.connect() as busy, web.connect() as idle:
        idle.request("GET", "/")
        busy.send(head("GET", f"/hold?{gate.path}"))
        held = gate.held()
        worker.hang_up()
        held.close()
        assert busy.read().body == b"held"
        assert idle.closed()
        assert worker.wait() == 0


@pytest.mark.parametrize("unix", [False, True])
def test_no_request_is_lost_while_workers_are_replaced(short_path: Path, unix: bool) -> None:
    """New and kept connections, as fast as they go, over eight replacements of both workers."""
    lost: list[str] = []
    done = [0, 0, 0, 0]
    stop = threading.Event()
    with service(short_path, unix=unix, keepalive=2.0) as web:

        def ask(number: int, keep: bool) -> None:
            client = web.connect()
            while not stop.is_set():
                try:
                    response = client.request("GET", "/")
                except OSError as error:
                    lost.append(repr(error))
                    return
                except EOFError as error:
                    lost.append(repr(error))
                    return
                done[number] += 1
                if not keep or "connection" in response.headers:
                    client.sock.close()
                    client = web.connect()
            client.sock.close()

        web.start()
        web.start()
        threads = [threading.Thread(target=ask, args=(number, number % 2 == 0)) for number in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(8):
                replacement = web.start(ready=False)
                replacement.await_message(Ready)
                leaving = next(worker for worker in web.workers if worker.process.poll() is None)
                leaving.retire()
                assert leaving.wait() == 0
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert lost == []
    assert min(done) > 0


def test_a_killed_worker_leaves_the_socket_to_the_others(short_path: Path) -> None:
    with service(short_path) as web:
        first, second = web.start(), web.start()
        os.kill(first.pid, signal.SIGKILL)
        first.process.wait()
        assert [web.get("/").text for _ in range(5)] == [f"hello from {second.pid}"] * 5
