"""Jobs that share a transaction: what each of them comes to, whatever happens to the others."""

from __future__ import annotations

import time

import pytest

from procman import signaling
from procman.jobs import execute
from procman.jobs.execute import Outcome
from tests.support import jobs as functions
from tests.support.daemon import Procmand
from tests.support.jobrunner import JobRunner, Workers


class Watch:
    """Notes the units that begin and end."""

    def __init__(self):
        self.said = []

    def begin_unit(self, name):
        self.said.append("begin")

    def bound_unit(self, seconds):
        self.said.append(f"bound {seconds:g}")

    def end_unit(self, failed=False):
        self.said.append("failed" if failed else "end")


@pytest.fixture
def run(database, truth):
    """Run these jobs in one request."""

    def run(*uuids, watch=None):
        truth(
            "UPDATE procman.job SET state = 'enqueued', date_enqueued = now() WHERE uuid = ANY(%s::uuid[])", list(uuids)
        )
        outcome = execute.run(database, ",".join(uuids), worker="http.1", watch=watch)
        assert signaling.current() is None
        return outcome

    return run


@pytest.fixture
def transactions(truth):
    """The transactions by which the rows came to be as they are, one per job."""

    def transactions(*uuids):
        rows = truth("SELECT uuid::text, xmin::text FROM procman.job")
        found = {row["uuid"]: row["xmin"] for row in rows}
        return [found[uuid] for uuid in uuids]

    return transactions


def test_all_of_them_are_done_by_one_commit_with_their_work(run, truth, transactions):
    uuids = [functions.note.delay(value) for value in "abc"]
    assert run(*uuids) == Outcome(200, failed=False)
    assert truth.states() == {"done": 3}
    assert truth.effects() == ["a", "b", "c"]
    assert len(set(transactions(*uuids))) == 1
    row = truth.job(uuids[1])
    assert (row["result"], row["retry"], row["worker"]) == ("noted b", 1, "http.1")
    assert 0 < row["exec_time"] < 30


def test_each_is_a_unit_with_its_own_limit(run):
    uuids = [
        functions.note.delay("a"),
        functions.described.delay("b"),
        functions.fail.delay("c"),
        functions.note.delay(),
    ]
    watch = Watch()
    run(*uuids, watch=watch)
    # The first has been begun, and the last is ended, by who has asked.
    assert watch.said == ["end", "begin", "bound 90", "end", "begin", "failed", "begin"]


def test_one_that_fails_takes_back_its_own_work_only(run, truth, transactions):
    uuids = [functions.note.delay("a"), functions.fail.delay("b"), functions.note.delay("c")]
    assert run(*uuids) == Outcome(200, failed=False)
    assert [truth.job(uuid)["state"] for uuid in uuids] == ["done", "failed", "done"]
    assert truth.effects() == ["a", "c"]
    assert truth.job(uuids[1])["exc_name"] == "builtins.ValueError"
    assert len(set(transactions(uuids[0], uuids[2]))) == 1


def test_one_that_wants_to_be_tried_again_is(run, truth):
    uuids = [functions.again.delay(30.0), functions.note.delay("a")]
    run(*uuids)
    row = truth.job(uuids[0])
    assert (row["state"], row["retry"], truth.job(uuids[1])["state"]) == ("pending", 1, "done")
    assert truth.effects() == ["a"]


@pytest.mark.parametrize("bad", ["swallow_an_error", "leave_the_process"])
def test_one_that_spoils_its_part_of_the_transaction(run, truth, bad):
    uuids = [functions.note.delay("a"), getattr(functions, bad).delay(), functions.note.delay("b")]
    run(*uuids)
    assert [truth.job(uuid)["state"] for uuid in uuids] == ["done", "failed", "done"]
    assert truth.effects() == ["a", "b"]


def test_one_that_commits_keeps_what_was_done_before_and_fails(run, truth):
    """What it has committed is there, as when it is alone; the others are there exactly once."""
    uuids = [functions.note.delay("a"), functions.end_the_transaction.delay(), functions.note.delay("b")]
    run(*uuids)
    assert [truth.job(uuid)["state"] for uuid in uuids] == ["done", "failed", "done"]
    assert "ended the transaction" in truth.job(uuids[1])["exc_message"]
    assert truth.effects() == ["a", "ended", "b"]


