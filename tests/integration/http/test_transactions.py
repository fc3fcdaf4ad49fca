"""The transaction of a unit, and what the client may conclude from the answer."""

from __future__ import annotations

import os
import select
import signal
import time
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg2
import pytest

from procman.core.spec import Limits
from tests.integration.http.harness import Service, service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TABLES = """
CREATE TABLE written (value text);
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE parent_of_nobody (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
"""


@pytest.fixture
def web(short_path: Path, database_url: str) -> Iterator[Service]:
    connection = psycopg2.connect(database_url)
    with connection, connection.cursor() as cr:
        cr.execute(TABLES)
    connection.close()
    with service(short_path, "database_application:application", limits=Limits(time_cpu=1.0)) as made:
        made.start(database=database_url)
        made.start(database=database_url)
        yield made


def count(web: Service, value: str) -> list[str]:
    """What either worker sees."""
    answers: dict[str, str] = {}
    with web.connect() as first, web.connect() as second:
        answers["first"] = first.request("GET", f"/count?{value}").text
        answers["second"] = second.request("GET", f"/count?{value}").text
    return list(answers.values())


def test_an_answered_write_is_visible_to_everybody(web: Service) -> None:
    for number in range(20):
        assert web.get(f"/write?v{number}").body == b"written"
        assert count(web, f"v{number}") == ["1", "1"]


@pytest.mark.parametrize(
    ("path", "status", "written"),
    [
        ("/deny", 404, "1"),
        ("/refuse", 500, "0"),
        ("/raise", 500, "0"),
        ("/conflict", 503, "0"),
        ("/deferred", 500, "0"),
        ("/unavailable", 503, "0"),
        ("/large", 200, "1"),
    ],
)
def test_the_unit_commits_below_500_and_only_then(web: Service, path: str, status: int, written: str) -> None:
    with web.connect() as client:
        response = client.request("GET", f"{path}?x")
        assert response.status == status
        assert ("retry-after" in response.headers) == (status == 503)
        # The same worker goes on with a clean transaction.
        assert client.request("GET", "/count?x").text == written


def test_a_unit_ended_by_its_limit_is_rolled_back(web: Service) -> None:
    with web.connect() as client:
        assert client.request("GET", "/burn?x").status == 503
        assert client.closed()
    assert count(web, "x") == ["0", "0"]


def test_a_unit_that_uses_no_database_needs_none(short_path: Path) -> None:
    with service(short_path, "database_application:application") as web:
        web.start(database=f"postgresql:///x?host={short_path}")
        assert web.get("/free").body == b"free"
        response = web.get("/count?x")
        assert (response.status, response.headers["retry-after"]) == (503, "1")


def test_the_scoreboard_tells_of_queries(web: Service) -> None:
    with web.connect() as client:
        client.request("GET", "/write?x")
    assert sorted(worker.board.read(0).queries for worker in web.workers) == [0, 1]


# -- jobs ----------------------------------------------------------------------------------------------------


def test_jobs_are_run_for_this_machine_only(web: Service) -> None:
    with web.connect() as client:
        response = client.request("GET", "/queue_job/runjob?db=x&job_uuid=y", X_Forwarded_For="192.0.2.1")
        assert (response.status, response.text) == (403, "jobs are run for this machine only\n")
        assert client.request("GET", "/queue_job/runjob?db=x").status == 400


def test_without_a_database_the_path_of_jobs_is_the_application_s(short_path: Path) -> None:
    with service(short_path) as web:
        web.start()
        assert web.get("/queue_job/runjob?db=x&job_uuid=y").text.startswith("hello from")


def test_a_job_keeps_nobody_waiting_who_has_kept_a_connection(short_path: Path, database_url: str) -> None:
    """Whoever has asked nothing for a while is hung up on, and finds another worker; nobody else is, unannounced."""
    job = f"/queue_job/runjob?db={psycopg2.extensions.parse_dsn(database_url)['dbname']}&job_uuid={uuid4()}"
    with service(short_path, "database_application:application") as web:
        web.start(database=database_url)
        with web.connect() as kept, web.connect() as fresh, web.connect() as runner:
            for _ in range(5):  # busy
                assert kept.request("GET", "/count?x").status in (200, 500)
                assert runner.request("GET", job).status == 200
            asked = time.monotonic()
            while not select.select([kept.sock], [], [], 0.05)[0]:
                assert runner.request("GET", job).status == 200
            assert kept.sock.recv(1) == b""
            assert time.monotonic() - asked > 1
            assert fresh.request("GET", "/count?x").status in (200, 500)
            assert runner.request("GET", job).status == 200


def test_whoever_has_asked_a_worker_is_answered_before_it_begins_a_job(short_path: Path, database_url: str) -> None:
    job = f"/queue_job/runjob?db={psycopg2.extensions.parse_dsn(database_url)['dbname']}&job_uuid={uuid4()}"
    with service(short_path, "database_application:application") as web:
        worker = web.start(database=database_url)
        with web.connect() as kept, web.connect() as silent, web.connect() as runner:
            kept.request("GET", "/count?x")
            runner.request("GET", job)  # so the other two have been accepted
            os.kill(worker.pid, signal.SIGSTOP)
            clients = [runner, kept, silent]  # in this order, the worker is told
            for client in clients:
                path = job if client is runner else "/count?x"
                client.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            os.kill(worker.pid, signal.SIGCONT)
            assert select.select([runner.sock], [], [], 20)[0]
            answered = select.select([client.sock for client in clients], [], [], 0)[0]
            assert answered == [client.sock for client in clients]
