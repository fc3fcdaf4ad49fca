"""The queue of deadlines: a table of moments."""

from __future__ import annotations

from procman.workers.http_timers import TimerQueue


def test_the_first_to_begin_is_the_first_to_end() -> None:
    queue: TimerQueue[str] = TimerQueue(5.0)
    assert queue.next() is None
    queue.start("a", 1.0)
    queue.start("b", 2.0)
    assert (queue.next(), len(queue), queue.items()) == (6.0, 2, ["a", "b"])
    assert queue.expired(5.9) == []
    assert queue.expired(6.0) == ["a"]
    assert queue.expired(100.0) == ["b"]
    assert queue.next() is None


def test_starting_again_moves_to_the_end() -> None:
    queue: TimerQueue[str] = TimerQueue(5.0)
    queue.start("a", 1.0)
    queue.start("b", 2.0)
    queue.start("a", 3.0)
    assert queue.next() == 7.0
    assert queue.expired(7.5) == ["b"]
    assert "a" in queue
    assert "b" not in queue


def test_stopping_what_does_not_wait_is_nothing() -> None:
    queue: TimerQueue[str] = TimerQueue(5.0)
    queue.start("a", 1.0)
    queue.stop("a")
    queue.stop("a")
    assert len(queue) == 0
