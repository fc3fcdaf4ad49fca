"""Requests and responses over real sockets, one worker process."""

from __future__ import annotations

import hashlib
import json
import socket
from typing import TYPE_CHECKING

import pytest

from tests.integration.http.harness import head, service

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.http.conftest import Gate
    from tests.integration.http.harness import Service


def test_a_connection_is_kept_for_the_next_request(web: Service) -> None:
    with web.connect() as client:
        for _ in range(3):
            response = client.request("GET", "/")
            assert (response.status, response.text) == (200, f"hello from {web.workers[0].pid}")
            assert "connection" not in response.headers
            assert response.headers["date"].endswith(" GMT")


def test_close_is_answered_with_close(web: Service) -> None:
    with web.connect() as client:
        assert client.request("GET", "/", Connection="close").headers["connection"] == "close"
        assert client.closed()


def test_http_1_0_closes_unless_asked_to_keep(web: Service) -> None:
    with web.connect() as client:
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert client.read().headers["connection"] == "keep-alive"
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert client.read().headers["connection"] == "close"
        assert client.closed()


def test_pipelined_requests_are_answered_in_order(web: Service) -> None:
    with web.connect() as client:
        client.send(b"".join(head("GET", f"/environ?{number}") for number in range(50)))
        for number in range(50):
            assert json.loads(client.read().text)["QUERY_STRING"] == str(number)


def test_what_came_before_a_mistake_is_answered(web: Service) -> None:
    with web.connect() as client:
        client.send(head("GET", "/") + b"GET / HTTP/1.1\r\n\r\n")
        assert client.read().status == 200
        refusal = client.read()
        assert (refusal.status, refusal.text) == (400, "missing Host header\n")
        assert refusal.headers["connection"] == "close"
        assert client.closed()


