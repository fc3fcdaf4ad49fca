"""Events reach those who subscribe, in order and numbered, and nobody who does not read holds up the daemon."""

from __future__ import annotations

import json
import os
import stat
from contextlib import closing

import pytest
import zmq

from procman.control.publisher import Publisher
from procman.errors import AddressError


@pytest.fixture
def publisher(endpoint):
    with closing(Publisher([endpoint], clock=lambda: 1795250000.5)) as publisher:
        yield publisher


@pytest.fixture
def subscribe(endpoint):
    with zmq.Context() as context:
        sockets = []

        def make(topic: str, **options):
            sock = context.socket(zmq.SUB)
            sockets.append(sock)
            sock.linger = 0
            for name, value in options.items():
                sock.setsockopt(getattr(zmq, name), value)
            sock.connect(endpoint)
            sock.subscribe(topic)
            return sock

        yield make
        for sock in sockets:
            sock.close()


def settle(publisher, *subscribers):
    """Publish until every subscription has arrived; what it took has been read."""
    waiting = list(subscribers)
    while waiting:
        publisher.publish("probe", pool="http")
        waiting = [sock for sock in waiting if not sock.poll(10)]
    for sock in subscribers:
        while sock.poll(20):
            sock.recv_multipart()


def test_an_event(publisher, subscribe):
    sock = subscribe("pool.http.")
    settle(publisher, sock)
    publisher.publish("gone", pool="cron", slot="cron.1")
    publisher.publish("gone", pool="http", slot="http.1", gen=3, pid=4711, reason="max_requests", lived=2.5)
    topic, data = sock.recv_multipart()
    event = json.loads(data)
    assert topic == b"pool.http.gone"
    assert event.pop("seq") > 1
    assert event == {
        "v": 1,
        "ts": 1795250000.5,
        "pool": "http",
        "slot": "http.1",
        "gen": 3,
        "pid": 4711,
        "reason": "max_requests",
        "lived": 2.5,
    }


def test_the_sequence_has_no_gaps(publisher, subscribe):
    sock = subscribe("")
    settle(publisher, sock)
    for n in range(200):
        publisher.publish("tick", pool=None if n % 2 else "http")
    numbers = [json.loads(sock.recv_multipart()[1])["seq"] for _ in range(200)]
    assert numbers == list(range(numbers[0], numbers[0] + 200))


def test_an_event_of_the_daemon_itself(publisher, subscribe):
    sock = subscribe("arbiter.")
    while not sock.poll(10):
        publisher.publish("ready")
    assert sock.recv_multipart()[0] == b"arbiter.ready"


def test_more_can_not_replace_what_every_event_has(publisher, subscribe):
    sock = subscribe("pool.http.gone")
    while not sock.poll(10):
        publisher.publish("gone", pool="http", v=99, seq=-1, odd=object)
    event = json.loads(sock.recv_multipart()[1])
    assert event["v"] == 1
    assert event["seq"] > 0
    assert event["odd"] == "<class 'object'>"


def test_a_subscriber_that_does_not_read_holds_up_nobody(publisher, subscribe):
    deaf = subscribe("pool.", RCVHWM=1)
    settle(publisher, deaf)
    reader = subscribe("pool.")
    settle(publisher, reader)
    for _ in range(20_000):
        publisher.publish("tick", pool="http", text="x" * 200)
    assert reader.poll(10_000)


def test_the_socket_is_private_and_goes_away(endpoint):
    publisher = Publisher([endpoint])
    path = endpoint.removeprefix("ipc://")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with pytest.raises(AddressError, match="listens there already"):
        Publisher([endpoint])
    publisher.close()
    assert not os.path.exists(path)


def test_events_cannot_be_turned_into_exceptions(publisher):
    publisher.publish("x\udcff", pool="h\udcff", loop=float("inf"))
    circle: dict[str, object] = {}
    circle["self"] = circle
    publisher.publish("circle", pool="http", circle=circle)
