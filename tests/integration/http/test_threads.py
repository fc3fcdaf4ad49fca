"""Several units at a time: ``threads``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg2

from procman.core.lifecycle import Recycle, Retiring
from procman.core.reason import Reason
from procman.core.spec import Limits
from tests.integration.http.harness import head, service

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.http.conftest import Gate


def test_units_wait_beside_each_other(short_path: Path, gate: Gate) -> None:
    with service(short_path, threads=3) as web:
        worker = web.start()
        first, second, third = clients = [web.connect() for _ in range(3)]
        held = []
        for client in clients:
            client.send(head("GET", f"/hold?{gate.path}"))
            held.append(gate.held())
        oldest = worker.board.read(0)
        with web.connect() as fourth:
            fourth.send(head("GET", "/"))  # waits for a thread
            held.pop(1).close()
            assert second.read().body == b"held"
            assert fourth.read().status == 200
        assert worker.board.read(0).unit_started == oldest.unit_started
        for one in held:
            one.close()
        assert [client.read().body for client in (first, third)] == [b"held", b"held"]
        for client in clients:
            client.sock.close()
        worker.retire()
        assert worker.wait() == 0


def test_the_oldest_unit_is_shown(short_path: Path, gate: Gate) -> None:
    with service(short_path, threads=3) as web, web.connect() as first, web.connect() as second:
        worker = web.start()
        first.send(head("GET", f"/hold?{gate.path}"))
        one = gate.held()
        second.send(head("GET", f"/hold?{gate.path}", X="2"))
        other = gate.held()
        begun = worker.board.read(0).unit_started
        one.close()
        assert first.read().body == b"held"
        later = worker.board.read(0)
        assert (later.unit, later.unit_started > begun) == ("GET /hold", True)
        other.close()
        assert second.read().body == b"held"
        assert worker.board.read(0).unit is None
        assert worker.board.read(0).requests == 2


def test_requests_of_one_connection_are_answered_in_order(short_path: Path, gate: Gate) -> None:
    with service(short_path, threads=3) as web, web.connect() as client:
        web.start()
        client.send(
            head("GET", f"/hold?{gate.path}") + head("GET", "/big?3000000") + head("POST", "/echo", b"x") + b"x"
        )
        gate.held().close()
        assert client.read().body == b"held"
        assert len(client.read().body) == 3_000_000
        assert client.read().body == b"x"


def test_only_the_unit_that_is_over_its_cpu_limit_is_ended(short_path: Path, gate: Gate) -> None:
    with service(short_path, threads=2, limits=Limits(time_cpu=0.5)) as web:
        worker = web.start()
        with web.connect() as other, web.connect() as burning:
            other.send(head("GET", f"/hold?{gate.path}"))
            held = gate.held()
            response = burning.request("GET", "/burn")
            assert (response.status, response.headers["connection"]) == (503, "close")
            assert worker.await_message(Retiring).reason == Reason.CPU_TIME
            held.close()
            assert other.read().body == b"held"
        assert worker.wait() == 0
        assert "GET /burn was ended: cpu_time" in worker.log.read_text()


def test_a_unit_over_its_real_time_is_ended_without_help(short_path: Path) -> None:
    with service(short_path, threads=2, limits=Limits(time_real=0.5)) as web:
        worker = web.start()
        with web.connect() as client:
            assert client.request("GET", "/burn").status == 503
        assert worker.await_message(Retiring).reason == Reason.REAL_TIME
        assert worker.wait() == 0


def test_the_number_of_requests_is_a_limit_too(short_path: Path) -> None:
    with service(short_path, threads=2, limits=Limits(requests=5, requests_jitter=0)) as web, web.connect() as client:
        worker = web.start()
        for _ in range(5):
            assert client.request("GET", "/").status == 200
        assert worker.await_message(Recycle).reason == Reason.MAX_REQUESTS


def test_transactions_are_each_thread_s_own(short_path: Path, database_url: str) -> None:
    connection = psycopg2.connect(database_url)
    with connection, connection.cursor() as cr:
        cr.execute("CREATE TABLE written (value text)")
    connection.close()
    with service(short_path, "database_application:application", threads=4) as web:
        web.start(database=database_url)
        clients = [web.connect() for _ in range(12)]
        for number, client in enumerate(clients):
            client.send(head("GET", f"/{'raise' if number % 3 else 'write'}?v{number}"))
        statuses = [client.read().status for client in clients]
        assert statuses == [500 if number % 3 else 200 for number in range(12)]
        counts = [clients[0].request("GET", f"/count?v{number}").text for number in range(12)]
        assert counts == ["0" if number % 3 else "1" for number in range(12)]
        for client in clients:
            client.sock.close()
