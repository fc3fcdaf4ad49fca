"""The runner as a process, with workers that really run jobs, and what happens when any of them dies."""

from __future__ import annotations

import socket
import time

import pytest

from procman import signaling
from procman.core.spec import TcpAddress, UnixAddress
from tests.support import jobs as functions
from tests.support.jobrunner import JobRunner, Workers


@pytest.fixture
def workers(jobs_url, short_path):
    """None yet: `start` some."""
    workers = Workers(jobs_url, short_path / "http.sock")
    yield workers
    workers.close()


@pytest.fixture
def start_runner(jobs_url, workers, short_path):
    """Starts a runner for these workers and waits until it is ready."""
    started = []

    def start(*addresses, **options):
        runner = JobRunner(short_path, jobs_url, *(addresses or (workers.address,)), **options)
        started.append(runner)
        runner.wait_until_ready()
        return runner

    yield start
    for runner in started:
        runner.close()


def until(condition, *, seconds=30, what=lambda: ""):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.01)


def _beginnings(tmp_path, value="waited"):
    return list(tmp_path.glob(f"*.{value}.*"))


def test_two_hundred_jobs(workers, start_runner, truth, database):
    workers.start(2)
    runner = start_runner()
    with signaling.unit(database):
        for number in range(200):
            functions.note.delay(str(number))
    until(lambda: truth.states() == {"done": 200}, what=runner.log)
    assert sorted(truth.effects(), key=int) == [str(number) for number in range(200)]
    assert truth("SELECT count(*) AS n FROM procman.job WHERE retry <> 1")[0]["n"] == 0


def test_what_waited_before_it_started(workers, start_runner, truth):
    functions.note.delay_many((str(number),) for number in range(1200))
    workers.start(2)
    runner = start_runner()
    until(lambda: truth.states() == {"done": 1200}, seconds=60, what=runner.log)


