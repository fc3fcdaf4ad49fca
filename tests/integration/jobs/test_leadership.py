"""Which of several runners starts jobs, and how another one takes over from one that died, hangs or is cut off."""

from __future__ import annotations

import os
import signal
import time

import psycopg2
import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from procman import signaling
from procman.jobs import leadership, states
from procman.jobs.leadership import LEASE, Lease
from tests.support import jobs as functions
from tests.support.cable import Cable
from tests.support.jobrunner import JobRunner, Workers

SLACK = 10.0  # seconds for a machine with too much to do


def until(condition, *, seconds=30, what=lambda: ""):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.01)


# -- the lease ---------------------------------------------------------------------------------------------


@pytest.fixture
def cr(jobs_url):
    connection = psycopg2.connect(jobs_url)
    connection.autocommit = True
    with connection.cursor() as cr:
        yield cr
    connection.close()


@pytest.fixture
def elsewhere(monkeypatch):
    """Nothing can be known of the processes of other runners: they are on other machines."""
    monkeypatch.setattr(leadership, "has_died", lambda process: False)


def test_one_has_it_and_another_is_told_for_how_long(cr, elsewhere):
    first, second = Lease("jobrunner.1"), Lease("jobrunner.2")
    assert first.claim(cr, cr).leads(time.monotonic())
    standing = second.claim(cr, cr)
    assert not standing.leads(time.monotonic())
    assert standing.other.startswith("jobrunner.1 on ")
    assert 0 < standing.again - time.monotonic() <= LEASE + 0.1


def test_it_is_never_trusted_for_longer_than_the_row_says(cr):
    lease = Lease("jobrunner.1")
    for _ in range(20):
        standing = lease.claim(cr, cr)
        cr.execute("SELECT extract(epoch FROM until - clock_timestamp())::float8 FROM procman.job_leader")
        ((left,),) = cr.fetchall()
        assert standing.until <= time.monotonic() + left


def test_renewed_it_is_still_the_same_term(cr, elsewhere):
    first, second = Lease("jobrunner.1", lease=0.2), Lease("jobrunner.2", lease=0.2)
    term = first.claim(cr, cr).term
    assert first.claim(cr, cr).term == term
    time.sleep(0.3)
    assert first.claim(cr, cr).term == term  # it ran out, but nobody else had it meanwhile
    time.sleep(0.3)
    assert second.claim(cr, cr).until
    assert not first.claim(cr, cr).until
    second.release(cr, cr)
    again = first.claim(cr, cr)
    assert again.until
    assert again.term != term


def test_of_a_dead_process_of_this_machine_it_is_taken_at_once(cr, monkeypatch):
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    with monkeypatch.context() as patch:
        patch.setattr(leadership, "this_process", lambda: leadership._named(pid))
        other = Lease("jobrunner.1")
    assert other.claim(cr, cr).until
    own = Lease("jobrunner.2")
    assert not own.claim(cr, cr).until
    os.kill(pid, signal.SIGKILL)
    until(lambda: own.claim(cr, cr).until)  # a zombie is as good as gone
    os.waitpid(pid, 0)


def test_who_does_not_have_it_starts_nothing(cr, truth, elsewhere):
    first, second = Lease("jobrunner.1", lease=0.2), Lease("jobrunner.2")
    first.claim(cr, cr)
    functions.note.delay("a")
    (job,) = truth("SELECT id FROM procman.job")
    assert states.offer(cr, [job["id"]], second.token) == []
    time.sleep(0.3)
    assert states.offer(cr, [job["id"]], first.token) == []  # it has run out, whatever its holder thinks
    second.claim(cr, cr)
    assert states.offer(cr, [job["id"]], first.token) == []
    assert truth.states() == {"pending": 1}
    assert len(states.offer(cr, [job["id"]], second.token)) == 1


# -- runners -----------------------------------------------------------------------------------------------


@pytest.fixture
def workers(jobs_url, short_path):
    workers = Workers(jobs_url, short_path / "http.sock")
    workers.start(2)
    yield workers
    workers.close()


class Host:
    """A runner with a directory, and a log, of its own."""

    def __init__(self, directory, url, address, **options):
        directory.mkdir()
        self.runner = JobRunner(directory, url, address, **options)
        self.runner.wait_until_ready()

    def leads(self):
        lines = [line for line in self.runner.log().splitlines() if "starts its jobs" in line]
        return bool(lines) and "this one starts its jobs" in lines[-1]

    def wait_until_it_leads(self):
        until(self.leads, what=self.runner.log)


