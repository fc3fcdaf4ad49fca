"""The digest and the generations against an oracle: what a unit finds is what its snapshot says.

The database is a list of commits here, so hypothesis can put units, commits, rollbacks and folds in any order.
"""

from __future__ import annotations

from functools import reduce
from operator import xor

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule

from procman.signaling.cache import MISSING, Generations
from procman.signaling.store import Signals

GROUPS = ("a", "b")
groups = st.sampled_from(GROUPS)


class Snapshot:
    """What one transaction sees: values, base and deltas as they were when it began."""

    def __init__(self, model):
        self.values = dict(model.values)
        rows = [(group, count, token, 0) for group, (count, token) in model.base.items()]
        deltas = {}
        for group, token in model.deltas:
            deltas.setdefault(group, []).append(token)
        sums = {group: (count, token, 0) for group, count, token, _ in rows}
        for group, tokens in deltas.items():
            count, token, _ = sums.get(group, (0, 0, 0))
            sums[group] = (count + len(tokens), reduce(xor, tokens, token), len(tokens))
        self.signals = Signals((group, *sums[group]) for group in sums)
        self.pending = {}
        self.generations = {}


class CachesOfSeveralProcesses(RuleBasedStateMachine):
    units = Bundle("units")

    @initialize(processes=st.integers(1, 3))
    def start(self, processes):
        self.values = dict.fromkeys(GROUPS, 0)
        self.base = {"procman.epoch": (0, 4711)}
        self.deltas = []
        self.commits = 0
        self.processes = [Generations() for _ in range(processes)]

    @rule(target=units, process=st.integers(0, 2))
    def begin(self, process):
        snapshot = Snapshot(self)
        snapshot.process = self.processes[process % len(self.processes)]
        return snapshot

    @rule(unit=units, group=groups)
    def write_and_invalidate(self, unit, group):
        unit.pending[group] = True

    @rule(unit=units, group=groups)
    def read(self, unit, group):
        if group in unit.pending:
            return  # its own overlay, which nobody shares
        generation = unit.generations.get(group)
        if generation is None:
            generation = unit.process.take(group, unit.signals.tag(group))
            unit.generations[group] = generation
        value = generation.get("f", group)
        if value is MISSING:
            value = unit.values[group]
            generation.put("f", group, value, maxsize=10)
        assert value == unit.values[group]

    @rule(unit=consumes(units), token=st.integers(0, 3))
    def commit(self, unit, token):
        for group in unit.pending:
            self.commits += 1
            self.values[group] = self.commits
            # Few different tokens, so that xors do cancel out; with real ones of 63 bits that never happens.
            self.deltas.append((group, token << 8 | self.commits))

    @rule(unit=consumes(units))
    def roll_back(self, unit):
        pass

    @rule()
    def fold(self):
        before = Snapshot(self).signals
        for group, token in self.deltas:
            count, sum_ = self.base.get(group, (0, 0))
            self.base[group] = (count + 1, sum_ ^ token)
        self.deltas = []
        after = Snapshot(self).signals
        assert [before.tag(group) for group in GROUPS] == [after.tag(group) for group in GROUPS]
        assert after.deltas == 0

    @rule(process=st.integers(0, 2))
    def a_new_process_or_a_killed_one(self, process):
        self.processes[process % len(self.processes)] = Generations()

    @rule(process=st.integers(0, 2))
    def reconnect(self, process):
        self.processes[process % len(self.processes)].revise(Snapshot(self).signals)


CachesOfSeveralProcesses.TestCase.settings = settings(max_examples=200, stateful_step_count=40)
TestCachesOfSeveralProcesses = CachesOfSeveralProcesses.TestCase
