"""Units through a real PgBouncer in transaction mode: no state of a session is relied upon."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import psycopg2
import pytest

from tests.support.pricer import Pricer, with_schema

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed (.ci/run does that)")

CONFIGURATION = """
[databases]
* = host={server} port=5432 user={user}

[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {directory}
auth_type = any
pool_mode = transaction
default_pool_size = 2
max_client_conn = 100
logfile = {directory}/log
"""


@pytest.fixture
def through(postgres_server, database_url, short_path):
    """The URL of a database behind a PgBouncer that has two connections for everybody."""
    with_schema(database_url)
    given = psycopg2.extensions.parse_dsn(database_url)
    short_path.chmod(0o777)  # PgBouncer does not run as root, but as the server's account
    file = short_path / "pgbouncer.ini"
    file.write_text(CONFIGURATION.format(server=given["host"], user=given["user"], directory=short_path))
    process = subprocess.Popen(
        [PGBOUNCER, "-q", str(file)],
        preexec_fn=postgres_server.cluster.owner.enter,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
    url = f"postgresql:///{given['dbname']}?host={short_path}&port=6432&user={given['user']}"
    deadline = time.monotonic() + 30
    while not os.path.exists(short_path / ".s.PGSQL.6432"):
        assert process.poll() is None, (short_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield url
    process.kill()
    process.wait()


@pytest.fixture
def processes(through):
    started = [Pricer(through) for _ in range(4)]
    yield started
    for process in started:
        process.kill()


def test_four_processes_share_two_connections_and_are_never_stale(processes):
    for value in range(1, 30):
        writer = processes[value % 4]
        writer.ask("set", 1, value)
        assert [process.ask("price", 1) for process in processes] == [value] * 4


def test_units_keep_their_snapshots(processes):
    one, two = processes[:2]
    one.ask("begin")
    assert one.ask("in unit: price", 1) == 0
    two.ask("set", 1, 5)
    assert one.ask("in unit: price", 2) == 0
    assert one.ask("in unit: price", 1) == 0
    one.ask("rollback")
    assert one.ask("price", 1) == 5


def test_the_registry_follows(processes):
    assert [process.ask("registry") for process in processes] == [0] * 4
    processes[0].ask("set", 3, 7)
    processes[0].ask("begin")
    processes[0].ask("in unit: reload registry")
    processes[0].ask("commit")
    assert [process.ask("registry") for process in processes] == [7] * 4
