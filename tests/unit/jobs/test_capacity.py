"""How many jobs may be on their way, by who serves and who is busy with what."""

from __future__ import annotations

import pytest

from procman.core.spec import MOST_EXCHANGES
from procman.jobs import capacity
from procman.jobs.capacity import Capacity
from procman.observe.scoreboard import Scoreboard


@pytest.fixture
def board(tmp_path):
    return Scoreboard.create(str(tmp_path / "board"), 8)


@pytest.fixture(autouse=True)
def always_look(monkeypatch):
    monkeypatch.setattr(capacity, "LOOK_EVERY", 0.0)


def crewed(board, workers, *, threads=1, **options):
    made = Capacity(board=board, **options)
    made.crew(tuple(range(workers)), threads)
    return made


def test_as_many_as_there_are_workers(board):
    capacity = crewed(board, 3)
    assert [capacity.room(underway) for underway in range(5)] == [3, 2, 1, 0, -1]


def test_as_many_as_there_are_threads(board):
    assert crewed(board, 3, threads=4).room(2) == 10


def test_follows_the_pool(board):
    capacity = crewed(board, 3)
    capacity.crew((0,), 1)
    assert capacity.room(0) == 1
    capacity.crew((), 1)
    assert capacity.room(0) == 0
    capacity.crew((0, 1, 2, 3), 1)
    assert capacity.room(0) == 4


def test_leaves_workers_to_users_but_never_none_to_jobs(board):
    assert [crewed(board, workers, reserve=1).room(0) for workers in range(5)] == [0, 1, 1, 2, 3]
    assert crewed(board, 2, reserve=7).room(0) == 1


def test_a_worker_that_serves_a_user_has_no_room(board):
    capacity = crewed(board, 3)
    record = board.writer(0)
    record.begin("GET /")
    assert capacity.room(0) == 2
    assert capacity.shared
    record.end()
    assert capacity.room(0) == 3
    assert not capacity.shared


def test_a_worker_that_runs_a_job_counts_once(board):
    capacity = crewed(board, 3)
    board.writer(0).begin("job 1")
    assert capacity.room(1) == 2  # it is one of those on their way
    assert not capacity.shared  # whose end is told


def test_with_threads_what_is_busy_is_taken_whoever_it_is_by(board):
    capacity = crewed(board, 1, threads=4)
    record = board.writer(0)
    for unit in ("GET /", "job 1", "GET /x"):
        record.begin(unit)
    assert capacity.room(1) == 1


def test_a_number_is_a_number(board):
    capacity = crewed(board, 3, most=7)
    board.writer(0).begin("GET /")
    assert capacity.room(2) == 5
    assert not capacity.shared


def test_as_long_as_nobody_has_told_there_is_no_limit_but_of_descriptors(board):
    assert Capacity(board=board).room(1) == MOST_EXCHANGES - 1
