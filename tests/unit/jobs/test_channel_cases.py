"""The channel scheduler against a table of what job runners of this notation do."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from procman.core.channels import Channel, ChannelError, notation, parse, parse_databases
from procman.jobs.queues import matching
from procman.jobs.scheduler import Job, Scheduler

CASES = json.loads(Path(__file__).with_name("channel_cases.json").read_text())


KINDS = ("parse", "tree", "schedule", "db_max_capacity", "per_database_mode")


def cases(kind):
    return [pytest.param(case, id=case["id"]) for case in CASES[kind]]


def _full(name):
    return name if name == "root" or name.startswith("root.") else f"root.{name}"


@pytest.mark.parametrize("case", cases("parse"))
def test_parsing(case):
    if isinstance(case["expect"], dict):
        with pytest.raises(ChannelError) as raised:
            parse(case["input"])
        assert raised.value.kind == case["expect"]["error"]
        return
    expected = {}
    for entry in case["expect"]:
        name = _full(entry["name"])
        expected[name] = Channel(name=name, capacity=entry["capacity"] or None, **entry["options"])
    assert parse(case["input"]) == expected


@pytest.mark.parametrize("case", cases("tree"))
def test_effective_settings(case):
    if "error" in case["expect"]:
        with pytest.raises(ChannelError) as raised:
            parse(case["input"])
        assert raised.value.kind == case["expect"]["error"]
        return
    scheduler = Scheduler(parse(case["input"]))
    for number, name in enumerate(case["named"]):
        scheduler.put(job(f"n{number}", channel=name))
    shown = {name for entry in case["expect"].values() for name in entry} & {field.name for field in fields(Channel)}
    assert {
        name: {key: getattr(channel, key) for key in shown} for name, channel in scheduler.channels().items()
    } == case["expect"]


def job(key, *, db="db1", channel="root", seq=None, created=0, priority=10, eta=None, state="pending"):
    id = number_of(key, seq)  # noqa: A001
    return Job(priority, float(created), id, db, key, float(eta or 0), channel or "", state or "done")


def number_of(key, seq=None):
    """The case's keys as ids, in the order of their digits."""
    number = int(re.sub(r"\D", "", key)) if seq is None else seq
    return 256 * number + ord(key[0])


@pytest.mark.parametrize("case", cases("schedule"))
def test_schedule(case):
    scheduler = Scheduler(parse(case["config"]))
    now = 0.0
    results = []
    for step in case["steps"]:
        match step:
            case ["job", key, properties]:
                scheduler.put(job(key, **properties))
            case ["run", moment]:
                now = moment
                results.append(_run(scheduler, now, two_databases="@" in str(case["expect"])))
            case ["wake"]:
                results.append(scheduler.deadline(now) or 0)
            case ["gone", key]:
                scheduler.remove("db1", key)
            case ["drop_db", database]:
                scheduler.remove_database(database)
            case ["config", text]:
                scheduler.configure(parse(text))
            case _:
                raise ValueError(step)
    assert results == case["expect"]


def _run(scheduler, now, *, two_databases):
    started = []
    while chosen := scheduler.next(now):
        started.append(f"{chosen.key}@{chosen.database}" if two_databases else chosen.key)
    return started


def test_every_case_that_differs_says_why():
    differing = [case for kind in KINDS for case in CASES[kind] if "oca" in case]
    assert len(differing) > 15
    assert all(case["why"] for case in differing)


@pytest.mark.parametrize("text", sorted({case["input"] for kind in ("parse", "tree") for case in CASES[kind]}))
def test_what_is_read_can_be_written(text):
    try:
        channels = parse(text)
    except ChannelError:
        return
    assert parse(notation(channels.values())) == channels


class TestLimitsPerDatabase:
    """The notation of ODOO_QUEUE_JOB_DB_MAX_CAPACITY."""

    @pytest.mark.parametrize("case", cases("db_max_capacity"))
    def test_it(self, case):
        if "error" in case:
            with pytest.raises(ChannelError) as raised:
                parse_databases(case["input"])
            assert raised.value.kind == case["error"]
            return
        limits = parse_databases(case["input"])
        assert [list(pair) for pair in limits] == case["rules"]
        assert {name: matching(limits, name, None) for name in case["lookup"]} == case["lookup"]


@pytest.mark.parametrize("case", cases("per_database_mode"))
def test_databases_that_share_a_channel(case):
    """What OCA 18 does without configured channels, said in procman's words: a root that is fair."""
    scheduler = Scheduler(parse(case["config"]))
    for database, count in case["pending"].items():
        for number in range(count):
            scheduler.put(Job(10, 0.0, number, database, number, 0.0, "root", "pending"))
    started = _start(scheduler)
    assert [chosen.database for chosen in started] == case["started"]
    if "after" in case:
        for database in case["after"]["done"]:
            scheduler.put(next(chosen for chosen in started if chosen.database == database)._replace(state="done"))
        assert [chosen.database for chosen in _start(scheduler)] == case["after"]["started"]


def _start(scheduler):
    started = []
    while chosen := scheduler.next(1.0):
        started.append(chosen)
    return started
