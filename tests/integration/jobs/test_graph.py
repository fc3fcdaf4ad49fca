"""Jobs that wait for others: let go by the runner when their parents are done, whatever dies in between."""

from __future__ import annotations

import threading
import time
from uuid import uuid4

import pytest

import procman
from procman import jobs, signaling
from procman.jobs import execute, steering
from procman.jobs import states as jobs_states
from tests.support import jobs as functions
from tests.support.jobrunner import JobRunner, Workers

note, again = functions.note, functions.again


def states(truth, uuids):
    return [truth.job(uuid)["state"] for uuid in uuids]


@pytest.fixture
def run(database, truth):
    def run(uuid):
        truth("UPDATE procman.job SET state = 'enqueued', date_enqueued = now() WHERE uuid = %s", uuid)
        return execute.run(database, uuid, worker="http.1")

    return run


@pytest.fixture
def release(database):
    """As the runner does when a job is over."""

    def release(*ids):
        with signaling.lend(database) as connection, connection.cursor() as cr:
            return [each.uuid for each in (steering.release(cr, ids) if ids else steering.release_all(cr))]

    return release


def test_in_one_transaction(truth, database):
    with signaling.unit(database):
        made = procman.chain(
            note.prepare("a"), procman.group(note.prepare("b"), note.prepare("c")), note.prepare("d")
        ).delay()
        assert truth.states() == {}
    rows = [truth.job(uuid) for uuid in made.uuids]
    assert [row["state"] for row in rows] == ["pending", *["wait_dependencies"] * 3]
    assert [row["args"] for row in rows] == [["a"], ["b"], ["c"], ["d"]]
    assert {str(row["graph"]) for row in rows} == {made.graph}
    assert made.last == made.uuids[3:]
    edges = truth("SELECT parent, child FROM procman.job_dependency ORDER BY parent, child")
    a, b, c, d = [row["id"] for row in rows]
    assert [(edge["parent"], edge["child"]) for edge in edges] == [(a, b), (a, c), (b, d), (c, d)]


def test_nothing_of_it_if_the_unit_rolls_back(truth, database):
    unit = signaling.begin(database)
    procman.chain(note.prepare("a"), note.prepare("b")).delay()
    unit.rollback()
    assert truth.states() == {}
    assert truth("SELECT * FROM procman.job_dependency") == []


def test_let_go_when_all_parents_are_done(truth, run, release):
    a, b, c = procman.chain(procman.group(note.prepare("a"), note.prepare("b")), note.prepare("c")).delay().uuids
    ids = {uuid: truth.job(uuid)["id"] for uuid in (a, b)}
    run(a)
    assert release(ids[a]) == []
    run(b)
    assert release(ids[b]) == [c]
    assert truth.job(c)["state"] == "pending"
    assert release() == []


@pytest.mark.parametrize("over", ["done", "cancelled"])
def test_many_children_in_portions(truth, release, monkeypatch, over):
    monkeypatch.setattr(steering, "PORTION", 3)
    children = procman.group(*[procman.chain(note.prepare("child"), note.prepare("grandchild")) for _ in range(10)])
    a = procman.chain(note.prepare("a"), children).delay().uuids[0]
    truth("UPDATE procman.job SET state = %s WHERE uuid = %s", over, a)
    assert len(release(truth.job(a)["id"])) == (10 if over == "done" else 20)
    expected = {"done": 1, "pending": 10, "wait_dependencies": 10} if over == "done" else {"cancelled": 21}
    assert truth.states() == expected


def test_a_parent_that_failed_holds_up_and_goes_on_when_it_is_queued_again(truth, run, release, database):
    a, b = procman.chain(functions.fail.prepare("a"), note.prepare("b")).delay().uuids
    run(a)
    assert release() == []
    assert states(truth, [a, b]) == ["failed", "wait_dependencies"]
    truth("UPDATE procman.job SET function = 'tests.support.jobs:note' WHERE uuid = %s", a)
    with signaling.unit(database) as unit, unit.cursor() as cr:
        steering.requeue(cr, [a])
    run(a)
    assert release() == [b]


def test_cancelled_with_its_parent_and_queued_again_with_it(truth, database):
    a, b, c, d = procman.chain(*[note.prepare(name) for name in "abcd"]).delay().uuids
    with signaling.lend(database) as connection, connection.cursor() as cr:
        moved = steering.cancel(cr, [b])
        assert {each.uuid for each in moved} == {b, c, d}
        assert states(truth, [a, b, c, d]) == ["pending", "cancelled", "cancelled", "cancelled"]
        assert len(steering.requeue(cr, [b, c, d])) == 3
    assert states(truth, [a, b, c, d]) == ["pending", "wait_dependencies", "wait_dependencies", "wait_dependencies"]