@pytest.fixture
def host(jobs_url, workers, short_path):
    hosts = []

    def make(url=jobs_url, **options):
        hosts.append(Host(short_path / f"host{len(hosts)}", url, workers.address, **options))
        return hosts[-1]

    yield make
    for each in hosts:
        each.runner.close()


def takes_over(leader, standby, truth, cause):
    """Have ``cause`` befall the leader; the seconds until the other one leads, and jobs are done again."""
    began = time.monotonic()
    cause()
    uuid = functions.note.delay("after")
    until(lambda: truth.job(uuid)["state"] == "done", what=standby.runner.log)
    assert standby.leads()
    return time.monotonic() - began


@pytest.fixture
def pair(host):
    leader = host()
    leader.wait_until_it_leads()
    standby = host()
    until(lambda: "on " in standby.runner.log() and not standby.leads(), what=standby.runner.log)
    return leader, standby


def test_only_one_starts_jobs(pair, truth):
    leader, standby = pair
    functions.note.delay_many((str(number),) for number in range(50))
    until(lambda: truth.states() == {"done": 50})
    assert leader.leads()
    assert not standby.leads()
    assert sorted(truth.effects(), key=int) == [str(number) for number in range(50)]


def test_it_is_killed(pair, truth):
    leader, standby = pair
    assert takes_over(leader, standby, truth, leader.runner.kill) < 5 + SLACK


def test_it_is_stopped_and_goes_on_later(pair, truth):
    leader, standby = pair
    stopped = leader.runner.process.pid
    assert takes_over(leader, standby, truth, lambda: os.kill(stopped, signal.SIGSTOP)) < 5 + SLACK
    os.kill(stopped, signal.SIGCONT)
    until(lambda: not leader.leads(), what=leader.runner.log)
    functions.note.delay_many((str(number),) for number in range(20))
    until(lambda: truth.states() == {"done": 21})
    assert standby.leads()
    assert truth("SELECT max(attempt) AS n FROM procman.job")[0]["n"] == 1


def test_it_is_cut_off_from_the_database(host, jobs_url, truth):
    """It notices by itself that it may not go on, before another one begins."""
    given = parse_dsn(jobs_url)
    cable = Cable(f"{given['host']}/.s.PGSQL.{given.get('port', 5432)}")
    try:
        far = make_dsn(**{**given, "host": "127.0.0.1", "port": cable.port})
        leader = host(far)
        leader.wait_until_it_leads()
        standby = host()
        until(lambda: "on " in standby.runner.log(), what=standby.runner.log)
        assert takes_over(leader, standby, truth, cable.cut) < 5 + SLACK
        until(lambda: "lost, next try" in leader.runner.log(), seconds=20 + SLACK, what=leader.runner.log)
        cable.mend()
        until(lambda: not leader.leads(), what=leader.runner.log)
    finally:
        cable.close()


def test_it_goes_and_another_one_begins_at_once(pair, truth):
    leader, standby = pair
    leader.runner.retire()
    assert leader.runner.next_message() is None
    until(standby.leads, seconds=LEASE / 2 + SLACK / 2, what=standby.runner.log)
    uuid = functions.note.delay("after")
    until(lambda: truth.job(uuid)["state"] == "done", what=standby.runner.log)


def test_what_the_one_had_on_its_way_the_other_one_knows(pair, truth, tmp_path):
    """Jobs that run are not run twice, and take their room."""
    leader, standby = pair
    go = tmp_path / "go"
    functions.wait_for.delay_many([(str(go), "a"), (str(go), "b")])
    until(lambda: truth.states() == {"started": 2})
    leader.runner.kill()
    uuid = functions.note.delay("after")
    standby.wait_until_it_leads()
    go.touch()
    until(lambda: truth.states() == {"done": 3}, what=standby.runner.log)
    assert truth("SELECT max(attempt) AS n FROM procman.job")[0]["n"] == 1
    assert truth.job(uuid)["state"] == "done"


def test_another_database_may_have_another_leader(host, jobs_url, database, truth):
    """The lease is one of a database, and not of all that a runner serves."""
    lease = Lease("elsewhere", lease=600)
    with signaling.lend(database) as connection, connection.cursor() as cr:
        lease.claim(cr, cr)
        with_it = host()
        until(lambda: "elsewhere on " in with_it.runner.log(), what=with_it.runner.log)
        uuid = functions.note.delay("a")
        assert truth.job(uuid)["state"] == "pending"
        lease.release(cr, cr)
    until(lambda: truth.job(uuid)["state"] == "done", what=with_it.runner.log)
