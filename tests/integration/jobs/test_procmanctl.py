"""`procmanctl jobs`, the real program, on databases with jobs in every state."""

from __future__ import annotations

import json
from contextlib import closing

import psycopg2
import pytest

from procman.cli.jobs import STATES
from procman.jobs import execute, report
from tests.support import jobs as functions
from tests.support import procmanctl

# The keys are promised to programs.
BRIEF = [
    *("database", "uuid", "state", "channel", "function", "description", "priority", "identity_key", "retry"),
    *("max_retries", "attempt", "eta", "date_created", "date_enqueued", "date_started", "date_done", "exec_time"),
    *("worker", "worker_host", "worker_pid", "exc_name", "exc_message", "progress"),
]
FULL = ["args", "kwargs", "result", "exc_info", "retry_pattern", "timeout", "batch", "graph"]
RELATED = ["attempts", "depends_on", "dependents"]


@pytest.fixture
def ctl(jobs_url, tmp_path):
    """Run procmanctl jobs in an empty directory, with the database in its environment."""

    def ctl(*arguments, url=jobs_url, code=0):
        done = procmanctl.run(tmp_path, url, "jobs", *arguments, code=code)
        return json.loads(done.stdout) if "--json" in arguments else done.stderr if code else done.stdout

    return ctl


@pytest.fixture
def run(database, truth):
    def run(uuid):
        truth("UPDATE procman.job SET state = 'enqueued', date_enqueued = now() WHERE uuid = %s", uuid)
        execute.run(database, uuid, worker="http.1")
        return uuid

    return run


def uuids(document):
    return [job["uuid"] for job in document["jobs"]]


def test_the_states_are_those_of_the_rows():
    assert STATES == report.STATES


def test_jobs_are_listed_the_youngest_first(ctl, run, database):
    first, second = functions.note.delay("a"), functions.configured.delay("b")
    document = ctl("list", "--json")
    assert uuids(document) == [second, first]
    assert document["problems"] == {}
    assert list(document["jobs"][0]) == BRIEF
    assert (document["jobs"][0]["channel"], document["jobs"][0]["database"]) == ("root.mail", database)
    lines = ctl("list").splitlines()
    assert lines[0].split() == ["JOB", "STATE", "CHANNEL", "FUNCTION", "TRIES", "AGE"]
    assert lines[1].split()[:5] == [second[:8], "pending", "root.mail", "tests.support.jobs:configured", "0/2"]


def test_what_is_wanted_is_listed(ctl, run, truth):
    failed, done, waiting = run(functions.fail.delay("x")), run(functions.note.delay()), functions.configured.delay("b")
    truth(
        "UPDATE procman.job SET channel = 'root.mail.slow', date_created = now() - interval '3 h' WHERE uuid = %s", done
    )
    assert uuids(ctl("list", "--json", "--state", "failed")) == [failed]
    assert uuids(ctl("list", "--json", "--state", "failed", "--state", "done")) == [failed, done]
    assert uuids(ctl("list", "--json", "--state", "pending", "--state", "started")) == [waiting]
    assert uuids(ctl("list", "--json", "--channel", "mail")) == [waiting, done]
    assert uuids(ctl("list", "--json", "--channel", "root.mai")) == []
    assert uuids(ctl("list", "--json", "--function", "JOBS:FAI")) == [failed]
    assert uuids(ctl("list", "--json", "--since", "2h")) == [waiting, failed]
    assert uuids(ctl("list", "--json", "--since", "2000-01-01")) == [waiting, failed, done]
    assert uuids(ctl("list", "--json", "-n", "1")) == [waiting]
    assert ctl("list", "--state", "started") == "There is no such job.\n"
    assert "ValueError: no \\0 x" in ctl("list", "--state", "failed")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["list", "--state", "lost"], "'lost' is not one of"),
        (["list", "--since", "yesterday"], "expected for how long, such as 30m"),
        (["show", "no-uuid"], "is no uuid, nor the beginning of one"),
        (["show", "0" * 33], "is no uuid"),
        (["show", "--"], "Missing argument 'UUID'"),
    ],
)
def test_what_is_not_understood(ctl, arguments, says):
    assert says in ctl(*arguments, code=2)