def test_it_is_started_within_moments_of_the_commit(workers, start_runner, truth):
    workers.start(1)
    runner = start_runner()
    functions.note.delay("warm")
    until(lambda: truth.states() == {"done": 1}, what=runner.log)
    uuids = []
    for number in range(10):
        uuids.append(functions.note.delay(str(number)))
        until(lambda: set(truth.states()) == {"done"}, what=runner.log)
    rows = [truth.job(uuid) for uuid in uuids]
    waits = sorted((row["date_started"] - row["date_created"]).total_seconds() for row in rows)
    assert waits[len(waits) // 2] < 1.0  # a second is what the next poll would take at best


def test_over_tcp_and_after_an_address_that_refuses(jobs_url, start_runner, truth, short_path):
    workers = Workers(jobs_url)
    try:
        workers.start(1)
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            refusing = TcpAddress(host="127.0.0.1", port=nobody.getsockname()[1])
            runner = start_runner(UnixAddress(path=str(short_path / "nobody")), refusing, workers.address)
            functions.note.delay("a")
            until(lambda: truth.states() == {"done": 1}, what=runner.log)
    finally:
        workers.close()


def test_by_url(jobs_url, start_runner, truth):
    workers = Workers(jobs_url)
    try:
        workers.start(1)
        runner = start_runner(target_url=f"http://localhost:{workers.address.port}/")
        functions.note.delay("a")
        until(lambda: truth.states() == {"done": 1}, what=runner.log)
    finally:
        workers.close()


def test_capacity_and_priority(workers, start_runner, truth, tmp_path):
    go = tmp_path / "go"
    workers.start(3)
    runner = start_runner(channels="root:2")
    functions.wait_for.delay_many((str(go), f"w{number}") for number in range(4))
    until(lambda: len(_beginnings(tmp_path, "w0") + _beginnings(tmp_path, "w1")) == 2, what=runner.log)
    urgent = functions.note.options(priority=1).delay("urgent")
    assert truth.states() == {"started": 2, "pending": 3}
    go.touch()
    until(lambda: truth.states() == {"done": 5}, what=runner.log)
    # Not when it started: a worker may be slow to begin. Both slots may have become free together.
    rows = truth("SELECT uuid::text FROM procman.job ORDER BY date_enqueued")
    assert urgent in [row["uuid"] for row in rows[2:4]]


def test_a_job_with_a_time(workers, start_runner, truth):
    workers.start(1)
    runner = start_runner()
    uuid = functions.note.options(eta=0.7).delay("later")
    functions.note.delay("now")
    until(lambda: truth.states() == {"done": 2}, what=runner.log)
    row = truth.job(uuid)
    assert 0 <= (row["date_started"] - row["eta"]).total_seconds() < 5
    assert truth.effects() == ["now", "later"]


def test_another_try_comes_by_itself(workers, start_runner, truth):
    workers.start(1)
    runner = start_runner()
    uuid = functions.again.delay(seconds=0.2)
    until(lambda: truth.states() == {"failed": 1}, what=runner.log)
    assert truth.job(uuid)["retry"] == 2


def test_cancelled_while_it_waited(workers, start_runner, truth):
    runner = start_runner(channels="root:1")
    first = functions.note.delay("first")  # nobody takes it yet
    until(lambda: truth.job(first)["state"] == "enqueued", what=runner.log)
    second = functions.note.delay("second")
    third = functions.note.delay("third")
    truth("UPDATE procman.job SET state = 'cancelled' WHERE uuid = %s", second)
    workers.start(1)
    until(lambda: truth.job(third)["state"] == "done", what=runner.log)
    assert truth.effects() == ["first", "third"]
    truth("UPDATE procman.job SET state = 'pending' WHERE uuid = %s", second)  # and asked for again
    until(lambda: truth.job(second)["state"] == "done", what=runner.log)


def test_cancelled_while_it_was_on_its_way(workers, start_runner, truth):
    runner = start_runner()
    uuid = functions.note.delay("a")
    until(lambda: truth.job(uuid)["state"] == "enqueued", what=runner.log)
    truth("UPDATE procman.job SET state = 'cancelled' WHERE uuid = %s", uuid)
    workers.start(1)
    other = functions.note.delay("b")
    until(lambda: truth.job(other)["state"] == "done", what=runner.log)
    assert truth.effects() == ["b"]


def test_a_sequential_channel_waits_for_what_failed(workers, start_runner, truth):
    workers.start(2)
    failed = functions.fail.options(channel="strict").delay("x")
    runner = start_runner(channels="root:4,strict:1:sequential")
    until(lambda: truth.states() == {"failed": 1}, what=runner.log)
    behind = functions.note.options(channel="strict").delay("behind")
    beside = functions.note.delay("beside")
    until(lambda: truth.job(beside)["state"] == "done", what=runner.log)
    assert truth.job(behind)["state"] == "pending"
    runner.kill()
    runner = start_runner(channels="root:4,strict:1:sequential")  # it reads what failed
    again = functions.note.delay("again")
    until(lambda: truth.job(again)["state"] == "done", what=runner.log)
    assert truth.job(behind)["state"] == "pending"
    truth("UPDATE procman.job SET state = 'cancelled' WHERE uuid = %s", failed)
    until(lambda: truth.job(behind)["state"] == "done", what=runner.log)


# -- deaths ------------------------------------------------------------------------------------------------


def test_the_worker_is_killed(workers, start_runner, truth, tmp_path):
    go = tmp_path / "go"
    workers.start(1)
    runner = start_runner()
    uuid = functions.wait_for.delay(str(go))
    until(lambda: _beginnings(tmp_path), what=runner.log)
    died = time.monotonic()
    workers.kill(truth.job(uuid)["worker_pid"])
    until(lambda: truth.job(uuid)["state"] != "started", what=runner.log)
    assert time.monotonic() - died < 2.0  # at once, not at some next look
    go.touch()
    workers.start(1)
    until(lambda: truth.job(uuid)["state"] == "done", what=runner.log)
    assert truth.job(uuid)["retry"] == 2
    assert truth.effects() == ["waited"]
    assert "found dead" in runner.log()


def test_the_worker_is_killed_in_the_middle_of_a_statement(workers, start_runner, truth, tmp_path):
    """The server would go on with it, and keep the row locked, if it did not look after its client."""
    began = tmp_path / "began"
    workers.start(1)
    runner = start_runner()
    uuid = functions.sleep_in_the_database.delay(str(began))
    asleep = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%%pg_sleep(60)%%' AND pid <> pg_backend_pid()"
    until(lambda: began.exists() and truth(asleep), what=runner.log)
    workers.kill(truth.job(uuid)["worker_pid"])
    workers.start(1)
    until(lambda: truth.job(uuid)["state"] == "done", what=runner.log)
    assert truth(asleep) == []
    assert truth.effects() == ["slept"]


def test_a_job_that_kills_its_workers_fails_in_the_end(workers, start_runner, truth, tmp_path):
    poison = tmp_path / "poison"
    poison.touch()
    workers.start(4)
    runner = start_runner()
    uuid = functions.kill_the_worker.options(retries=2).delay(str(poison))
    until(lambda: truth.job(uuid)["state"] == "failed", what=runner.log)
    row = truth.job(uuid)
    assert (row["retry"], row["exc_name"]) == (3, "JobFoundDead")
    assert row["exc_message"].startswith("Job found dead after too many retries (worker test.")
    assert truth.effects() == []
    survivors = [process for process in workers.processes if process.poll() is None]
    assert len(survivors) == 1
    for process in set(workers.processes) - set(survivors):
        process.wait(30)


def test_it_is_killed_itself(workers, start_runner, truth, tmp_path):
    """What it had started is adopted, what was on its way is offered again, what waited is found."""
    go = tmp_path / "go"
    workers.start(1)
    runner = start_runner(channels="root:2")
    running = functions.wait_for.delay(str(go))
    until(lambda: _beginnings(tmp_path), what=runner.log)
    offered = functions.note.delay("offered")
    until(lambda: truth.job(offered)["state"] == "enqueued", what=runner.log)
    functions.note.delay("waiting")
    runner.kill()
    functions.note.delay("made meanwhile")
    runner = start_runner(channels="root:2")
    until(lambda: "offered again" in runner.log(), what=runner.log)
    go.touch()
    until(lambda: truth.states() == {"done": 4}, what=runner.log)
    assert sorted(truth.effects()) == ["made meanwhile", "offered", "waited", "waiting"]
    assert truth.job(running)["retry"] == truth.job(offered)["retry"] == 1


def test_all_are_killed(workers, start_runner, truth, tmp_path):
    go = tmp_path / "go"
    workers.start(1)
    runner = start_runner()
    uuid = functions.wait_for.delay(str(go))
    until(lambda: _beginnings(tmp_path), what=runner.log)
    runner.kill()
    workers.kill(truth.job(uuid)["worker_pid"])
    go.touch()
    workers.start(1)
    runner = start_runner()
    until(lambda: truth.job(uuid)["state"] == "done", what=runner.log)
    assert truth.job(uuid)["retry"] == 2


def test_nobody_takes_jobs_for_a_while(start_runner, truth, jobs_url, short_path):
    """Refused, then answered by something that runs no jobs: it costs no tries."""
    address = UnixAddress(path=str(short_path / "late.sock"))
    runner = start_runner(address)
    uuid = functions.note.delay("a")
    until(lambda: "and offered again" in runner.log(), what=runner.log)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(address.path)
        stranger.listen()
        stranger.settimeout(30)
        for answer in (b"HTTP/1.1 503 x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nhello", b"SSH-2.0\r\n\r\n", b""):
            connection, _ = stranger.accept()
            with connection:
                assert f"db={signaling.databases()[0]}&job_uuid={uuid} ".encode() in connection.recv(4096)
                connection.sendall(answer)
    (short_path / "late.sock").unlink()
    workers = Workers(jobs_url, short_path / "late.sock")
    try:
        workers.start(1)
        until(lambda: truth.job(uuid)["state"] == "done", what=runner.log)
    finally:
        workers.close()
    assert truth.job(uuid)["retry"] == 1
    assert runner.log().count("and offered again") == 1
    until(lambda: "taken again" in runner.log(), what=runner.log)


def test_the_database_goes_and_comes_back(workers, start_runner, truth, database, postgres_server):
    workers.start(1)
    runner = start_runner()
    functions.note.delay("before")
    until(lambda: truth.states() == {"done": 1}, what=runner.log)
    postgres_server.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS false')
    truth(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
        database,
    )
    until(lambda: runner.log().count("lost, next try") >= 2, what=runner.log)
    truth("INSERT INTO procman.job (function, args) VALUES ('tests.support.jobs:note', '[\"meanwhile\"]')")
    postgres_server.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS true')
    until(lambda: truth.states() == {"done": 2}, what=runner.log)


def test_a_row_made_by_hand_is_a_job_as_well(workers, start_runner, truth):
    workers.start(1)
    runner = start_runner()
    truth("INSERT INTO procman.job (function) SELECT 'tests.support.jobs:note' FROM generate_series(1, 3)")
    until(lambda: truth.states() == {"done": 3}, what=runner.log)
    assert truth.effects() == ["note"] * 3


# -- leaving -----------------------------------------------------------------------------------------------


def test_it_goes_at_once_and_starts_nothing_more(workers, start_runner, truth, tmp_path):
    """Its successor knows from the row and its lock that the job runs."""
    go = tmp_path / "go"
    workers.start(2)
    runner = start_runner()
    running = functions.wait_for.delay(str(go))
    until(lambda: _beginnings(tmp_path), what=runner.log)
    runner.retire()
    assert runner.next_message() is None
    assert runner.process.wait(30) == 0
    later = functions.note.delay("later")
    assert truth.job(running)["state"] == "started"
    assert truth.job(later)["state"] == "pending"
    runner = start_runner(channels="root:1")
    go.touch()
    until(lambda: truth.states() == {"done": 2}, what=runner.log)
    first, second = truth("SELECT retry, date_started, date_done FROM procman.job ORDER BY id")
    assert first["retry"] == second["retry"] == 1
    assert second["date_started"] >= first["date_done"]


def test_it_leaves_with_the_daemon(workers, start_runner, truth, tmp_path):
    go = tmp_path / "go"
    workers.start(1)
    runner = start_runner()
    running = functions.wait_for.delay(str(go))
    until(lambda: _beginnings(tmp_path), what=runner.log)
    runner.channel.close()
    assert runner.process.wait(30) == 0
    assert truth.job(running)["state"] == "started"
    go.touch()
    until(lambda: truth.job(running)["state"] == "done")
