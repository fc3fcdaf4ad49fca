"""One closed vocabulary of reasons, spelled the same in log line, event, metric, exit record and command line."""

from __future__ import annotations

import json

import pytest

from procman.cli.output import status_text
from procman.core import effect as do
from procman.core import event as ev
from procman.core.pool import EXITS_KEPT
from procman.core.reason import Reason
from procman.daemon.reading import _exits
from procman.dashboard import metrics
from tests.support.simulation import World, pool

WORDS = (
    "finished reload scale_down shutdown max_requests max_age memory_soft memory_hard cpu_time real_time hang "
    "boot_failed boot_timeout grace_expired oom crashed killed_by_user lost"
)
POOL = {
    "kind": "http",
    "state": "running",
    "target": 1,
    "ready": 1,
    "busy": 0,
    "generation": 1,
    "workers": [],
    "parked": None,
}


def test_the_vocabulary_is_closed():
    assert " ".join(Reason) == WORDS


@pytest.mark.parametrize("reason", Reason)
def test_it_is_spelled_the_same_everywhere(reason):
    world = World(pool("http"))
    world.start()
    worker = world.id_of("http.1")
    world.arbiter.worker(worker).reason = reason
    effects = world.exit(worker, 0)
    report = next(r for r in world.of(do.Report, effects) if r.event == "exited")
    assert f" exited: {reason.value}, " in report.text  # the log line
    assert json.loads(json.dumps({"reason": report.reason})) == {"reason": reason.value}  # the event
    exits = _exits(world.pool("http"))
    assert [record["reason"] for record in exits] == [reason.value]  # the reply
    shown = status_text({"pools": {"http": {"exits": exits}}})
    assert reason.value in shown  # the command line
    families = metrics._pools({"http": {**POOL, "exits": exits}})
    samples = next(samples for name, _, _, samples in families if name == "procman_pool_last_exits")
    assert samples == [({"pool": "http", "reason": reason.value}, 1)]


def test_the_last_exits_of_each_slot_are_kept_however_often_another_one_dies():
    world = World(pool("http", workers=3))
    world.start()
    world.pass_time(10)
    world.kill("http.2")
    for _ in range(50):
        world.pass_time(10)
        world.kill("http.1")
    exits = _exits(world.pool("http"))
    assert [record["worker"] for record in exits] == ["http.2"] + ["http.1"] * EXITS_KEPT
    assert len(_exits(world.pool("http"), "http.2")) == 1
    assert [record["at"] for record in exits] == sorted(record["at"] for record in exits)


def test_a_parked_pool_is_shown_with_its_reason_until_it_is_started():
    world = World(pool("http"))
    world.stillborn.add("http")
    world.start()
    world.pass_time(300)
    assert world.pool("http").state.value == "parked"
    parked = world.pool("http").parked
    assert "RuntimeError: stillborn" in parked
    assert parked in status_text({"pools": {"http": {"parked": parked}}})
    world.stillborn.clear()
    world.send(ev.StartAsked("op", ("http",)))
    assert world.pool("http").state.value == "running"
    assert world.pool("http").parked is None
    assert world.concluded[-1] == ("op", "http", "done")