def test_children_read_what_their_parents_have_returned(truth, run, release):
    graph = procman.chain(
        procman.group(functions.give_back.prepare(5), functions.give_back.prepare(7)), functions.add_up.prepare()
    )
    a, b, total = graph.delay().uuids
    run(a)
    run(b)
    release()
    run(total)
    assert jobs.get(total).result == 12
    assert jobs.current() is None


# -- waiting for jobs that are there -----------------------------------------------------------------------


def test_after_a_job_that_is_there(truth, run, release):
    a = note.delay("a")
    b = note.options(after=a).delay("b")
    assert states(truth, [a, b]) == ["pending", "wait_dependencies"]
    run(a)
    assert release(truth.job(a)["id"]) == [b]
    assert truth.job(note.options(after=[a]).delay("c"))["state"] == "pending"


def test_after_one_that_can_not_be_waited_for(truth, database):
    nobody = str(uuid4())
    with pytest.raises(LookupError, match=f"after: there is no job {nobody}"):
        note.options(after=nobody).delay()
    a = note.delay("a")
    truth("UPDATE procman.job SET state = 'cancelled' WHERE uuid = %s", a)
    with pytest.raises(ValueError, match=f"after: job {a} is cancelled"):
        note.options(after=[a]).delay()


def test_a_parent_that_is_done_before_its_child_can_be_seen(truth, run, release, database):
    """Neither sees the other one: the child looks again after its commit."""
    a = note.delay("a")
    with signaling.unit(database):
        b = note.options(after=a).delay("b")
        done = threading.Thread(target=run, args=(a,))
        done.start()
        done.join()
        assert truth.job(a)["state"] == "done"
        assert release(truth.job(a)["id"]) == []
    assert truth.job(b)["state"] == "pending"


def test_a_child_is_not_kept_waiting_for_what_was_cancelled_meanwhile(truth, database):
    a = note.delay("a")
    with signaling.unit(database):
        b = note.options(after=a).delay("b")
        truth("UPDATE procman.job SET state = 'cancelled' WHERE uuid = %s", a)
    assert truth.job(b)["state"] == "cancelled"
    assert truth.job(b)["exc_message"] == "a job that it waited for is cancelled"


def test_a_parent_that_somebody_still_waits_for_can_not_be_deleted(truth):
    procman.chain(note.prepare("a"), note.prepare("b")).delay()
    with pytest.raises(Exception, match="job_dependency_parent_fkey"):
        truth("DELETE FROM procman.job WHERE state = 'pending'")
    truth("DELETE FROM procman.job")
    assert truth.states() == {}


# -- with identity keys ------------------------------------------------------------------------------------


def test_an_equal_job_that_waits_stands_in(truth, run, release):
    first = note.options(identity_key="k").delay("a")
    stands_in, b = procman.chain(note.options(identity_key="k").prepare("a"), note.prepare("b")).delay().uuids
    assert stands_in == first
    run(first)
    assert release() == [b]


def test_what_stands_in_waits_for_what_it_has_waited_for(truth):
    """Or two graphs, each of which has the other one's last job for its first, would wait for each other."""
    k, other = note.options(identity_key="k"), note.options(identity_key="l")
    a, first, second = procman.chain(note.prepare("a"), k.prepare("k"), other.prepare("l")).delay().uuids
    b, *found = procman.chain(note.prepare("b"), other.prepare("l"), k.prepare("k")).delay().uuids
    assert found == [second, first]
    parents = truth(
        "SELECT child.uuid::text AS child, parent.uuid::text AS parent FROM procman.job_dependency AS edge "
        "JOIN procman.job AS child ON child.id = edge.child JOIN procman.job AS parent ON parent.id = edge.parent"
    )
    assert {(row["child"], row["parent"]) for row in parents} == {(first, a), (second, first)}
    assert truth.job(b)["state"] == "pending"


@pytest.mark.parametrize("end", ["postpone", "rescue"])
def test_who_can_not_give_way_keeps_its_place(truth, database, end):
    """The equal job waits for somebody who waits for this one."""
    keyed = note.options(identity_key="k")
    a, b = procman.chain(keyed.prepare("a"), note.prepare("b")).delay().uuids
    truth("UPDATE procman.job SET state = 'enqueued' WHERE uuid = %s", a)
    with signaling.lend(database) as connection, connection.cursor() as cr:
        attempt = jobs_states.start(cr, a, "http.1", 1)
        twin = note.options(identity_key="k", after=b).delay("twin")
        if end == "postpone":
            jobs_states.postpone(cr, attempt, jobs_states.Failure("E", "again", None), wait=0.0)
        else:
            jobs_states.rescue(cr, [(attempt.id, attempt.date_started)])
    assert states(truth, [a, b, twin]) == ["pending", "wait_dependencies", "wait_dependencies"]
    assert truth.job(a)["identity_key"] is None


