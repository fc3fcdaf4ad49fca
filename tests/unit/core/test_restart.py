from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from procman.core.restart import Pauses, Restarts, delay
from procman.core.spec import Backoff


@given(failures=st.integers(0, 5000), chance=st.floats(0, 1, exclude_max=True))
def test_a_delay_is_capped_and_only_the_first_failure_is_free(failures, chance):
    backoff = Backoff()
    wait = delay(backoff, failures, chance)
    assert 0 <= wait <= backoff.most
    assert (wait == 0) == (failures <= 1)


def test_without_jitter_delays_never_shrink():
    waits = [delay(Backoff(), failures, 0.5) for failures in range(50)]
    assert waits == sorted(waits)


def test_old_failures_are_forgotten():
    restarts = Restarts()
    for second in range(0, 100, 20):
        restarts.died_young(Backoff(), second, started=second - 1, chance=0.5)
    assert not restarts.exhausted(5, 60.0, 100.0)
    assert restarts.exhausted(1, 60.0, 100.0)


def test_pauses_grow_until_something_succeeds():
    pauses = Pauses(0.1, 1.0)
    assert [pauses.next() for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    pauses.over()
    assert pauses.next() == 0.1
    assert all(pauses.next() <= 1.0 for _ in range(5000))
