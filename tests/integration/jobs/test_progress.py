"""How far a job is: seen while its transaction is open, written seldom, and of no consequence when it can't be."""

from __future__ import annotations

import threading

import pytest

import procman
from procman import signaling
from procman.jobs import execute, running, steering
from procman.jobs.execute import Outcome
from tests.support import jobs as functions

NOTED = "SELECT done, total, note, number FROM procman.job_progress"


@pytest.fixture
def run(database, truth):
    def run(uuid):
        truth("UPDATE procman.job SET state = 'enqueued', date_enqueued = now() WHERE uuid = %s", uuid)
        return execute.run(database, uuid, worker="http.1")

    return run


def test_seen_while_the_transaction_is_open(run, truth, tmp_path):
    file = tmp_path / "go"
    uuid = functions.tell_progress.delay(1, 2, "half", str(file))
    thread = threading.Thread(target=run, args=(uuid,))
    thread.start()
    while not (noted := truth(NOTED)):
        thread.join(0.01)
    assert [dict(row) for row in noted] == [{"done": 1, "total": 2, "note": "half", "number": 1}]
    assert truth.job(uuid)["state"] == "started"
    assert truth.effects() == []
    file.touch()
    thread.join()
    assert truth.job(uuid)["state"] == "done"
    assert truth.effects() == ["told"]


def test_the_next_try_begins_anew(run, truth):
    uuid = functions.tell_progress.delay(3, 4, "", "")
    run(uuid)
    truth("UPDATE procman.job SET state = 'pending' WHERE uuid = %s", uuid)
    run(uuid)
    assert [row["number"] for row in truth(NOTED)] == [2]


def test_a_thousand_words_are_few_rows_and_the_last_one_counts(run, truth):
    truth(
        "CREATE TABLE written (n int); CREATE FUNCTION write() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO written VALUES (1); RETURN NEW; END';"
        "CREATE TRIGGER write AFTER INSERT OR UPDATE ON procman.job_progress FOR EACH ROW EXECUTE FUNCTION write()"
    )
    uuid = functions.tell_progress_often.delay(1000)
    run(uuid)
    assert [(row["done"], row["total"]) for row in truth(NOTED)] == [(1000, 1000)]
    (row,) = truth("SELECT count(*) AS n FROM written")
    seconds = truth.job(uuid)["exec_time"]
    assert row["n"] <= 2 + seconds / running.PROGRESS_EVERY


def test_a_job_that_was_cancelled_ends_when_it_says_how_far_it_is(run, truth, tmp_path, database):
    """Also one that has not touched the database since: the loop would go on for ever."""
    began = tmp_path / "began"
    uuid = functions.tell_progress_for_ever.delay(str(began))
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(run(uuid)))
    thread.start()
    while not began.exists():
        thread.join(0.01)
    with signaling.lend(database) as connection, connection.cursor() as cr:
        assert len(steering.cancel(cr, [uuid], running=True)) == 1
    thread.join(60)
    assert outcome == [Outcome(200, failed=False)]
    assert truth.job(uuid)["state"] == "cancelled"


def test_where_it_can_not_be_noted_the_job_goes_on(run, truth):
    truth("ALTER TABLE procman.job_progress RENAME TO elsewhere")
    uuid = functions.tell_progress.delay(1, 2, "", "")
    assert run(uuid) == Outcome(200, failed=False)
    assert truth.job(uuid)["state"] == "done"


def test_outside_of_jobs_it_is_nothing(jobs_url, truth):
    procman.progress(1, 2)
    assert truth(NOTED) == []


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number(wrong):
    with pytest.raises(ValueError, match="progress: expected numbers, got"):
        procman.progress(wrong, 2)
