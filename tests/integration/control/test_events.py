"""procmanctl events against a real daemon: what has been, what comes, what was missed, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from contextlib import closing, contextmanager

import pytest

from procman.cli.output import event_line
from procman.control.client import Client
from procman.control.publisher import Publisher
from procman.control.subscriber import SETTLING, Subscription, follow
from tests.support.daemon import PATIENCE, Procmand, program

SLEEPER = """
[pools.sleeper]
kind = "exec"
command = ["sleep", "1000"]
start_seconds = 0.05
"""


@contextmanager
def following(daemon, *arguments):
    """`procmanctl events --follow` under way."""
    process = subprocess.Popen(
        [program("procmanctl"), "-c", str(daemon.file), "events", "--follow", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process, found):
    """The lines up to the first one for which ``found`` is true."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if found(line):
            return lines
    raise AssertionError(f"it ended with {process.wait()} before that: {lines} {process.stderr.read()}")


def test_the_last_events(short_path):
    with Procmand(short_path, SLEEPER) as daemon:
        document = json.loads(daemon.procmanctl("events", "--json").stdout)
        events = document["events"]
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert document["seq"] == len(events)
        assert "pool.sleeper.ready" in [event["topic"] for event in events]
        assert [event["seq"] for event in daemon.ctl("events", since=1)["events"]] == list(range(2, len(events) + 1))
        text = daemon.procmanctl("events", "--last", "1")
        assert len(text.stdout.splitlines()) == 1, text
        assert daemon.procmanctl("events").stdout.count("\n") == len(events)


def test_events_as_they_come_until_the_daemon_ends(short_path):
    with Procmand(short_path, SLEEPER) as daemon, following(daemon, "--json", "--last", "100") as process:
        lines = read_until(process, lambda line: "pool.sleeper.serving" in line)
        began = daemon.ctl("events")["events"]
        pid = daemon.worker("sleeper.1")["pid"]
        os.kill(pid, signal.SIGKILL)
        daemon.wait_replaced("sleeper.1", pid)
        daemon.stop(signal.SIGTERM)
        events = [json.loads(line) for line in [*lines, *process.stdout]]
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == "procmanctl: the daemon has ended\n"
    assert events[: len(began)] == began
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    (gone,) = [event for event in events if event["topic"] == "pool.sleeper.exited" and event["pid"] == pid]
    assert (gone["slot"], gone["reason"], gone["status"]) == ("sleeper.1", "killed_by_user", -signal.SIGKILL)
    assert events[-1]["topic"] == "pool.sleeper.exited"


def test_lines_for_people_and_an_end_by_interrupt(short_path):
    with Procmand(short_path, SLEEPER) as daemon, following(daemon) as process:
        read_until(process, lambda line: "sleeper@1" in line and "serving" in line)
        pid = daemon.worker("sleeper.1")["pid"]
        daemon.ctl("kill", name="sleeper.1")
        (*_, line) = read_until(process, lambda line: " exited " in line)
        assert f"killed_by_user pid={pid} status=SIGKILL" in line
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (0, ""), out
        assert daemon.pool("sleeper")["state"] == "running"


@pytest.fixture
def publisher(daemon, short_path):
    """A publisher whose events the daemon answers with."""

    def answer(call):
        events = publisher.recent(call.properties.get("since", 0))
        call.reply({"endpoint": publisher.endpoint, "seq": publisher.sequence, "events": events})

    daemon.answers["events"] = answer
    with closing(Publisher([f"ipc://{short_path}/var/events.sock"])) as publisher:
        yield publisher


def test_events_that_a_slow_follower_missed_are_asked_for_and_else_said(publisher, endpoint):
    with Client(endpoint, timeout=PATIENCE) as client, closing(follow(client, 0)) as events:
        publisher.publish("before", pool="http")
        threading.Timer(SETTLING, publisher.publish, ("first",)).start()
        assert next(events)["topic"] == "arbiter.first"
        # Nobody reads meanwhile, so ZeroMQ drops what is beyond its queues and the kernel's buffers.
        while publisher.sequence < 20_000:
            publisher.publish("tick", pool="http", text="x" * 500)
        came = []
        while not came or came[-1].get("seq") != publisher.sequence:
            came.append(next(events))
            if came[-1].get("seq", 0) > 1000 and publisher.sequence == 20_000:
                publisher.publish("last", pool="http")
    # Each is there or among those that are said to be missed, and ZeroMQ may have dropped them in several goes.
    expected = 3
    for event in came:
        assert event.get("seq", event.get("from")) == expected
        expected = event.get("to", expected) + 1
    assert expected == 20_002
    gaps = [event for event in came if "missed" in event]
    assert all(gap["missed"] == gap["to"] - gap["from"] + 1 for gap in gaps)
    assert sum(gap["missed"] for gap in gaps) > 1000
    assert f"{gaps[0]['missed']} events were missed" in event_line(gaps[0])


def test_what_happens_while_the_subscription_is_on_its_way_is_not_lost(publisher, endpoint, daemon):
    publisher.publish("before")
    answer = daemon.answers["events"]

    def answer_and_publish(call):
        answer(call)
        if len(daemon.calls) == 2:  # the subscription may or may not have arrived
            publisher.publish("meanwhile")

    daemon.answers["events"] = answer_and_publish
    with Client(endpoint, timeout=PATIENCE) as client, closing(follow(client, 5)) as events:
        assert [next(events)["topic"] for _ in range(2)] == ["arbiter.before", "arbiter.meanwhile"]


def test_a_daemon_that_counts_anew_is_followed(publisher, endpoint):
    with Client(endpoint, timeout=PATIENCE) as client, closing(follow(client, 0)) as events:
        publisher.sequence = 500
        threading.Timer(SETTLING, publisher.publish, ("old",)).start()
        assert next(events)["seq"] == 501
        publisher.sequence = 0
        publisher.publish("new")
        assert next(events)["topic"] == "arbiter.new"


def test_a_subscription_says_that_its_daemon_was_killed(short_path):
    with Procmand(short_path, SLEEPER) as daemon:
        with Subscription(daemon.ctl("events")["endpoint"]) as subscription:
            daemon.kill()
            began = time.monotonic()
            while not subscription.ended:
                subscription.receive(PATIENCE)
            assert time.monotonic() - began < 10
        daemon.wait_gone()
        for path in (short_path / "var").iterdir():
            path.unlink()
