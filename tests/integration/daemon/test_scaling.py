"""Pools that scale themselves, and pools that are scaled, under a real daemon."""

from __future__ import annotations

import socket
import time

import pytest

from tests.support.daemon import Procmand
from tests.support.traffic import Traffic

APPLICATION = """
import time

def application(environ, start_response):
    if environ["PATH_INFO"] == "/work":
        time.sleep(0.2)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]
"""

CONFIGURATION = """
[pools.http]
kind = "http"
app = "app:application"
bind = ["127.0.0.1:0", "unix:web.sock"]
workers = { min = 1, max = 4 }
"""


@pytest.fixture
def daemon(short_path):
    with Procmand(short_path, CONFIGURATION, modules={"app.py": APPLICATION}) as running:
        yield running


def test_more_workers_come_when_there_is_more_to_do(daemon):
    assert daemon.pool("http")["target"] == 1
    with Traffic(daemon.address(), path="/work", clients=6, keep_alive=False) as traffic:
        daemon.wait(lambda: daemon.pool("http")["ready"] == 4, "four workers")
        traffic.wait_for(20)
    assert traffic.lost == []
    steps = [event for event in daemon.ctl("events")["events"] if event["topic"] == "pool.http.scaled"]
    assert steps[0]["from"] == 1
    assert steps[-1]["to"] == 4
    assert "scales from 1 to" in daemon.log


def test_connections_that_wait_at_a_unix_socket_count_too(daemon, short_path):
    clients = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for client in clients:
        client.connect(str(short_path / "web.sock"))
        client.send(b"GET /work HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    daemon.wait(lambda: "connections waited" in daemon.log, "a step")
    assert daemon.pool("http")["target"] > 1
    for client in clients:
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        client.close()


def test_it_can_be_scaled_within_its_bounds_and_no_further(daemon):
    assert daemon.procmanctl("scale", "http", "3").returncode == 0
    assert daemon.pool("http")["ready"] == 3
    refused = daemon.procmanctl("scale", "http", "5")
    assert refused.returncode == 5
    assert "http scales itself between 1 and 4 workers" in refused.stderr
    assert daemon.procmanctl("scale", "http", "0").returncode == 5
    assert daemon.pool("http")["target"] == 3


def test_measuring_costs_next_to_nothing(daemon):
    pid = daemon.process.pid

    def cpu():
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])  # ticks of 10 ms, proc(5)

    before = cpu()
    time.sleep(3)
    assert cpu() - before <= 2
