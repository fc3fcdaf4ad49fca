"""Jobs steered from outside: cancelled, queued again; and what the history keeps of their tries."""

from __future__ import annotations

import threading

import pytest

from procman import jobs, signaling
from procman.jobs import execute, states, steering
from procman.jobs.execute import Outcome
from tests.support import jobs as functions


@pytest.fixture
def cr(database):
    """As procmanctl does it: each statement a transaction of its own."""
    with signaling.lend(database) as connection, connection.cursor() as cr:
        yield cr


@pytest.fixture
def run(database, truth):
    def run(uuid):
        truth("UPDATE procman.job SET state = 'enqueued', date_enqueued = now() WHERE uuid = %s", uuid)
        return execute.run(database, uuid, worker="http.1")

    return run


@pytest.fixture
def history(truth):
    def history(uuid):
        return truth(
            "SELECT h.* FROM procman.job_history AS h JOIN procman.job AS job ON job.id = job_id WHERE uuid = %s "
            "ORDER BY number",
            uuid,
        )

    return history


def moves(moved):
    return [(each.uuid, each.was, each.state) for each in moved]


@pytest.mark.parametrize("state", ["wait_dependencies", "pending", "enqueued", "failed"])
def test_what_has_not_begun_is_cancelled(cr, truth, state):
    uuid, other = functions.note.delay("a"), functions.note.delay("b")
    truth("UPDATE procman.job SET state = %s WHERE uuid = %s", state, uuid)
    assert moves(steering.cancel(cr, [uuid], by="ada")) == [(uuid, state, "cancelled")]
    row = truth.job(uuid)
    assert (row["state"], row["exc_message"], row["date_done"] is None) == ("cancelled", "cancelled by ada", False)
    assert truth.job(other)["state"] == "pending"


@pytest.mark.parametrize("state", ["started", "done", "cancelled"])
def test_what_has_begun_or_is_over_is_left_alone(cr, truth, state):
    uuid = functions.note.delay("a")
    truth("UPDATE procman.job SET state = %s WHERE uuid = %s", state, uuid)
    assert steering.cancel(cr, [uuid]) == []
    assert truth.job(uuid)["state"] == state


def test_in_a_transaction_it_comes_with_the_commit(truth, database):
    uuid = functions.note.delay("a")
    unit = signaling.begin(database)
    with unit.cursor() as cr:
        steering.cancel(cr, [uuid])
    unit.rollback()
    assert truth.job(uuid)["state"] == "pending"
    with signaling.unit(database) as unit, unit.cursor() as cr:
        steering.cancel(cr, [uuid])
    assert truth.job(uuid)["state"] == "cancelled"


def test_a_job_that_runs_is_cancelled_and_nothing_of_it_remains(database, cr, truth, tmp_path, history):
    file = tmp_path / "go"
    uuid = functions.wait_for.delay(str(file))
    truth("UPDATE procman.job SET state = 'enqueued'")
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(execute.run(database, uuid, worker="http.1")))
    thread.start()
    while not list(tmp_path.iterdir()):
        thread.join(0.01)
    assert steering.cancel(cr, [uuid]) == []
    assert moves(steering.cancel(cr, [uuid], running=True)) == [(uuid, "started", "cancelled")]
    file.touch()
    thread.join()
    assert outcome == [Outcome(200, failed=False)]
    assert truth.job(uuid)["state"] == "cancelled"
    assert truth.effects() == []
    (attempt,) = history(uuid)
    assert (attempt["outcome"], attempt["worker"], attempt["number"]) == ("cancelled", "http.1", 1)


def test_a_job_that_is_cancelled_inside_of_a_statement(database, cr, truth, tmp_path):
    uuid = functions.sleep_in_the_database.delay(str(tmp_path / "began"))
    truth("UPDATE procman.job SET state = 'enqueued'")
    thread = threading.Thread(target=execute.run, args=(database, uuid))
    thread.start()
    while not (tmp_path / "began").exists():
        thread.join(0.01)
    assert len(steering.cancel(cr, [uuid], running=True)) == 1
    thread.join(30)
    assert not thread.is_alive()
    assert truth.job(uuid)["state"] == "cancelled"


def test_a_job_of_a_batch_is_cancelled_and_the_others_are_done(database, cr, truth, tmp_path):
    file = tmp_path / "go"
    uuids = [functions.wait_for.delay(str(file), name) for name in ("a", "b", "c")]
    truth("UPDATE procman.job SET state = 'enqueued'")
    thread = threading.Thread(target=execute.run, args=(database, ",".join(uuids)))
    thread.start()
    while not list(tmp_path.iterdir()):
        thread.join(0.01)
    assert moves(steering.cancel(cr, [uuids[1]], running=True)) == [(uuids[1], "started", "cancelled")]
    file.touch()
    thread.join()
    assert [truth.job(uuid)["state"] for uuid in uuids] == ["done", "cancelled", "done"]
    assert truth.effects() == ["a", "c"]


def test_another_job_that_runs_is_not_harmed(database, cr, truth, tmp_path):
    file = tmp_path / "go"
    uuids = [functions.wait_for.delay(str(file), name) for name in ("a", "b")]
    truth("UPDATE procman.job SET state = 'enqueued'")
    threads = [threading.Thread(target=execute.run, args=(database, uuid)) for uuid in uuids]
    for thread in threads:
        thread.start()
    while len(list(tmp_path.iterdir())) < 2:
        threads[0].join(0.01)
    steering.cancel(cr, [uuids[0]], running=True)
    file.touch()
    for thread in threads:
        thread.join()
    assert [truth.job(uuid)["state"] for uuid in uuids] == ["cancelled", "done"]
    assert truth.effects() == ["b"]


