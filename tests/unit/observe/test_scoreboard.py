"""A worker's record, written and read: whole, whatever comes together in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from procman.observe.scoreboard import Record, Scoreboard

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def board(tmp_path: Path) -> Scoreboard:
    return Scoreboard.create(str(tmp_path / "board"), 3)


@pytest.fixture
def record(board: Scoreboard) -> Record:
    made = board.writer(1)
    made.claim(4711)
    return made


def test_a_unit_from_its_beginning_to_its_end(board: Scoreboard, record: Record) -> None:
    assert (board.read(1).pid, board.read(1).unit) == (4711, None)
    record.begin("GET /caf\u00e9")
    record.in_database("shop")
    record.as_user(7)
    record.bound(30.0)
    record.query(0.25)
    record.query(0.5)
    during = board.read(1)
    assert (during.unit, during.database, during.user) == ("GET /caf\u00e9", "shop", 7)
    assert (during.queries, during.query_seconds, during.unit_started) == (2, 0.75, record.started)
    assert during.unit_limit == 30.0
    record.end(failed=True)
    after = board.read(1)
    assert (after.unit, after.requests, after.errors, after.beat) == (None, 1, 1, record.ended)
    record.begin("GET /")
    again = board.read(1)
    assert (again.database, again.user, again.queries, again.query_seconds) == ("", 0, 0, 0.0)
    assert again.unit_limit is None


@pytest.mark.parametrize("name", ["job a:b", "", "\u20ac" * 200])
def test_a_unit_gets_another_name_and_stays_what_it_is(board: Scoreboard, record: Record, name: str) -> None:
    record.begin("x" * 240)
    record.in_database("shop")
    record.query(0.5)
    record.bound(30.0)
    record.rename(name)
    read = board.read(1)
    assert (read.unit or "").rstrip("\ufffd") == name[:81]
    assert (read.database, read.queries, read.unit_started, read.unit_limit) == ("shop", 1, record.started, 30.0)


def test_progress_is_of_the_unit_that_has_told_it(board: Scoreboard, record: Record) -> None:
    assert board.read(1).progress is None
    record.begin("job")
    assert board.read(1).progress is None
    record.progress(0.25)
    assert board.read(1).progress == 0.25
    record.end()
    assert board.read(1).progress is None
    record.begin("the next one")
    assert board.read(1).progress is None


@pytest.mark.parametrize("length", [0, 243, 244, 245, 10_000])
def test_a_long_name_is_cut(board: Scoreboard, record: Record, length: int) -> None:
    record.begin("x" * length)
    assert board.read(1).unit == "x" * min(length, 244)


def test_a_name_that_is_cut_within_a_character_can_be_read(board: Scoreboard, record: Record) -> None:
    record.begin("x" + "\u20ac" * 200)
    assert (board.read(1).unit or "").rstrip("\ufffd") == "x" + "\u20ac" * 81


def test_a_name_in_bytes_is_the_same_name(board: Scoreboard, record: Record) -> None:
    record.begin("GET /caf\u00e9".encode())
    assert board.read(1).unit == "GET /caf\u00e9"


def test_units_are_told_apart_by_their_numbers(record: Record) -> None:
    # By these, limits know whether what they have found before is still there.
    seen = []
    for _ in range(3):
        assert record.unit is None
        record.begin(b"GET /")
        seen.append(record.unit)
        record.query(0.1)
        assert record.unit == seen[-1]
        record.end()
    assert record.unit is None
    assert len({*seen, None}) == 4


def test_traffic(board: Scoreboard, record: Record) -> None:
    record.served(0.001, 10, 100)
    record.served(0.0011, 0, 50)
    record.served(500.0, 5, 0)
    record.connected(12)
    traffic = board.read(1).traffic
    assert (traffic.received, traffic.sent, traffic.connections) == (15, 150, 12)
    assert traffic.seconds == pytest.approx(500.0021)
    assert (traffic.latencies[0], traffic.latencies[1], traffic.latencies[-1], sum(traffic.latencies)) == (1, 1, 1, 3)


def test_records_do_not_touch_each_other(board: Scoreboard, record: Record) -> None:
    record.begin("x" * 300)
    record.served(1000.0, 1, 1)
    for other in (0, 2):
        assert (board.read(other).pid, board.read(other).unit, sum(board.read(other).traffic.latencies)) == (0, None, 0)
    board.clear(1)
    assert board.read(1).pid == 0