def test_one_that_rolls_back_takes_nothing_from_the_others(run, truth):
    uuids = [functions.note.delay("a"), functions.roll_the_transaction_back.delay(), functions.note.delay("b")]
    run(*uuids)
    assert [truth.job(uuid)["state"] for uuid in uuids] == ["done", "failed", "done"]
    assert truth.effects() == ["a", "b"]


def test_one_that_loses_against_another_transaction_is_run_alone(run, truth, transactions):
    uuids = [functions.note.delay("a"), functions.lose_once.delay(), functions.note.delay("b")]
    run(*uuids)
    assert truth.states() == {"done": 3}
    assert truth.effects() == ["a", "b", "won"]
    assert truth.job(uuids[1])["retry"] == 1
    before, alone, after = transactions(*uuids)
    assert before == after != alone


def test_what_shows_at_the_commit_only_is_found_by_running_each_alone(run, truth):
    truth("CREATE UNIQUE INDEX ON effect (value)")
    truth("ALTER TABLE effect ADD CONSTRAINT late UNIQUE (value) DEFERRABLE INITIALLY DEFERRED")
    truth("DROP INDEX effect_value_idx")
    uuids = [functions.note.delay(value) for value in "abac"]
    run(*uuids)
    assert [truth.job(uuid)["state"] for uuid in uuids] == ["done", "done", "failed", "done"]
    assert truth.effects() == ["a", "b", "c"]


def test_a_connection_that_is_lost_costs_nobody_else_a_try(run, truth):
    uuids = [functions.note.delay("a"), functions.lose_the_connection.delay(), functions.note.delay("b")]
    run(*uuids)
    rows = [truth.job(uuid) for uuid in uuids]
    assert [row["state"] for row in rows] == ["done", "pending", "done"]
    assert [row["retry"] for row in rows] == [1, 1, 1]
    assert truth.effects() == ["a", "b"]


def test_a_limit_fails_the_one_and_leaves_the_others_to_another_worker(run, truth):
    uuids = [functions.note.delay("a"), functions.run_into_a_limit.delay(), functions.note.delay("b")]
    assert run(*uuids) == Outcome(503, failed=True)
    rows = [truth.job(uuid) for uuid in uuids]
    assert [row["state"] for row in rows] == ["pending", "failed", "pending"]
    assert [row["retry"] for row in rows] == [0, 1, 0]
    assert "real_time" in rows[0]["exc_message"]
    assert truth.effects() == []
    assert run(uuids[0]) == run(uuids[2]) == Outcome(200, failed=False)
    assert truth.effects() == ["a", "b"]


def test_those_that_are_not_enqueued_any_more_are_left_alone(run, truth, database):
    uuids = [functions.note.delay(value) for value in "abc"]
    truth("UPDATE procman.job SET state = 'enqueued', date_enqueued = now()")
    truth("UPDATE procman.job SET state = 'cancelled' WHERE uuid = %s", uuids[1])
    execute.run(database, ",".join(uuids))
    assert [truth.job(uuid)["state"] for uuid in uuids] == ["done", "cancelled", "done"]
    assert truth.effects() == ["a", "c"]


def test_what_is_asked_for_is_looked_at(database):
    assert execute.run(database, "4b0e,x") == Outcome(400, failed=False)


def test_the_progress_of_each_is_its_own(run, truth):
    uuids = [functions.tell_progress.delay(number, 9, "", "") for number in (1, 2)]
    run(*uuids)
    rows = truth("SELECT done FROM procman.job_progress JOIN procman.job ON id = job_id ORDER BY id")
    assert [row["done"] for row in rows] == [1, 2]


# -- with a runner and workers ---------------------------------------------------------------------------------------


@pytest.fixture
def workers(jobs_url, short_path):
    workers = Workers(jobs_url, short_path / "http.sock")
    yield workers
    workers.close()


@pytest.fixture
def start_runner(jobs_url, workers, short_path):
    started = []

    def start(**options):
        runner = JobRunner(short_path, jobs_url, workers.address, **options)
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


