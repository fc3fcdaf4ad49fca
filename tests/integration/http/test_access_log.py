"""The access log of a real worker."""

from __future__ import annotations

import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from procman.core.lifecycle import Failed
from tests.integration.http.harness import PATIENCE, Service, head, service

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.http.conftest import Gate


def lines(path: Path, count: int) -> list[str]:
    """Wait for so many lines: they are written after the answers."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = path.read_text().splitlines() if path.exists() else []
        if len(found) >= count:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.01)


def entries(path: Path, count: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(path, count)]


def logged(short_path: Path, **more: Any) -> Any:
    return service(short_path, access_log=f"json:{short_path / 'log'}", **more)


def test_a_request_is_a_line(short_path: Path) -> None:
    with logged(short_path) as web:
        web.start()
        with web.connect() as client:
            client.request("POST", "/echo?x", b"12345", User_Agent='a"b', Referer="http://r/")
            client.request("HEAD", "/big?1000")
            client.request("GET", "/big?3000000")
            client.request("GET", "/blocks?3,1000")
            client.request("GET", "/nothing?204+No+Content")
            client.request("GET", "/fail")
        found = entries(short_path / "log", 6)
        first = found[0]
        assert {key: first[key] for key in ("method", "target", "status", "sent", "received", "referer")} == {
            "method": "POST",
            "target": "/echo?x",
            "status": 200,
            "sent": 5,
            "received": 5,
            "referer": "http://r/",
        }
        assert (first["remote"], first["host"], first["scheme"]) == ("127.0.0.1", "test", "http")
        assert (first["user_agent"], first["worker"], first["generation"]) == ('a"b', "http.1", 1)
        assert [(one["method"], one["status"], one["sent"]) for one in found[1:]] == [
            ("HEAD", 200, 0),
            ("GET", 200, 3_000_000),
            ("GET", 200, 3000),
            ("GET", 204, 0),
            ("GET", 500, 22),
        ]
        assert all(0 <= one["cpu"] <= 5 and 0 < one["real"] <= 5 for one in found)


def test_text_goes_to_the_standard_output(short_path: Path) -> None:
    with service(short_path, access_log="text") as web:
        worker = web.start()
        web.get("/", User_Agent="me")
        (line,) = lines(worker.log, 1)
        assert '"GET / HTTP/1.1" 200 ' in line
        assert ' "-" "me" worker=http.1@1 wait=' in line


def test_off_is_off(web: Service) -> None:
    web.get("/")
    web.workers[0].retire()
    assert web.workers[0].wait() == 0
    assert web.workers[0].log.read_text() == ""


def test_waiting_behind_another_unit_is_waiting(short_path: Path, gate: Gate) -> None:
    with logged(short_path) as web:
        web.start()
        with web.connect() as busy, web.connect() as waiting:
            waiting.request("GET", "/")
            busy.send(head("GET", f"/hold?{gate.path}"))
            held = gate.held()
            waiting.send(head("GET", "/"))
            time.sleep(0.3)  # the time that passes is what is measured
            held.close()
            busy.read()
            waiting.read()
        first, hold, second = entries(short_path / "log", 3)
        assert first["wait"] < hold["real"]
        assert hold["real"] >= 0.3
        assert second["wait"] >= 0.25


def test_what_is_no_request_is_a_line_too(short_path: Path) -> None:
    with logged(short_path) as web:
        web.start()
        with web.connect() as client:
            client.send(b"nonsense\r\n\r\n")
            assert client.read().status == 400
        (found,) = entries(short_path / "log", 1)
        assert (found["method"], found["status"], found["remote"]) == (None, 400, "127.0.0.1")


def test_what_was_refused_before_its_unit_has_no_figures_of_one(short_path: Path) -> None:
    with logged(short_path, trusted_proxies=("127.0.0.1",)) as web:
        web.start()
        with web.connect() as client:
            client.request("GET", "/blocks?100,100000")
            assert client.request("GET", "/", X_Forwarded_Proto="gopher").status == 400
        _, refused = entries(short_path / "log", 2)
        assert (refused["status"], refused["real"], refused["queries"], refused["target"]) == (400, 0.0, None, "/")


def test_the_client_is_whom_proxies_tell(short_path: Path) -> None:
    with logged(short_path, trusted_proxies=("127.0.0.1",)) as web:
        web.start()
        web.get("/", X_Forwarded_For="6.6.6.6, 1.2.3.4", X_Forwarded_Proto="https", X_Forwarded_Host="shop.example")
        (found,) = entries(short_path / "log", 1)
        assert (found["remote"], found["scheme"], found["host"]) == ("1.2.3.4", "https", "shop.example")


def test_a_client_that_went_away_is_a_499(short_path: Path, gate: Gate) -> None:
    with logged(short_path) as web:
        web.start()
        client = web.connect()
        client.send(head("GET", f"/trickle?{gate.path}"))
        held = gate.held()
        client.sock.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER: a reset
        client.sock.close()
        held.close()
        (found,) = entries(short_path / "log", 1)
        assert found["status"] in (200, 499)  # as it was seen, or not yet


def test_a_response_that_broke_off_is_the_failure(short_path: Path) -> None:
    with logged(short_path) as web:
        web.start()
        with web.connect() as client:
            client.send(head("GET", "/fail-late"))
            assert not client.read().complete
        (found,) = entries(short_path / "log", 1)
        assert found["status"] == 500


def test_lines_of_several_workers_do_not_mix(short_path: Path) -> None:
    with logged(short_path) as web:
        web.start()
        web.start()
        agent = "x" * 3000

        def ask() -> None:
            with web.connect() as client:
                for _ in range(100):
                    client.request("GET", "/", User_Agent=agent)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = entries(short_path / "log", 400)
        assert len(found) == 400
        assert {one["user_agent"] for one in found} == {agent}


def test_a_reader_that_does_not_read_holds_nobody(short_path: Path) -> None:
    fifo = short_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with service(short_path, access_log=f"text:{fifo}") as web:
            worker = web.start()
            with web.connect() as client:
                for _ in range(30):
                    client.send(head("GET", "/", User_Agent="x" * 60_000))
                    assert client.read().status == 200
            worker.retire()
            assert worker.wait() == 0
    finally:
        os.close(reader)


def test_a_log_that_can_not_be_opened_is_told_at_the_start(short_path: Path) -> None:
    with service(short_path, access_log=f"text:{short_path / 'no' / 'log'}") as web:
        worker = web.start(ready=False)
        assert "No such file or directory" in worker.await_message(Failed).traceback


@pytest.mark.parametrize("unix", [False, True])
def test_waiting_is_never_negative(short_path: Path, unix: bool) -> None:
    with logged(short_path, unix=unix) as web:
        web.start()
        for _ in range(20):
            web.get("/")
        found = entries(short_path / "log", 20)
        assert all(0 <= one["wait"] < 5 for one in found)
        assert {one["remote"] for one in found} == ({"unix"} if unix else {"127.0.0.1"})


def test_units_in_threads_have_figures_of_their_own(short_path: Path, gate: Gate) -> None:
    with logged(short_path, threads=2) as web:
        web.start()
        with web.connect() as busy, web.connect() as other:
            busy.send(head("GET", f"/hold?{gate.path}"))
            held = gate.held()
            assert other.request("GET", "/echo").status == 200
            time.sleep(0.2)  # the time that passes is what is measured
            held.close()
            assert busy.read().status == 200
        quick, slow = entries(short_path / "log", 2)
        assert (quick["target"], slow["target"].startswith("/hold")) == ("/echo", True)
        assert quick["real"] < slow["real"]
        assert slow["queries"] is None
