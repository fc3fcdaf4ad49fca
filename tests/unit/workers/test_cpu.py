"""Whose CPU time it is that a tick of the clock finds."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from procman.observe.scoreboard import Record, Scoreboard
from procman.workers.cpu import CpuLimit

if TYPE_CHECKING:
    from pathlib import Path


class Worker:
    """A worker whose clock goes as the test says; ``ended`` counts what the limit has ended."""

    def __init__(self, record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
        self.record = record
        self.clock = 100.0
        self.ended = 0
        self._limit = CpuLimit(1.0, record, self._exceeded)
        monkeypatch.setattr("procman.workers.cpu.process_time", lambda: self.clock)

    def _exceeded(self) -> None:
        self.ended += 1

    def tick(self, after: float) -> None:
        self.clock += after
        self._limit._on_tick(signal.SIGPROF, None)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    return Worker(Scoreboard.create(str(tmp_path / "board"), 1).writer(0), monkeypatch)


def test_a_unit_is_ended_once_when_it_has_used_the_limit_since_the_first_tick(worker: Worker) -> None:
    worker.record.begin(b"burns")
    for _ in range(4):
        worker.tick(0.3)
    assert worker.ended == 0
    for _ in range(4):
        worker.tick(0.3)
    assert worker.ended == 1


def test_many_units_that_are_each_found_at_work_are_not_one_long_one(worker: Worker) -> None:
    for _ in range(50):
        worker.record.begin(b"short")
        worker.tick(0.3)
        worker.record.end()
    assert worker.ended == 0


def test_what_the_loop_uses_between_units_is_nobody_s(worker: Worker) -> None:
    for _ in range(5):
        worker.record.begin(b"short")
        worker.tick(0.3)
        worker.record.end()
        for _ in range(5):
            worker.tick(0.3)
    worker.record.begin(b"short")
    worker.tick(0.3)
    assert worker.ended == 0


def test_the_next_unit_that_is_over_is_ended_as_well(worker: Worker) -> None:
    for number in (1, 2):
        worker.record.begin(b"burns")
        for _ in range(6):
            worker.tick(0.3)
        worker.record.end()
        assert worker.ended == number