def test_all_about_a_job(ctl, run, truth, database):
    uuid = run(functions.fail.delay("x"))
    job = ctl("show", uuid, "--json")
    assert list(job) == [*BRIEF, *FULL, *RELATED]
    assert (job["state"], job["args"], job["exc_name"]) == ("failed", ["x"], "builtins.ValueError")
    assert job["date_done"].endswith("+00:00")
    text = ctl("show", uuid[:9])
    assert 'tests.support.jobs:fail("x")' in text
    assert "in fail" in text
    assert f"uuid      {uuid}" in text
    truth(
        "INSERT INTO procman.job_progress (job_id, number, done, total, note)"
        " SELECT id, 1, 3, 12, 'of it' FROM procman.job"
    )
    assert "progress  ━━━━━─────────────── 25%, 3 of 12: of it (" in ctl("show", uuid)


def test_relatives_are_shown(ctl, truth):
    parent, child = functions.note.delay("parent"), functions.note.delay("child")
    truth(
        "INSERT INTO procman.job_dependency (parent, child) SELECT parent.id, child.id FROM procman.job AS parent,"
        " procman.job AS child WHERE parent.uuid = %s AND child.uuid = %s", parent, child,
    )  # fmt: skip
    assert [one["uuid"] for one in ctl("show", child, "--json")["depends_on"]] == [parent]
    assert [one["uuid"] for one in ctl("show", parent, "--json")["dependents"]] == [child]
    assert "Depends on" in ctl("show", child)


def test_a_beginning_must_be_of_one_job_only(ctl, truth):
    for uuid in ("abcd0000-0000-4000-8000-000000000001", "abcd0000-0000-4000-8000-000000000002"):
        truth("INSERT INTO procman.job (uuid, function) VALUES (%s, 'x:y')", uuid)
    said = ctl("show", "abcd", code=1)
    assert said.startswith("procmanctl: more than one job begins with abcd, say more of it:\n  abcd0000-0000-4000-8")
    assert ctl("show", "abcd0000000040008000000000000002", "--json")["uuid"].endswith("2")
    assert ctl("show", "1", code=1).startswith("procmanctl: there is no job 1 in database t_")
    assert ctl("show", "1", "--json", code=1)["exit_code"] == 1


def test_the_rest_of_the_configuration_does_not_matter(ctl, jobs_url, tmp_path):
    """It may be broken, or need variables that are set for the daemon alone."""
    (tmp_path / "procman.toml").write_text(
        f'[procman]\ncontrol = "${{UNSET}}"\n[database]\nurl = "{jobs_url}"\n[pools.x]\nkind = "${{UNSET}}"\n'
    )
    assert ctl("list", "--json") == {"jobs": [], "problems": {}}
    (tmp_path / "procman.toml").write_text('[database]\nurl = "${UNSET}"\n')
    assert ctl("list", "--json") == {"jobs": [], "problems": {}}  # $PROCMAN_DATABASE_URL overrides it
    assert "UNSET" in ctl("list", url="", code=78)


def test_databases_that_can_not_be_asked(ctl, jobs_url, database, tmp_path):
    """One that is broken hides no other, and is not passed over in silence either."""
    uuid = functions.note.delay("a")
    (tmp_path / "procman.toml").write_text(
        f'[database]\nurl = "{jobs_url}"\ndatabases = ["missing"]\n[pools.x]\nkind = "exec"\ncommand = ["true"]\n'
    )
    document = ctl("list", "--json", code=1)
    assert uuids(document) == [uuid]
    assert list(document["problems"]) == ["missing"]
    assert 'database "missing" does not exist' in ctl("list", code=1)
    assert ctl("show", uuid, "--json")["uuid"] == uuid
    assert "could not be asked" in ctl("show", uuid[:6], code=1)
    assert ctl("show", uuid[:6], "--database", database, "--json")["uuid"] == uuid
    assert "no database is called 'missin', did you mean 'missing'?" in ctl("list", "--database", "missin", code=1)
    assert "can't be reached" in ctl("list", url="postgresql:///x?host=/nonexistent", code=1)


def test_a_database_that_is_none_of_procmans_is_left_as_it_is(ctl, postgres_server, database):
    name = f"{database}_bare"
    postgres_server.execute(f'CREATE DATABASE "{name}"')
    try:
        url = postgres_server.url(name)
        assert f"database {name}: it has no tables of procman's: workers make them" in ctl("list", url=url, code=1)
        assert "has no tables" in ctl("retry", "--all", url=url, code=1)
        assert "has no tables" in ctl("pause", "mail", "--anyway", url=url, code=1)
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cr:
            cr.execute("SELECT to_regnamespace('procman')")
            assert cr.fetchone() == (None,)
    finally:
        postgres_server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def test_jobs_are_tried_again(ctl, run, truth):
    failed, done, waiting = run(functions.fail.delay("x")), run(functions.note.delay()), functions.note.delay()
    document = ctl("retry", failed[:10], done, waiting, "--json", code=1)
    assert [(one["uuid"], one["was"], one["state"]) for one in document["jobs"]] == [(failed, "failed", "pending")]
    assert {(one["uuid"], one["reason"]) for one in document["left"]} == {
        (done, "it is done; --done has it done once more"),
        (waiting, "it waits to be run as it is"),
    }
    assert (truth.job(failed)["state"], truth.job(failed)["retry"]) == ("pending", 0)
    assert ctl("retry", "--done", done) == f"{done}: done → pending\n"


