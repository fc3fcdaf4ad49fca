"""The embedded server as a worker: real processes, real clusters."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import psycopg2
import pytest

from procman.core.lifecycle import Failed
from procman.db.binaries import find_binaries
from procman.unix.privileges import account_of, become, can_reach, search_capability, service_account
from tests.support.pgworker import PostgresWorker


def query(connection, statement):
    with connection.cursor() as cr:
        cr.execute(statement)
        return cr.fetchall() if cr.description else None


def test_it_is_the_postmaster_itself_and_says_when_it_serves(short_path):
    with PostgresWorker(short_path) as worker:
        worker.wait_until_ready()
        assert os.readlink(f"/proc/{worker.process.pid}/exe").endswith("/postgres")
        assert worker.board.read(0).pid == worker.process.pid
        connection = worker.connect()
        assert query(connection, "SELECT current_database(), current_user") == [("procman", "procman")]
        assert query(connection, "SHOW fsync") == [("on",)]
        assert query(connection, "SHOW listen_addresses") == [("",)]
        assert query(connection, "SELECT upper('é'), 'a' < 'B'") == [("É", False)]
        connection.close()


def test_it_has_a_session_of_its_own_and_default_signals(short_path):
    with PostgresWorker(short_path) as worker:
        worker.wait_until_ready()
        assert os.getsid(worker.process.pid) == worker.process.pid
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{worker.process.pid}/status").read_text().splitlines()
        )
        assert int(status["SigBlk"], 16) & ~(1 << signal.SIGURG - 1) == 0  # PostgreSQL itself blocks URG
        fds = sorted(int(fd) for fd in os.listdir(f"/proc/{worker.process.pid}/fd"))
        targets = [os.readlink(f"/proc/{worker.process.pid}/fd/{fd}") for fd in fds]
        assert not [target for target in targets if "board" in target or "dump" in target]


def test_fast_shutdown_leaves_the_data_and_nothing_else(short_path):
    with PostgresWorker(short_path) as worker:
        worker.wait_until_ready()
        connection = worker.connect()
        query(connection, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (42)")
        worker.process.send_signal(signal.SIGINT)  # with a session still open
        assert worker.process.wait(30) == 0
        connection.close()
        worker.wait_until_left()
        assert os.listdir(worker.sockets) == []
        assert not (worker.data / "postmaster.pid").exists()
    with PostgresWorker(short_path) as worker:
        worker.wait_until_ready()
        connection = worker.connect()
        assert query(connection, "SELECT n FROM kept") == [(42,)]
        connection.close()


def test_a_crash_is_healed_by_the_next_start_at_once(short_path):
    with PostgresWorker(short_path) as worker:
        worker.wait_until_ready()
        busy = worker.connect()
        query(busy, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (42)")
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.wait(30)
        # Started while the backend of the killed one may still be there.
        with PostgresWorker(short_path) as second:
            second.wait_until_ready()
            connection = second.connect()
            assert query(connection, "SELECT n FROM kept") == [(42,)]
            connection.close()
            assert "not properly shut down" in second.log()
        busy.close()


def test_sessions_that_come_too_early_are_not_taken_for_its_failure(short_path):
    with PostgresWorker(short_path) as worker:
        worker.wait_until_ready()
        busy = worker.connect()
        query(busy, "CREATE TABLE kept AS SELECT generate_series(1, 200000) AS n")
        busy.close()
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.wait(30)
        over = threading.Event()
        refused = []

        def hurry(worker):
            while not over.is_set():
                try:
                    worker.connect().close()
                except psycopg2.OperationalError as error:
                    refused.append(str(error))

        with PostgresWorker(short_path) as second:
            threads = [threading.Thread(target=hurry, args=(second,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            try:
                second.wait_until_ready()
            finally:
                over.set()
                for thread in threads:
                    thread.join()
            assert any("starting up" in text or "recovery" in text or "accepting" in text for text in refused)


def test_a_server_that_an_earlier_daemon_left_is_shut_down_first(short_path):
    with PostgresWorker(short_path) as worker:
        worker.wait_until_ready()
        busy = worker.connect()
        query(busy, "CREATE TABLE kept (n int)")
        with PostgresWorker(short_path) as second:
            second.wait_until_ready()
            assert worker.process.wait(10) == 0
            connection = second.connect()
            assert query(connection, "SELECT n FROM kept") == []
            connection.close()
        busy.close()


# The shell is what other threads of a real arbiter are: they hold its files a little longer than its children have it.
ARBITER = """
import os, subprocess, sys, time
from pathlib import Path
from tests.support.pgworker import PostgresWorker
worker = PostgresWorker(Path(sys.argv[1]))
worker.wait_until_ready()
fd = worker.channel.fileno()
hold = f"while [ -d /proc/{os.getpid()} ]; do sleep 0.01; done; sleep 0.1"
subprocess.Popen(["sh", "-c", hold], pass_fds=[fd])
print(worker.process.pid, flush=True)
time.sleep(600)
"""


def test_when_the_arbiter_dies_sessions_may_end_their_unit(short_path):
    arbiter = subprocess.Popen(
        [sys.executable, "-c", ARBITER, str(short_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    postmaster = int(arbiter.stdout.readline())
    pidfd = os.pidfd_open(postmaster)
    session = psycopg2.connect(host=str(short_path / "s"), port=5432, user="procman", dbname="procman")
    with session.cursor() as cr:
        cr.execute("CREATE TABLE kept (n int)")
        arbiter.kill()
        arbiter.wait()
        arbiter.stdout.close()
        _wait_until_refused(short_path)
        cr.execute("INSERT INTO kept VALUES (42)")
    session.commit()
    session.close()
    _wait_for_end(pidfd)
    with PostgresWorker(short_path) as worker:
        worker.wait_until_ready()
        connection = worker.connect()
        assert query(connection, "SELECT n FROM kept") == [(42,)]
        connection.close()


def test_asked_to_end_while_the_arbiter_lives_it_does_not_wait_for_sessions(short_path):
    with PostgresWorker(short_path) as worker:
        worker.wait_until_ready()
        busy = worker.connect()
        worker.process.terminate()
        assert worker.process.wait(30) == 0
        busy.close()


def _wait_until_refused(state):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            psycopg2.connect(host=str(state / "s"), port=5432, user="procman", dbname="procman").close()
        except psycopg2.OperationalError:
            return
        time.sleep(0.01)
    pytest.fail("the postmaster did not hear that the arbiter is dead")


def _wait_for_end(pidfd):
    try:
        assert select.select([pidfd], [], [], 30)[0]
    finally:
        os.close(pidfd)


def test_why_it_can_not_start_is_told_in_its_own_words(short_path):
    with PostgresWorker(short_path) as worker:
        worker.wait_until_ready()
        worker.process.send_signal(signal.SIGINT)
        worker.process.wait(30)
    with (short_path / "postgres" / "postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    with PostgresWorker(short_path) as worker:
        message = worker.next_message()
        assert isinstance(message, Failed)
        assert 'unrecognized configuration parameter "no_such_setting"' in message.traceback
        assert worker.process.wait(30) != 0


def test_data_that_can_not_be_recovered_are_told_at_once(short_path):
    with PostgresWorker(short_path) as worker:
        worker.wait_until_ready()
    for segment in (short_path / "postgres" / "pg_wal").glob("0*"):
        segment.unlink()
    with PostgresWorker(short_path) as worker:
        message = worker.next_message()
        assert isinstance(message, Failed)
        assert "could not locate a valid checkpoint record" in message.traceback
        assert worker.process.wait(30) != 0


def test_why_there_is_no_cluster_is_told_without_the_progress(short_path):
    (short_path / "postgres").mkdir(mode=0o700)
    limited = "ulimit -f 1000; exec " + shlex.join([sys.executable, "-m", "procman.workers.postgres"]) + ' "$0"'
    shell = PostgresWorker(short_path, executable="/bin/sh", program=("-c", limited))
    with shell as worker:
        message = worker.next_message()
        assert isinstance(message, Failed)
        assert "initdb failed" in message.traceback
        assert "creating subdirectories" not in message.traceback
        assert worker.process.wait(30) == 3


def test_a_cluster_of_an_unknown_version_is_refused(short_path):
    data = short_path / "postgres"
    data.mkdir(mode=0o700)
    (data / "PG_VERSION").write_text("9\n")
    with PostgresWorker(short_path) as worker:
        message = worker.next_message()
        assert isinstance(message, Failed)
        assert "the data directory is of PostgreSQL 9" in message.traceback
        assert "procman[embedded]" in message.traceback
        assert worker.process.wait(30) == 3


def test_killed_while_it_makes_the_cluster_it_makes_it_anew(short_path):
    worker = PostgresWorker(short_path)
    deadline = time.monotonic() + 30
    while not list(short_path.glob("postgres.new-*/PG_VERSION")) and time.monotonic() < deadline:
        time.sleep(0.001)
    worker.process.kill()
    worker.close()
    assert not (short_path / "postgres").exists()
    assert len(list(short_path.glob("postgres.new-*"))) == 1
    with PostgresWorker(short_path) as worker:
        worker.wait_until_ready()
        assert list(short_path.glob("postgres.new-*")) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a directory that PostgreSQL's account cannot enter")
def test_below_a_closed_directory_of_root(short_path):
    short_path.chmod(0o700)
    with PostgresWorker(short_path / "closed") as worker:
        worker.wait_until_ready()
        status = Path(f"/proc/{worker.process.pid}/status").read_text()
        uid = int(status.split("Uid:")[1].split()[0])
        assert uid != 0
        effective = int(status.split("CapEff:")[1].split()[0], 16)
        assert effective in (1 << 1, 1 << 2)
        assert (worker.data.stat().st_uid, worker.data.stat().st_mode & 0o777) == (uid, 0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: an open directory and another account")
def test_a_capability_is_kept_if_and_only_if_something_lies_behind_a_closed_directory(short_path):
    short_path.chmod(0o755)
    # The wheel may do so by itself: where the environment of these tests is, is not for them to choose.
    needed = not can_reach(service_account(), find_binaries()["postgres"])
    with PostgresWorker(short_path / "open") as worker:
        worker.wait_until_ready()
        status = Path(f"/proc/{worker.process.pid}/status").read_text()
        assert bool(int(status.split("CapEff:")[1].split()[0], 16)) == needed


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
def test_as_an_ordinary_user(short_path):
    nobody = account_of(65534)
    short_path.chmod(0o755)
    state = short_path / "state"
    state.mkdir()
    os.chown(state, nobody.uid, nobody.gid)
    # The capability only opens the way to the interpreter, which may lie below /root.
    with PostgresWorker(state, enter=partial(become, nobody, (search_capability(),))) as worker:
        worker.wait_until_ready()
        assert worker.data.stat().st_uid == nobody.uid


IMPATIENT = """
import sys
from procman.workers import companion, postgres
companion.PATIENCE = 0.2
postgres.main(int(sys.argv[1]))
"""


def test_a_session_that_stays_does_not_keep_it_alive_for_ever(short_path):
    worker = PostgresWorker(short_path, program=("-c", IMPATIENT))
    worker.wait_until_ready()
    busy = worker.connect()
    worker.channel.close()  # what the companion sees of the death of the arbiter
    assert worker.process.wait(30) == 0
    busy.close()
    os.close(worker.board.fd)


def test_a_pid_that_belongs_to_somebody_else_by_now(short_path):
    with PostgresWorker(short_path) as worker:
        worker.wait_until_ready()
        worker.process.send_signal(signal.SIGINT)
        worker.process.wait(30)
        worker.wait_until_left()
    owner = worker.data.stat()
    stranger = subprocess.Popen(["sleep", "600"], user=owner.st_uid if os.geteuid() == 0 else None)
    try:
        # What a machine that crashed leaves, where pids begin anew: a container.
        (worker.data / "postmaster.pid").write_text(f"{stranger.pid}\n{worker.data}\n1\n5432\n\n\n\nready\n")
        os.chown(worker.data / "postmaster.pid", owner.st_uid, owner.st_gid)
        with PostgresWorker(short_path) as again:
            again.wait_until_ready()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
