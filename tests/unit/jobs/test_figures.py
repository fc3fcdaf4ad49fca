"""What a runner says of itself: only what is new, never more than fits, and never late for it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from procman.core.channels import parse
from procman.core.lifecycle import MOST_JSON
from procman.jobs.figures import AGAIN, EVERY, Figures
from procman.jobs.meter import BOUNDS, MOST_CHANNELS, OTHERS, Meter
from procman.jobs.scheduler import Job, Scheduler


class Target:
    closed_until = 0.0

    def __str__(self):
        return "127.0.0.1:80"


@pytest.fixture
def runner():
    state = {"state": "leads", "leader": None, "problem": None}
    link = SimpleNamespace(state=lambda: state, resting={("root", "failed"): 3})
    return SimpleNamespace(
        scheduler=Scheduler(parse("root:4,root.mail:1:sequential")), meter=Meter(), target=Target(), links={"a": link}
    )


def job(id, channel="root"):  # noqa: A002
    return Job(10, 1000.0 + id, id, "a", id, 0.0, channel, "pending")


def row(state, channel="root", waited=None, seconds=None):
    return SimpleNamespace(state=state, channel=channel, waited=waited, seconds=seconds)


def test_what_is_said(runner):
    runner.scheduler.put(job(1))
    runner.scheduler.put(job(2, "root.mail"))
    runner.scheduler.next(0.0)
    runner.meter.settled([row("done", waited=0.002, seconds=0.2), row("failed"), row("pending"), row("started")])
    said = json.loads(Figures(runner).due(1.0))
    assert said["channels"]["root"] == {
        "capacity": 4, "running": 1, "waiting": 1, "paused": False, "sequential": False, "throttle": 0.0, "fair": False,
    }  # fmt: skip
    assert sorted(said["jobs"], key=str) == [
        ["a", "root", "failed", 3, None], ["a", "root", "running", 1, None], ["a", "root.mail", "pending", 1, 1002.0],
    ]  # fmt: skip
    assert said["ended"] == {"root": {"done": 1, "failed": 1, "retried": 1}}
    assert sum(said["times"]["root"]["waited"]["counts"]) == 1
    assert said["times"]["root"]["ran"]["counts"][BOUNDS.index(0.25)] == 1
    assert said["databases"]["a"]["state"] == "leads"


def test_it_is_said_once_and_again_when_it_is_new_or_old(runner):
    figures = Figures(runner)
    assert figures.due(0.0) is not None
    assert figures.seconds_left(0.0) == AGAIN
    assert figures.due(0.5) is None
    assert figures.seconds_left(0.5) == EVERY - 0.5  # something may have happened
    assert figures.due(EVERY) is None  # but has not
    assert figures.seconds_left(EVERY) == AGAIN - EVERY
    runner.scheduler.put(job(1))
    assert json.loads(figures.due(2 * EVERY + 0.25))["channels"]["root"]["waiting"] == 1
    assert figures.due(AGAIN) is None
    assert figures.due(AGAIN + 3 * EVERY) is not None


def test_a_loop_that_is_late_says_so(runner):
    figures = Figures(runner)
    figures.due(0.0)
    figures.due(0.5)
    runner.scheduler.put(job(1))
    assert json.loads(figures.due(1.75))["lag"] == 0.75


def test_it_always_fits_into_a_message(runner):
    for number in range(3000):
        runner.scheduler.put(job(number, f"root.customer_{number}_with_a_rather_long_name"))
    figures = Figures(runner)
    text = figures.due(0.0)
    assert len(text) <= MOST_JSON + 100
    assert text.isascii()
    said = json.loads(text)
    assert said["left_out"]["channels"] > 0
    assert said["left_out"]["jobs"] > 0


def test_channels_beyond_a_number_are_metered_together():
    meter = Meter()
    for number in range(MOST_CHANNELS + 5):
        meter.settled([row("done", f"root.{number}", 0.1, 0.1)])
    meter.settled([row("done", "root.0", 0.1, 0.1)])
    assert len(meter.ended) == MOST_CHANNELS + 1
    assert meter.ended[OTHERS] == {"done": 5}
    assert meter.ended["root.0"] == {"done": 2}
