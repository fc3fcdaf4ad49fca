"""Pools that scale themselves: what is wanted, by what was measured."""

from __future__ import annotations

import pytest

from procman.core import effect as do
from procman.core import event as ev
from procman.core.scaling import CALM, MEASURE_EVERY, QUIET_EVERY, Load, Scaler, needed
from procman.core.spec import Reload, Scaling
from tests.support.simulation import Kind, World, pool

MIB = 2**20


@pytest.mark.parametrize(
    ("load", "busy", "workers"),
    [(0, 0.7, 1), (0.7, 0.7, 1), (0.71, 0.7, 2), (1.4, 0.7, 2), (3.5, 0.5, 7), (3, 1, 3)],
)
def test_how_many_a_load_needs(load, busy, workers):
    assert needed(load, busy) == workers


class Office:
    """A pool that scales itself between 2 and 8, whose clients keep so many workers busy."""

    def __init__(self, **policy):
        scaling = Scaling(**{"least": 2, "most": 8, "busy": 0.5, **policy})
        self.world = World(pool("http", workers=scaling.least, scaling=scaling, reload=Reload(delay=3.0)))
        self.world.loads["http"] = self.load
        self.demand, self.waiting, self.worker_memory = 0.0, 0, None
        self.world.start()

    def load(self, memory):
        ready = self.world.pool("http").ready
        used = self.worker_memory * ready if memory and self.worker_memory else None
        return Load(busy=min(self.demand, ready), waiting=self.waiting, memory=used)

    def after(self, seconds, demand, waiting=0):
        self.demand, self.waiting = demand, waiting
        self.world.pass_time(seconds)
        return self.world.pool("http").target

    @property
    def steps(self):
        return [r.details["to"] for r in self.world.of(do.Report) if r.event == "scaled"]


def test_it_begins_with_the_least_and_stays_there_without_a_load():
    office = Office()
    assert office.after(1000, 0) == 2
    assert office.steps == []


def test_it_grows_within_seconds_and_never_beyond_the_most():
    office = Office()
    assert office.after(7, 2.9) == 6
    assert office.after(20, 100) == 8
    assert office.world.pool("http").ready == 8


def test_a_pool_that_has_nothing_to_do_is_measured_less_often():
    office = Office()

    def measurements(seconds, demand):
        before = len(office.world.of(do.Measure))
        office.after(seconds, demand)
        return len(office.world.of(do.Measure)) - before

    assert measurements(30, 0) == 30 / QUIET_EVERY
    assert office.after(QUIET_EVERY + MEASURE_EVERY, 1.9) > 2
    assert measurements(30, 1.9) == 30 / MEASURE_EVERY


def test_a_burst_of_less_than_a_second_starts_nobody():
    office = Office()
    office.after(10, 0.2)
    office.after(1, 1.6)
    assert office.after(20, 0.2) == 2


def test_connections_that_wait_count_as_load():
    office = Office(busy=1.0)
    assert office.after(10, 2, waiting=0) == 2
    assert office.after(10, 2, waiting=3) == 5


def test_it_shrinks_one_by_one_and_slowly():
    office = Office()
    office.after(60, 4)
    grown = len(office.steps)
    assert office.after(CALM, 0) == 8
    office.after(200, 0)
    assert office.steps[grown:] == [7, 6, 5, 4, 3, 2]


def test_a_little_less_to_do_takes_nobody_away():
    office = Office()
    assert office.after(60, 3.0) == 6
    assert (
        office.after(600, 2.45) == 6
    )  # five would be busy for 49 % of their time, one of whom would soon be wanted again
    assert office.after(600, 1.9) == 5


def test_it_grows_no_further_than_its_memory_allows():
    office = Office(memory_budget=500 * MIB)
    office.worker_memory = 100 * MIB
    assert office.after(60, 8) == 5


def test_it_shrinks_when_its_workers_grow():
    office = Office(memory_budget=500 * MIB)
    office.worker_memory = 100 * MIB
    office.after(60, 8)
    office.worker_memory = 200 * MIB
    assert office.after(100, 8) == 2  # so many at least
    office.worker_memory = 100 * MIB
    assert office.after(100, 8) == 5


def test_without_knowing_how_much_memory_is_used_it_does_not_grow():
    office = Office(memory_budget=500 * MIB)
    assert office.after(60, 8) == 2


def test_a_number_that_is_asked_for_stands_for_a_while_and_within_the_bounds():
    office = Office()
    office.world.send(ev.ScaleAsked("op", "http", 7))
    assert office.after(CALM - 1, 0) == 7
    assert office.after(200, 0) == 2
    office.world.send(ev.ScaleAsked("op2", "http", 100))
    assert office.world.pool("http").target == 8


def test_a_reload_is_not_disturbed():
    office = Office()
    office.after(60, 2)
    assert office.world.pool("http").target == 4
    office.world.send(ev.ReloadAsked("op", ("http",)))
    office.after(5, 8)
    assert office.world.pool("http").target == 4
    assert office.after(60, 8) == 8
    assert ("op", "http", "done") in office.world.concluded


def test_a_pool_that_has_a_fixed_number_is_never_measured():
    world = World(pool("http", workers=3), pool("command", Kind.EXEC))
    world.start()
    world.pass_time(1000)
    assert world.of(do.Measure) == []
    assert world.arbiter.pools["command"].deadline is None


def test_one_that_scales_itself_is_measured_once_a_second_while_it_runs():
    office = Office()
    first = len(office.world.of(do.Measure))
    office.after(100, 1)
    assert len(office.world.of(do.Measure)) - first <= 101
    office.world.send(ev.StopAsked("op", ("http",)))
    first = len(office.world.of(do.Measure))
    office.after(100, 1)
    assert len(office.world.of(do.Measure)) == first


def test_a_step_has_to_be_made_before_the_next_one():
    scaler, scaling = Scaler(), Scaling(least=1, most=100, busy=0.5)
    assert scaler.target(scaling, Load(busy=2, waiting=50), target=2, ready=2, now=0.0) == 8
    assert scaler.target(scaling, Load(busy=2, waiting=50), target=8, ready=2, now=1.0) == 8
    assert scaler.target(scaling, Load(busy=8, waiting=50), target=8, ready=8, now=2.0) > 8
