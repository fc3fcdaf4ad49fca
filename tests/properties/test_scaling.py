"""A pool that scales itself, for any load: it settles, it stays within its bounds, and it never flaps."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from procman.core.scaling import CALM, MARGIN, MEASURE_EVERY, Load, Scaler, needed
from procman.core.spec import Scaling

scalings = st.builds(
    lambda least, more, busy: Scaling(least=least, most=least + more, busy=busy),
    st.integers(1, 10),
    st.integers(0, 40),
    st.floats(0.05, 1),
)
loads = st.floats(0, 60)


class Pool:
    """Workers that are there a second after they are wanted; what they can't do waits."""

    def __init__(self, scaling, target):
        self.scaling, self.scaler = scaling, Scaler()
        self.target = self.ready = target
        self.now = 0.0
        self.targets = [target]

    def second(self, load, *, share=None):
        self.now += MEASURE_EVERY
        busy = min(load, self.ready)
        for _ in range(2):  # it may want to know how much memory is used, before it says
            memory = int(share * self.ready) if share and self.scaler.needs_memory(self.scaling, self.now) else None
            measured = Load(busy=busy, waiting=math.ceil(load - busy), memory=memory)
            self.scaler.measure_at = None
            self.target = self.scaler.target(self.scaling, measured, target=self.target, ready=self.ready, now=self.now)
            if self.scaler.measure_at != self.now:
                break
        self.ready = self.target
        self.targets.append(self.target)
        return self.target

    def run(self, seconds, load, **more):
        return [self.second(load, **more) for _ in range(int(seconds))]


@given(scaling=scalings, load=loads, data=st.data())
def test_under_a_load_that_stays_the_same_it_settles_and_never_changes_again(scaling, load, data):
    pool = Pool(scaling, data.draw(st.integers(scaling.least, scaling.most)))
    pool.run((CALM + 2) * (scaling.most + 2), load)
    assert len(set(pool.run(10 * CALM, load))) == 1
    enough, plenty = needed(load, scaling.busy), needed(load, scaling.busy * MARGIN)
    assert scaling.clamp(enough) <= pool.target <= scaling.clamp(plenty)


@given(scaling=scalings, load=loads, data=st.data())
def test_it_comes_to_rest_from_one_side(scaling, load, data):
    """Whatever was there before: up and then perhaps down, or only down; never down and up again."""
    pool = Pool(scaling, data.draw(st.integers(scaling.least, scaling.most)))
    pool.run((CALM + 2) * (scaling.most + 2), load)
    turns = [after - before for before, after in zip(pool.targets, pool.targets[1:], strict=False) if after != before]
    ups = [index for index, step in enumerate(turns) if step > 0]
    assert not ups or max(ups) == len(ups) - 1


@given(scaling=scalings, history=st.lists(st.tuples(loads, st.integers(1, 40)), max_size=12))
def test_it_stays_within_its_bounds_and_shrinks_one_by_one(scaling, history):
    pool = Pool(scaling, scaling.least)
    for load, seconds in history:
        pool.run(seconds, load)
    for before, after in zip(pool.targets, pool.targets[1:], strict=False):
        assert scaling.least <= after <= scaling.most
        assert after >= before - 1


@given(scaling=scalings, history=st.lists(st.tuples(loads, st.integers(1, 40)), max_size=12))
def test_it_shrinks_no_sooner_than_fewer_have_been_enough_for_a_while(scaling, history):
    pool = Pool(scaling, scaling.least)
    demand = []
    for load, seconds in history:
        demand += [load] * len(pool.run(seconds, load))
    for second, (before, after) in enumerate(zip(pool.targets, pool.targets[1:], strict=False)):
        if after < before:
            calm = demand[max(0, second - int(CALM)) : second]
            assert min(needed(load, scaling.busy * MARGIN) for load in calm) < before


@given(
    scaling=scalings,
    share=st.integers(2**20, 2**30),
    workers=st.integers(1, 50),
    history=st.lists(st.tuples(loads, st.integers(1, 40)), min_size=1, max_size=8),
)
def test_it_never_grows_beyond_its_memory(scaling, share, workers, history):
    scaling = Scaling(least=scaling.least, most=scaling.most, busy=scaling.busy, memory_budget=share * workers)
    pool = Pool(scaling, scaling.least)
    for load, seconds in history:
        pool.run(seconds, load, share=share)
        assert pool.target <= max(scaling.least, workers)