def test_all_that_failed_are_tried_again(ctl, run, truth):
    failed = [run(functions.fail.delay(str(number))) for number in range(21)]
    truth("UPDATE procman.job SET channel = 'root.other' WHERE uuid = %s", failed[0])
    assert ctl("retry", "--all", "--channel", "other") == f"{failed[0]}: failed → pending\n"
    truth("UPDATE procman.job SET state = 'failed'")
    assert ctl("retry", "--all", "--function", "jobs:fail", "--since", "1h") == "21 jobs: failed → pending\n"
    assert ctl("retry", "--all") == "There is no such job.\n"


def test_jobs_are_cancelled(ctl, run, truth):
    waiting, done = functions.note.delay(), run(functions.note.delay())
    assert ctl("cancel", waiting) == f"{waiting}: pending → cancelled\n"
    assert truth.job(waiting)["exc_message"].startswith("cancelled by ")
    assert "it is done" in ctl("cancel", done, "--json", code=1)["left"][0]["reason"]
    assert "it is cancelled already" in ctl("cancel", waiting, "--json", code=1)["left"][0]["reason"]
    others = [functions.note.delay(), functions.configured.delay("a")]
    assert {one["uuid"] for one in ctl("cancel", "--all", "--json")["jobs"]} == set(others)
    truth("UPDATE procman.job SET state = 'started', date_started = now() WHERE uuid = %s", others[0])
    assert "it runs; --running ends it" in ctl("cancel", others[0], "--json", code=1)["left"][0]["reason"]
    assert ctl("cancel", "--running", others[0]) == f"{others[0]}: started → cancelled\n"


@pytest.mark.parametrize("command", ["retry", "cancel"])
def test_which_jobs_must_be_said(ctl, command):
    assert "say which jobs: their UUIDs, or --all" in ctl(command, code=2)
    assert "say which jobs" in ctl(command, "--channel", "root", code=2)
    assert "either UUIDs, or --all" in ctl(command, "1f", "--all", code=2)
    assert "either UUIDs, or --all" in ctl(command, "1f", "--channel", "root", code=2)


def test_channels_are_paused_and_resumed(ctl, truth):
    functions.configured.delay("b")
    assert ctl("pause", "mail", "root") == "root.mail: paused\nroot: paused\n"
    rows = truth("SELECT name, paused, by <> '' AS by FROM procman.job_channel ORDER BY name")
    assert rows == [{"name": "root", "paused": True, "by": True}, {"name": "root.mail", "paused": True, "by": True}]
    since = truth("SELECT since FROM procman.job_channel WHERE name = 'root'")
    ctl("pause", "root")
    assert truth("SELECT since FROM procman.job_channel WHERE name = 'root'") == since
    assert ctl("resume", "root.mail", "--json")["channels"] == [{"name": "root.mail", "paused": False}]
    assert truth("SELECT name FROM procman.job_channel WHERE paused") == [{"name": "root"}]


def test_a_channel_that_nobody_knows_is_a_slip(ctl, truth):
    functions.configured.delay("b")
    assert "nobody knows a channel 'root.mial', did you mean 'root.mail'?" in ctl("pause", "root.mial", code=1)
    assert truth("SELECT FROM procman.job_channel") == []
    said = "procmanctl: nobody knows a channel 'root.mial', did you mean 'root.mail'?\n"
    assert ctl("stats", "mial", code=1) == said
    assert [one["name"] for one in ctl("stats", "mail", "--json")["channels"]] == ["root.mail"]
    assert ctl("pause", "--anyway", "mial") == "root.mial: paused\n"
    assert ctl("resume", "root.mial") == "root.mial: goes on\n"


def test_a_slip_in_the_name_of_a_channel_is_hinted_at(ctl, jobs_url, tmp_path):
    functions.configured.delay("b")
    done = procmanctl.run(tmp_path, jobs_url, "jobs", "list", "--channel", "root.mial")
    assert done.stdout == "There is no such job.\n"
    assert done.stderr == "procmanctl: no job of a channel 'root.mial' is known, did you mean 'root.mail'?\n"
