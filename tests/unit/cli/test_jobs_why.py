"""What a job waits for, as a table of what is known to what is said."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from procman.cli import jobs_why


def at(seconds):
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def job(state="pending", **more):
    return {
        "database": "shop", "uuid": "1f", "state": state, "channel": "root.mail.slow", "function": "a:b",
        "description": None, "eta": None, "date_created": at(-10), "date_enqueued": at(-1), "date_started": at(-5),
        "date_done": at(-1), "exec_time": 0.5, "worker": "http.1", "worker_pid": 7, "attempt": 2, "progress": None,
        "exc_name": "E", "exc_message": "no", "depends_on": [], **more,
    }  # fmt: skip


def runner(state="leads", *, known=True, answer=True, database="shop", **more):
    said = {
        "database": database, "state": state, "leader": None, "problem": "gone", "known": known, "waits_for": [],
        "ahead": 0, "ahead_in_all": 0, "by_turns": False, **more,
    }  # fmt: skip
    return {"worker": "jobrunner.1", "pid": 9, "answer": {"databases": [said]} if answer else None}


def composed(job, runners=(), problem=None, **circumstances):
    return jobs_why.compose(job, {"channels": [], "leader": None, **circumstances}, runners, problem)


LEADER = {"worker": "jobrunner.1", "host": "b", "since": at(-9), "alive": True}
PAUSED = {"name": "root.mail", "paused": True, "since": at(-60), "by": "eve"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((job(), [runner()]), ["turn"]),
        ((job(), [runner(ahead=1, ahead_in_all=2)]), ["turn"]),
        ((job(), [runner(waits_for=[{"for": "not_due", "text": "x"}, {"for": "full", "text": "y"}])]), ["eta", "full"]),
        ((job(), [runner(known=False)]), ["unseen"]),
        ((job(), [runner("down", known=False)]), ["database"]),
        ((job(), [runner("stands by", known=False)]), ["leader"]),
        ((job(), [runner(answer=False)]), ["runner"]),
        ((job(), [runner(database="other")]), ["runner"]),
        ((job(), []), ["runner"]),
        ((job(), [], "the daemon could not be asked: gone"), ["runner"]),
        # From when the tests are collected, long before they run.
        ((job(eta=at(100_000)), []), ["eta", "runner"]),
        ((job(eta=at(-100)), []), ["runner"]),
        ((job("enqueued"), [runner()]), ["worker", "unseen"]),
        ((job("started"), [runner()]), []),
        ((job("done"), [runner()]), []),
        ((job("cancelled"), [runner()]), []),
    ],
)
def test_reasons(given, words):
    assert [one["for"] for one in composed(*given)["waits_for"]] == words


def test_circumstances():
    found = composed(job(), channels=[PAUSED, {**PAUSED, "name": "root.mai"}], leader=LEADER)["waits_for"]
    assert [one["for"] for one in found] == ["paused", "leader"]
    assert re.fullmatch(r"channel root\.mail, paused by eve \d+m \d+s ago", found[0]["text"])
    assert found[1]["text"].startswith("jobrunner.1 on b, which starts the jobs of this database")
    assert composed(job(), leader={**LEADER, "alive": False})["waits_for"][0]["for"] == "runner"


def test_parents_that_are_not_done():
    parents = [
        {"uuid": "a", "state": "done", "function": "x:a"},
        {"uuid": "b", "state": "failed", "function": "x:b"},
        {"uuid": "c", "state": "started", "function": "x:c"},
    ]
    found = composed(job("wait_dependencies", depends_on=parents))
    assert [(one["uuid"], one["state"]) for one in found["waits_for"]] == [("b", "failed"), ("c", "started")]
    assert "`jobs retry` tries it again" in found["waits_for"][0]["text"]
    text = jobs_why.text(found)
    assert re.search(r"waits since [\d.]+s for\n  parent    x:b b, which is failed; ", text), text


def test_what_is_said_of_other_states():
    says = {state: composed(job(state))["says"] for state in ("started", "done", "failed", "cancelled", "enqueued")}
    assert re.fullmatch(r"runs in http\.1 \(pid 7\) for [\d.]+s, try 2", says["started"])
    assert says["done"].endswith(", in 500ms")
    assert says["failed"].endswith(": E: no")
    assert says["cancelled"] == "was cancelled: no"
    assert jobs_why.text(composed(job("started"))).endswith(", try 2")
