from __future__ import annotations

from decimal import Decimal

import pytest

import procman
from procman.observe import whom
from procman.observe.scoreboard import Scoreboard


@pytest.fixture
def board(tmp_path, monkeypatch):
    monkeypatch.setattr(whom, "_records", [])
    return Scoreboard.create(str(tmp_path / "board"), 1)


def test_the_user_is_that_of_the_unit(board):
    record = board.writer(0)
    procman.set_user(5)  # nobody listens
    whom.write_to(record)
    record.begin("GET /")
    procman.set_user(7)
    assert board.read(0).user == 7
    record.end()
    record.begin("GET /")
    assert board.read(0).user == 0


@pytest.mark.parametrize(("user", "error"), [("7", TypeError), (None, TypeError), (2**64, OverflowError)])
def test_a_user_is_a_number(board, user, error):
    whom.write_to(board.writer(0))
    with pytest.raises(error):
        procman.set_user(user)


def test_how_far_the_unit_is(board):
    record = board.writer(0)
    whom.write_to(record)
    record.begin("job 1f")
    whom.rename("job demo:work 1f")
    for done, total, share in [
        (1, 4, 0.25),
        (1, None, 0.25),
        (3, 0, 0.25),
        (-1, 4, 0.0),
        (9, 4, 1.0),
        (Decimal(1), 2.0, 0.5),
    ]:
        whom.show_progress(done, total)
        assert (board.read(0).unit, board.read(0).progress) == ("job demo:work 1f", share)