def test_the_runner_puts_together_what_asks_for_it(workers, start_runner, truth, transactions):
    """One slot, 45 jobs, batches of 20."""
    uuids = functions.described.delay_many((str(number), number) for number in range(45))
    alone = functions.note.delay("alone")
    workers.start(1)
    runner = start_runner(channels="root:1")
    until(lambda: truth.states() == {"done": 46}, what=runner.log)
    assert truth.effects() == [*map(str, range(45)), "alone"]
    shared = [len(set(transactions(*uuids[first : first + 20]))) for first in (0, 20, 40)]
    assert shared == [1, 1, 1]
    assert len(set(transactions(*uuids, alone))) == 4


def test_a_worker_that_dies_takes_nothing_with_it(workers, start_runner, truth, tmp_path):
    """The one that kills is tried alone from then on: it fails after its tries, and the others are done."""
    file = tmp_path / "kill"
    file.touch()
    killer = functions.kill_the_worker_of_a_batch.delay(str(file))
    functions.described.delay_many((str(number), number) for number in range(10))
    workers.start(1)
    runner = start_runner(channels="root:1")

    def settled():
        for process in list(workers.processes):
            if process.poll() is not None:
                workers.processes.remove(process)
                workers.start(1)
        return truth.states() == {"done": 10, "failed": 1}

    until(settled, seconds=60, what=runner.log)
    assert sorted(truth.effects(), key=int) == [str(number) for number in range(10)]
    assert truth.job(killer)["retry"] == 3
    tries = {row["retry"] for row in truth("SELECT retry FROM procman.job WHERE state = 'done'")}
    assert tries == {2}


def test_a_batch_that_nobody_takes_goes_back_as_it_was(workers, start_runner, truth):
    functions.described.delay_many((str(number), number) for number in range(30))
    workers.listener.close()
    runner = start_runner(channels="root:1")
    until(lambda: "and offered again" in runner.log(), what=runner.log)
    until(lambda: truth.states() == {"pending": 30}, what=runner.log)
    assert {row["retry"] for row in truth("SELECT retry FROM procman.job")} == {0}


def test_the_history_knows_of_a_try_that_was_left_to_another_worker(run, truth):
    uuids = [functions.note.delay("a"), functions.run_into_a_limit.delay()]
    run(*uuids)
    (row,) = truth("SELECT h.* FROM procman.job_attempt h JOIN procman.job ON id = job_id WHERE uuid = %s", uuids[0])
    assert (row["outcome"], row["number"], row["exc_name"]) == ("retry", 1, "procman.UnitAborted")


NAPS = """
import time
import procman

@procman.job(batch=10)
def nap(seconds):
    time.sleep(seconds)

def application(environ, start_response):
    start_response("200 OK", [])
    return []
"""


def test_limits_of_a_worker_are_for_each_job_of_a_batch(short_path, jobs_url, truth):
    """Together they take longer than one unit may; then one does."""
    configuration = f"""
[database]
url = "{jobs_url}"
[pools.http]
kind = "http"
app = "app:application"
bind = "unix:web.sock"
limits = {{ time_real = 4 }}
[pools.jobrunner]
kind = "jobrunner"
channels = "root:1"
"""
    with Procmand(short_path, configuration, modules={"app.py": NAPS}) as daemon:
        enqueue = "INSERT INTO procman.job (function, args, batch) SELECT 'app:nap', to_jsonb(ARRAY[n]), 10 "
        truth(enqueue + "FROM unnest(ARRAY[1, 1, 1, 1, 1]) AS n")
        daemon.wait(lambda: truth.states() == {"done": 5}, "naps")
        assert len({row["xmin"] for row in truth("SELECT xmin::text FROM procman.job")}) == 1
        assert daemon.pool("http")["exits"] == []
        truth(enqueue + "FROM unnest(ARRAY[0.1, 60, 0.1]) AS n")
        daemon.wait(lambda: truth.states() == {"done": 7, "failed": 1}, "all but one")
        (failed,) = truth("SELECT args, exc_name, retry FROM procman.job WHERE state = 'failed'")
        assert (failed["args"], failed["exc_name"]) == ([60], "procman.errors.UnitAborted")
        assert {row["retry"] for row in truth("SELECT retry FROM procman.job WHERE state = 'done'")} == {1}