@pytest.mark.parametrize("size", [1, 65_536, 256 * 1024, 256 * 1024 + 1, 3_000_000])
def test_bodies_arrive_whole(web: Service, size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    with web.connect() as client:
        response = client.request("POST", "/echo", body)
        assert response.headers["x-hash"] == hashlib.sha256(body).hexdigest()
        assert response.headers["x-length"] == str(size)
        assert client.request("GET", "/").status == 200


def test_a_chunked_body_arrives_whole_and_with_its_length(web: Service) -> None:
    pieces = [b"a" * 100_000, b"b", b"c" * 300_000]
    with web.connect() as client:
        client.send(head("POST", "/echo", Transfer_Encoding="chunked"))
        for piece in pieces:
            client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        client.send(b"0\r\nX-Trailer: ignored\r\n\r\n")
        response = client.read()
    assert response.headers["x-length"] == "400001"
    assert response.headers["x-hash"] == hashlib.sha256(b"".join(pieces)).hexdigest()


def test_too_large_a_body_is_refused_before_it_is_sent(short_path: Path) -> None:
    with service(short_path, max_body=1000) as web:
        web.start()
        with web.connect() as client:
            client.send(head("POST", "/echo", Content_Length="1001"))
            assert client.read().status == 413
            assert client.closed()
        with web.connect() as client:
            assert client.request("POST", "/echo", b"x" * 1000).status == 200


def test_the_answer_to_a_refused_upload_survives_the_upload(short_path: Path) -> None:
    # The client goes on sending: a reset for that would overtake the answer.
    with service(short_path, max_body=1000) as web:
        web.start()
        with web.connect() as client:
            client.send(head("POST", "/echo", Content_Length="200000") + b"x" * 200_000)
            assert client.read().status == 413


def test_continue_is_sent_when_it_is_waited_for(web: Service) -> None:
    with web.connect() as client:
        client.send(head("POST", "/echo", Content_Length="5", Expect="100-continue"))
        assert client.read().status == 100
        client.send(b"hello")
        assert client.read().body == b"hello"


def test_continue_is_not_sent_before_earlier_answers(web: Service) -> None:
    with web.connect() as client:
        client.send(head("GET", "/") + head("POST", "/echo", Content_Length="5", Expect="100-continue"))
        assert client.read().status == 200
        assert client.read().status == 100
        client.send(b"hello")
        assert client.read().body == b"hello"


def test_head_has_the_headers_and_no_body(web: Service) -> None:
    with web.connect() as client:
        assert client.request("HEAD", "/big?1234").headers["content-length"] == "1234"
        assert "content-length" not in client.request("HEAD", "/blocks?3,10").headers
        assert client.request("GET", "/").status == 200


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_no_body_where_the_status_forbids_one(web: Service, status: str) -> None:
    with web.connect() as client:
        response = client.request("GET", "/nothing?" + status.replace(" ", "+"))
        assert str(response.status) == status[:3]
        assert "content-length" not in response.headers
        assert client.request("GET", "/").status == 200


def test_an_iterator_streams_in_chunks(web: Service) -> None:
    with web.connect() as client:
        response = client.request("GET", "/blocks?30,100000")
        assert response.headers["transfer-encoding"] == "chunked"
        assert response.body == b"".join(bytes([97 + n % 26]) * 100_000 for n in range(30))
        assert client.request("GET", "/").status == 200


def test_an_iterator_streams_to_the_end_of_the_connection_in_http_1_0(web: Service) -> None:
    with web.connect() as client:
        client.send(b"GET /blocks?30,100000 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        response = client.read()
        assert response.headers["connection"] == "close"
        assert len(response.body) == 3_000_000


def test_a_block_is_on_its_way_before_the_next_one_is_made(web: Service, gate: Gate) -> None:
    with web.connect() as client:
        client.send(head("GET", f"/trickle?{gate.path}"))
        held = gate.held()
        seen = b""
        while b"first" not in seen:
            seen += client.sock.recv(4096)
        held.close()
        while b"0\r\n\r\n" not in seen:
            seen += client.sock.recv(4096)
        assert b"6\r\nsecond\r\n" in seen


def test_a_large_response_drains_while_others_are_served(web: Service) -> None:
    with web.connect() as slow:
        slow.send(head("GET", "/big?50000000"))
        slow.sock.recv(1, socket.MSG_PEEK)
        for _ in range(10):
            assert web.get("/").status == 200
        response = slow.read()
        assert len(response.body) == 50_000_000
        assert slow.request("GET", "/").status == 200


def test_a_file_is_sent_and_others_are_served_meanwhile(web: Service, short_path: Path) -> None:
    path = short_path / "file"
    path.write_bytes(b"0123456789" * 1_000_000)
    with web.connect() as client:
        client.send(head("GET", f"/file?{path}"))
        client.sock.recv(1, socket.MSG_PEEK)
        assert web.get("/").status == 200
        response = client.read()
        assert response.headers["content-length"] == "10000000"
        assert response.body == path.read_bytes()
        assert client.request("HEAD", f"/file?{path}").headers["content-length"] == "10000000"
        assert client.request("GET", "/").status == 200


def test_a_unix_socket_serves_as_well(short_path: Path) -> None:
    with service(short_path, unix=True) as web:
        web.start()
        seen = json.loads(web.get("/environ").text)
    assert (seen["REMOTE_ADDR"], seen["SERVER_NAME"], seen["SERVER_PORT"]) == ("", "localhost", "80")


def test_the_environ_names_both_ends(web: Service) -> None:
    with web.connect() as client:
        seen = json.loads(client.request("GET", "/environ?a=b", X_Some_Thing="1").text)
        host, port = client.sock.getsockname()
    assert (seen["REMOTE_ADDR"], seen["REMOTE_PORT"]) == (host, str(port))
    assert (seen["SERVER_NAME"], seen["SERVER_PORT"]) == (web.address[0], str(web.address[1]))
    assert (seen["QUERY_STRING"], seen["HTTP_X_SOME_THING"], seen["HTTP_HOST"]) == ("a=b", "1", "test")


def test_an_application_under_wsgiref_validate(short_path: Path) -> None:
    with service(short_path, "applications:validated") as web:
        web.start()
        with web.connect() as client:
            assert client.request("GET", "/a%20b?c").body == b"empty"
            assert client.request("POST", "/", b"data").body == b"data"
            assert client.request("HEAD", "/").status == 200
            assert client.request("OPTIONS", "*").body == b"empty"


# -- failures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["lookup", "exit", "interrupt"])
def test_an_exception_is_a_500_and_its_traceback_is_logged(web: Service, how: str) -> None:
    with web.connect() as client:
        assert client.request("GET", f"/fail?{how}").status == 500
        assert client.request("GET", "/").status == 200
    log = web.workers[0].log.read_text()
    assert "GET /fail failed" in log
    assert "on purpose" in log
    assert web.workers[0].board.read(0).errors == 1


def test_an_exception_in_the_middle_of_a_response_breaks_the_connection(web: Service) -> None:
    with web.connect() as client:
        response = client.request("GET", "/fail-late")
        assert (response.status, response.body, response.complete) == (200, b"so far so good", False)
    assert web.get("/").status == 200


def test_header_injection_is_refused(web: Service) -> None:
    with web.connect() as client:
        response = client.request("GET", "/inject")
        assert response.status == 500
        assert "set-cookie" not in response.headers
    assert "control character in the response header X-Bad" in web.workers[0].log.read_text()


def test_less_than_the_announced_length_closes_and_more_is_cut(web: Service) -> None:
    with web.connect() as client:
        assert client.request("GET", "/long").body == b"too"
        response = client.request("GET", "/short")
        assert (response.body, response.complete) == (b"too short", False)


def test_a_client_that_goes_away_harms_nobody(web: Service) -> None:
    with web.connect() as client:
        client.send(head("GET", "/blocks?100,1000000"))
        client.sock.recv(1)
    with web.connect() as client:
        client.send(head("GET", "/big?50000000"))
        client.sock.recv(1)
    assert web.get("/").status == 200


def test_the_scoreboard_counts_units(web: Service, gate: Gate) -> None:
    board = web.workers[0].board
    with web.connect() as client:
        for _ in range(3):
            client.request("GET", "/")
        client.send(head("GET", f"/hold?{gate.path}"))
        held = gate.held()
        assert board.read(0).unit == "GET /hold"
        held.close()
        assert client.read().body == b"held"
    assert (board.read(0).unit, board.read(0).requests, board.read(0).errors) == (None, 4, 0)