def test_by_the_application_in_its_unit(truth, database):
    uuid = functions.note.delay("a")
    with signaling.unit(database):
        assert jobs.cancel(uuid)
        assert not jobs.cancel(uuid)
        assert truth.job(uuid)["state"] == "pending"
    assert truth.job(uuid)["state"] == "cancelled"
    with signaling.unit(database):
        assert jobs.requeue(uuid)
        assert not jobs.requeue(uuid)
    assert truth.job(uuid)["state"] == "pending"


# -- queued again ------------------------------------------------------------------------------------------


def test_what_failed_is_queued_again_with_all_its_tries(cr, run, truth, history):
    uuid = functions.fail.delay("a")
    run(uuid)
    assert moves(steering.requeue(cr, [uuid])) == [(uuid, "failed", "pending")]
    row = truth.job(uuid)
    assert (row["state"], row["retry"], row["exc_name"], row["worker"]) == ("pending", 0, None, None)
    run(uuid)
    assert [(each["number"], each["outcome"], each["exc_message"]) for each in history(uuid)] == [
        (1, "failed", "no \\0 a"),
        (2, "failed", "no \\0 a"),
    ]
    assert all("in fail\n" in each["exc_info"] and each["seconds"] >= 0 for each in history(uuid))


def test_what_succeeded_only_if_that_is_said(cr, run, truth, history):
    uuid = functions.note.delay("a")
    run(uuid)
    assert steering.requeue(cr, [uuid]) == []
    assert moves(steering.requeue(cr, [uuid], done=True)) == [(uuid, "done", "pending")]
    run(uuid)
    assert [(each["number"], each["outcome"]) for each in history(uuid)] == [(1, "done"), (2, "done")]
    assert truth.effects() == ["a", "a"]


def test_not_while_an_equal_one_waits(cr, truth):
    first = functions.note.options(identity_key="k").delay("a")
    steering.cancel(cr, [first])
    second = functions.note.options(identity_key="k").delay("b")
    assert steering.requeue(cr, [first]) == []
    steering.cancel(cr, [second])
    assert moves(steering.requeue(cr, [first, second])) == [(first, "cancelled", "pending")]


# -- history -----------------------------------------------------------------------------------------------


def test_every_try_is_kept(run, history, truth):
    uuid = functions.again.delay(seconds=0)
    run(uuid)
    run(uuid)
    first, second = history(uuid)
    assert (first["outcome"], first["exc_name"], first["worker"]) == (
        "retry",
        "procman.jobs.retry.RetryJob",
        "http.1",
    )
    assert (second["outcome"], second["exc_message"]) == ("failed", "Max. retries (2) reached: not yet")
    assert first["worker_host"]
    assert first["worker_pid"]
    assert first["date_started"] <= first["date_ended"] <= second["date_started"]


def test_tries_that_do_not_count_are_kept_as_well(run, history):
    uuid = functions.again.delay(seconds=0, ignore_retry=True)
    for _ in range(3):
        run(uuid)
    assert [(each["number"], each["outcome"]) for each in history(uuid)] == [(1, "retry"), (2, "retry"), (3, "retry")]


def test_what_was_found_dead_says_why_and_where_it_was(cr, run, truth, history):
    uuid = functions.note.delay("a")
    truth("UPDATE procman.job SET state = 'enqueued'")
    attempt = states.start(cr, uuid, "http.1", 12345)
    (rescued,) = states.rescue(cr, [(attempt.id, attempt.date_started)])
    assert (rescued.state, rescued.worker_pid) == ("pending", 12345)
    states.explain(cr, attempt.id, "real_time", "stacks \0")
    row = truth.job(uuid)
    assert (row["exc_message"], row["exc_info"]) == ("Job found dead (worker http.1, pid 12345): real_time", "stacks ?")
    (dead,) = history(uuid)
    assert (dead["outcome"], dead["reason"], dead["exc_info"], dead["worker"]) == (
        "dead",
        "real_time",
        "stacks ?",
        "http.1",
    )
    # Later than the next try: the history knows, and the row says how it is by then.
    run(uuid)
    assert truth.job(uuid)["exc_message"] is None
    assert [each["outcome"] for each in history(uuid)] == ["dead", "done"]


def test_an_explanation_that_comes_late_is_kept(cr, run, truth, history):
    uuid = functions.note.delay("a")
    truth("UPDATE procman.job SET state = 'enqueued'")
    attempt = states.start(cr, uuid, "http.1", 12345)
    states.rescue(cr, [(attempt.id, attempt.date_started)])
    run(uuid)
    states.explain(cr, attempt.id, "oom", "")
    assert [(each["outcome"], each["reason"], each["exc_info"]) for each in history(uuid)] == [
        ("dead", "oom", None),
        ("done", None, None),
    ]
    assert truth.job(uuid)["exc_message"] is None


def test_a_limit_is_the_reason(run, history):
    uuid = functions.run_into_a_limit.delay()
    run(uuid)
    (attempt,) = history(uuid)
    assert (attempt["outcome"], attempt["reason"]) == ("failed", "real_time")
