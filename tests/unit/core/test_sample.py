"""What counts by class tell of times: a table."""

from __future__ import annotations

import pytest

from procman.core.sample import LATENCY_BOUNDS, quantile

CLASSES = len(LATENCY_BOUNDS) + 1


def counts(*pairs: tuple[int, int]) -> list[int]:
    made = [0] * CLASSES
    for at, count in pairs:
        made[at] = count
    return made


@pytest.mark.parametrize(
    ("latencies", "share", "seconds"),
    [
        (counts(), 0.5, None),
        (counts((0, 10)), 0.5, 0.0005),
        (counts((0, 10)), 1.0, 0.001),
        (counts((0, 50), (1, 50)), 0.5, 0.001),
        (counts((0, 50), (1, 50)), 0.75, 0.00175),
        (counts((3, 1)), 0.5, 0.0075),
        (counts((0, 98), (9, 2)), 0.99, 0.75),
        (counts((CLASSES - 1, 1)), 0.5, LATENCY_BOUNDS[-1]),
        (counts((0, 1), (CLASSES - 1, 1)), 0.99, LATENCY_BOUNDS[-1]),
    ],
)
def test_quantiles(latencies: list[int], share: float, seconds: float | None) -> None:
    found = quantile(latencies, share)
    assert found == (None if seconds is None else pytest.approx(seconds))
