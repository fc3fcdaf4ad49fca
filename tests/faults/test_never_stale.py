"""Guarantee 4 under fire: no read that began after an acknowledged write returns an older value.

Two daemons with four workers each on one PostgreSQL. Prices only grow; who has been answered a write knows the least
that any later read, of any worker of either daemon, may return. Meanwhile workers are killed at random instants,
PostgreSQL is restarted, and the signals are folded every 10 ms.
"""

from __future__ import annotations

import http.client
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter

import psycopg2
import pytest

from procman.db.connection import connect
from procman.errors import DatabaseUnavailable
from procman.signaling import store
from tests.support.daemon import Procmand
from tests.support.pricer import with_schema
from tests.support.server import FAST, Server

SECONDS = float(os.environ.get("PROCMAN_NEVER_STALE_SECONDS", "60"))
ITEMS = range(1, 6)

APPLICATION = """
import procman

@procman.cached("prices")
def price(item):
    with procman.cursor() as cr:
        cr.execute("SELECT price FROM item WHERE id = %s", [item])
        return cr.fetchone()[0]

def application(environ, start_response):
    item = int(environ["PATH_INFO"][1:])
    if environ["REQUEST_METHOD"] == "PUT":
        with procman.cursor() as cr:
            cr.execute("UPDATE item SET price = price + 1 WHERE id = %s RETURNING price", [item])
            answer = cr.fetchone()[0]
        procman.invalidate("prices")
    else:
        answer = price(item)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(answer).encode()]
"""

CONFIGURATION = """
[pools.http]
kind = "http"
app = "prices:application"
bind = "127.0.0.1:0"
workers = 4
max_restarts = 100000
[pools.http.backoff]
first = "1ms"
most = "10ms"
lived = "10ms"
"""


class Witness:
    """What was acknowledged, and every read that contradicts it."""

    def __init__(self):
        self.acknowledged = dict.fromkeys(ITEMS, 0)
        self.stale = []
        self.answers = Counter()
        self._lock = threading.Lock()

    def wrote(self, item, value):
        with self._lock:
            self.acknowledged[item] = max(self.acknowledged[item], value)


class Client:
    """Keeps a connection to either daemon, and takes another when it is lost with its worker."""

    def __init__(self, addresses):
        self._connections = [http.client.HTTPConnection(address, timeout=30) for address in addresses]

    def ask(self, method, item):
        """The answer, or None when there was none or it was an error."""
        connection = random.choice(self._connections)
        try:
            connection.request(method, f"/{item}")
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return None
        return int(text) if answer.status == 200 else None

    def close(self):
        for connection in self._connections:
            connection.close()


@pytest.fixture
def server():
    """One of its own, because it is restarted; what was committed has to survive that."""
    directory = tempfile.mkdtemp(prefix="pg", dir="/tmp")
    made = Server(directory, {**FAST, "synchronous_commit": "on", "full_page_writes": "on"})
    with_schema(made.url("postgres"))
    yield made
    made.stop(signal.SIGQUIT)
    shutil.rmtree(directory)


@pytest.fixture
def daemons(short_path, server):
    running = []
    try:
        for name in ("a", "b"):
            directory = short_path / name
            directory.mkdir()
            text = f'[database]\nurl = "{server.url("postgres")}"\n{CONFIGURATION}'
            daemon = Procmand(directory, text, modules={"prices.py": APPLICATION})
            daemon.__enter__()
            running.append(daemon)
        yield running
    except BaseException as error:
        for daemon in running:
            daemon.__exit__(type(error), error, None)
        raise
    for daemon in running:
        daemon.__exit__(None, None, None)


def fold(url, ended):
    """Fold every 10 ms."""
    connection = None
    while not ended.wait(0.01):
        try:
            connection = connection or connect(url)
            store.fold(connection)
        except (DatabaseUnavailable, psycopg2.Error):
            if connection is not None:
                connection.close()
            connection = None
    if connection is not None:
        connection.close()


def kill_workers(daemons, ended, killed):
    """kill -9 of a worker, a few times a second."""
    while not ended.wait(random.uniform(0.05, 0.5)):
        workers = random.choice(daemons).pool("http")["workers"]
        ready = [worker["pid"] for worker in workers if worker["state"] == "ready"]
        if ready:
            try:
                os.kill(random.choice(ready), signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed.append(1)


def restart_server(server, ended, restarts):
    """Fast, as an administrator does it, or as in a crash; until the time is over.

    In the main thread: the server ends with the thread that started it (prctl(2), PR_SET_PDEATHSIG).
    """
    end = time.monotonic() + SECONDS
    pause = max(4.0, SECONDS / 8)
    while (left := end - time.monotonic()) > 0 and not ended.wait(min(left, pause)):
        if left > pause:
            server.stop(random.choice([signal.SIGINT, signal.SIGQUIT]))
            server.start()
            restarts.append(1)


def write(client, witness, ended):
    while not ended.is_set():
        item = random.choice(ITEMS)
        value = client.ask("PUT", item)
        if value is not None:
            witness.wrote(item, value)
        witness.answers["written" if value is not None else "not written"] += 1


def read(client, witness, ended):
    while not ended.is_set():
        item = random.choice(ITEMS)
        least = witness.acknowledged[item]
        value = client.ask("GET", item)
        if value is not None and value < least:
            witness.stale.append((item, value, least))
            ended.set()
        witness.answers["read" if value is not None else "not read"] += 1


@pytest.mark.timeout(180 + 2 * SECONDS)
def test_no_read_is_older_than_an_acknowledged_write(daemons, server):
    addresses = [daemon.address() for daemon in daemons]
    witness, ended = Witness(), threading.Event()
    killed, restarts, failures = [], [], []
    clients = [Client(addresses) for _ in range(6)]

    def run(work, *arguments):
        try:
            work(*arguments)
        except BaseException as error:
            failures.append(error)
            ended.set()

    work = [(write, client, witness, ended) for client in clients[:2]]
    work += [(read, client, witness, ended) for client in clients[2:]]
    work += [(fold, server.url("postgres"), ended), (kill_workers, daemons, ended, killed)]
    threads = [threading.Thread(target=run, args=each) for each in work]
    for thread in threads:
        thread.start()
    restart_server(server, ended, restarts)
    ended.set()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    print(dict(witness.answers), f"killed {len(killed)}, restarts {len(restarts)}")
    assert failures == []
    assert witness.stale == []
    assert witness.answers["read"] > 20 * SECONDS
    assert witness.answers["written"] > 5 * SECONDS
    assert len(killed) > SECONDS / 4
    assert restarts
    # Nothing that was acknowledged was lost, and every worker knows.
    for daemon in daemons:
        for item in ITEMS:
            status, text = daemon.request("GET", f"/{item}")
            assert status == 200, text
            assert int(text) >= witness.acknowledged[item]
