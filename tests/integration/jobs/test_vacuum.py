"""Jobs that are over are forgotten when they are old enough, and no others."""

from __future__ import annotations

import threading
import time

import pytest

import procman
from procman import signaling
from procman.core.channels import parse
from procman.jobs import vacuum
from procman.jobs.exchange import Target
from procman.jobs.runner import Runner
from procman.jobs.vacuum import Ages
from tests.support import jobs as functions

note = functions.note
AGES = Ages([("root", 100.0), ("root.mail", 10.0), ("root.audit", None)])


@pytest.fixture
def old(truth):
    """Jobs made by the function, in a state since so many seconds."""

    def old(state, seconds, channel="root", make=note.options):
        uuid = make(channel=channel).delay("a")
        truth(
            "UPDATE procman.job SET state = %s, date_done = now() - make_interval(secs => %s), "
            "date_created = now() - interval '1 day' WHERE uuid = %s",
            *(state, seconds, uuid),
        )
        return uuid

    return old


@pytest.fixture
def forget(database):
    def forget(ages=AGES, most=vacuum.BATCH):
        with signaling.lend(database) as connection, connection.cursor() as cr:
            return vacuum.forget(cr, ages, most)

    return forget


def left(truth):
    return {str(row["uuid"]) for row in truth("SELECT uuid FROM procman.job")}


def test_by_age_and_channel(old, forget, truth):
    kept = {
        old("done", 50),
        old("done", 5, "root.mail.fast"),
        old("done", 5000, "root.audit"),
        *(old(state, 5000) for state in ("failed", "pending", "enqueued", "started", "wait_dependencies")),
    }
    for state in ("done", "cancelled"):
        old(state, 150)
        old(state, 50, "root.mail.fast")
    while forget():
        pass
    assert left(truth) == kept


def test_a_few_at_a_time_the_oldest_first(old, forget, truth):
    youngest, _, oldest = old("done", 200), old("done", 300), old("done", 400)
    assert forget(most=1)
    assert oldest not in left(truth)
    assert forget(most=1)
    assert left(truth) == {youngest}
    assert forget(most=1)
    assert not forget(most=1)


def test_with_all_that_belongs_to_it(old, forget, truth):
    uuid = old("done", 200)
    truth(
        "INSERT INTO procman.job_attempt (job_id, number, outcome) SELECT id, 1, 'retry' FROM procman.job;"
        "INSERT INTO procman.job_progress (job_id, number, done) SELECT id, 1, 1 FROM procman.job"
    )
    assert left(truth) == {uuid}
    forget()
    assert truth("SELECT 1 FROM procman.job_attempt UNION ALL SELECT 1 FROM procman.job_progress") == []


def test_what_others_still_wait_for_is_kept(forget, truth):
    a, b, c = procman.chain(note.prepare("a"), note.prepare("b"), note.prepare("c")).delay().uuids
    truth("UPDATE procman.job SET state = 'done', date_done = now() - interval '1 day' WHERE uuid = %s", a)
    assert not forget()
    truth("UPDATE procman.job SET state = 'done', date_done = now() - interval '1 day' WHERE uuid = %s", b)
    assert forget()
    assert left(truth) == {b, c}
    truth("UPDATE procman.job SET state = 'done', date_done = now()")
    truth("UPDATE procman.job SET date_done = now() - interval '1 day' WHERE uuid = %s", b)
    assert forget()
    assert left(truth) == {c}


def test_what_somebody_has_locked_is_left_for_the_next_time(old, forget, truth):
    uuid = old("done", 200)
    truth.connection.autocommit = False
    truth("SELECT FROM procman.job WHERE uuid = %s FOR UPDATE", uuid)
    assert not forget()
    truth.connection.rollback()
    truth.connection.autocommit = True
    assert forget()


def test_by_the_runner_while_it_runs(old, truth):
    for _ in range(7):
        old("done", 200)
    kept = old("done", 1)
    over = threading.Event()

    def serve():
        runner = Runner(parse("root:1"), Target((), url="http://127.0.0.1:9/"), ages=AGES, tidy_every=0.05)
        while not over.is_set():
            runner.turn(most=0.05)
        runner.close()

    thread = threading.Thread(target=serve)
    thread.start()
    deadline = time.monotonic() + 60
    try:
        while left(truth) != {kept}:
            assert time.monotonic() < deadline
            thread.join(0.02)
    finally:
        over.set()
        thread.join()
