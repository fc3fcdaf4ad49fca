"""An http pool that speaks TLS, under a real daemon: certificates come and go with reloads."""

from __future__ import annotations

import http.client
import os
import signal
import threading

import pytest

from tests.support.authority import Authority
from tests.support.daemon import PATIENCE, Procmand

APPLICATION = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["wsgi.url_scheme"].encode()]
"""

CONFIGURATION = """
[pools.http]
kind = "http"
app = "app:application"
bind = "127.0.0.1:0"
workers = 2
keepalive = 1
certfile = "cert.pem"
keyfile = "key.pem"
"""


class Asking(threading.Thread):
    """A client that asks over and over again, on kept connections, and keeps the serial numbers it was shown."""

    def __init__(self, address, context):
        super().__init__(daemon=True)
        self.host, _, port = address.rpartition(":")
        self.port = int(port)
        self.context = context
        self.serials = []
        self.lost = []
        self.answered = 0
        self.over = threading.Event()

    def run(self):
        connection = None
        while not self.over.is_set():
            try:
                if connection is None:
                    connection = http.client.HTTPSConnection(
                        self.host, self.port, context=self.context, timeout=PATIENCE
                    )
                    connection.connect()
                    self.serials.append(connection.sock.getpeercert()["serialNumber"])
                connection.request("GET", "/")
                response = connection.getresponse()
                assert response.read() == b"https"
                self.answered += 1
                if response.will_close:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.lost.append(repr(error))
                return
        if connection is not None:
            connection.close()


@pytest.fixture
def authority(short_path):
    return Authority(short_path)


@pytest.fixture
def daemon(short_path, authority):
    with Procmand(short_path, CONFIGURATION, modules={"app.py": APPLICATION}) as running:
        yield running


def test_a_reload_serves_the_new_certificate_and_loses_no_request(daemon, authority):
    asking = Asking(daemon.address(), authority.client)
    asking.start()
    try:
        for count in (1, 2, 3):
            daemon.wait(lambda count=count: len(set(asking.serials)) >= count, "a new certificate")
            authority.issue()
            run = daemon.procmanctl("reload", "http")
            assert run.returncode == 0, run.stderr
        daemon.wait(lambda: len(set(asking.serials)) == 4, "the last certificate")
    finally:
        asking.over.set()
        asking.join()
    assert asking.lost == []
    assert asking.answered > 4


def test_a_wrong_certificate_rejects_the_reload(daemon, authority):
    good = authority.key.read_bytes()
    authority.key.write_text("nothing")
    run = daemon.procmanctl("reload", "http")
    assert run.returncode == 1
    assert f"there is no private key in {authority.key}" in run.stderr
    asking = Asking(daemon.address(), authority.client)
    asking.start()
    daemon.wait(lambda: asking.answered, "an answer")
    asking.over.set()
    asking.join()
    assert asking.lost == []
    authority.key.write_bytes(good)
    assert daemon.procmanctl("reload", "http").returncode == 0


def test_the_key_is_read_by_the_template_alone(daemon, authority):
    # Before it becomes the pool's user, who may not read it: its workers have what it has read.
    authority.key.unlink()
    for worker in daemon.pool("http")["workers"]:
        os.kill(worker["pid"], signal.SIGKILL)
        daemon.wait_replaced(worker["name"], worker["pid"])
    asking = Asking(daemon.address(), authority.client)
    asking.start()
    daemon.wait(lambda: asking.answered, "an answer")
    asking.over.set()
    asking.join()
    assert asking.lost == []