def test_an_equal_job_that_can_not_be_seen_has_the_unit_repeated(truth, database):
    unit = signaling.begin(database)
    jobs.counts()  # the snapshot is taken
    thread = threading.Thread(target=note.options(identity_key="k").delay, args=("a",))
    thread.start()
    thread.join()
    graph = procman.chain(note.options(identity_key="k").prepare("a"), note.prepare("b"))
    with pytest.raises(jobs.Overtaken) as raised:
        graph.delay()
    unit.rollback()
    assert raised.value.pgcode == "40001"
    assert truth.states() == {"pending": 1}


def test_a_job_that_was_overtaken_is_repeated(truth, run):
    """Its snapshot does not see the equal job, for which others are to wait; that of its next attempt does."""
    uuid = functions.enqueue_beside_another.delay()
    run(uuid)
    row = truth.job(uuid)
    assert (row["state"], row["retry"], row["result"]) == ("done", 1, 2)
    assert truth.states() == {"done": 1, "pending": 1, "wait_dependencies": 1}


def test_who_gives_way_to_an_equal_job_leaves_it_its_children(truth, run, release):
    """It goes back to the queue, where an equal one waits by now: children wait for that one."""
    a, b = procman.chain(again.options(identity_key="k").prepare(), note.prepare("b")).delay().uuids
    truth("UPDATE procman.job SET state = 'started' WHERE uuid = %s", a)
    twin = note.options(identity_key="k").delay("twin")
    truth("UPDATE procman.job SET identity_key = NULL, state = 'enqueued' WHERE uuid = %s", a)
    truth(
        "CREATE FUNCTION give_key() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN NEW.identity_key = ''k''; RETURN NEW; END';"
        "CREATE TRIGGER give_key BEFORE UPDATE ON procman.job FOR EACH ROW WHEN (NEW.state = 'started') "
        "EXECUTE FUNCTION give_key()"
    )
    run(a)
    assert states(truth, [a, b]) == ["cancelled", "wait_dependencies"]
    truth("DROP TRIGGER give_key ON procman.job")
    assert release() == []
    run(twin)
    assert release() == [b]


# -- with a runner -----------------------------------------------------------------------------------------


@pytest.fixture
def workers(jobs_url, short_path):
    workers = Workers(jobs_url, short_path / "http.sock")
    workers.start(3)
    yield workers
    workers.close()


@pytest.fixture
def start_runner(jobs_url, workers, short_path):
    started = []

    def start():
        started.append(JobRunner(short_path, jobs_url, workers.address, channels="root:3"))
        started[-1].wait_until_ready()
        return started[-1]

    yield start
    for runner in started:
        runner.close()


def until(condition, *, seconds=60, what=lambda: ""):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.01)


def test_parents_that_end_at_the_same_time_let_their_children_go(start_runner, truth, database):
    runner = start_runner()
    with signaling.unit(database):
        for number in range(40):
            parents = procman.group(*[note.prepare(f"{number} parent") for _ in range(3)])
            procman.chain(parents, note.prepare(f"{number} child"), note.prepare(f"{number} grandchild")).delay()
    until(lambda: truth.states() == {"done": 200}, what=runner.log)
    effects = truth.effects()
    for number in range(40):
        mine = [effect.split()[1] for effect in effects if effect.split()[0] == str(number)]
        assert mine == ["parent", "parent", "parent", "child", "grandchild"]


def test_a_runner_that_dies_leaves_nobody_waiting(start_runner, truth, database, tmp_path):
    runner = start_runner()
    file = tmp_path / "go"
    made = procman.chain(functions.wait_for.prepare(str(file)), note.prepare("b"), note.prepare("c")).delay()
    until(lambda: truth.job(made.uuids[0])["state"] == "started", what=runner.log)
    runner.kill()
    file.touch()
    until(lambda: truth.job(made.uuids[0])["state"] == "done")
    assert truth.job(made.uuids[1])["state"] == "wait_dependencies"
    runner = start_runner()
    until(lambda: truth.states() == {"done": 3}, what=runner.log)
    assert truth.effects() == ["waited", "b", "c"]
