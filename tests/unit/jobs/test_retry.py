"""How long a job waits before another try."""

from __future__ import annotations

import pytest

from procman.jobs.retry import check_pattern, wait_before

PATTERN = {1: 10, 5: 60, 10: (300, 600)}


@pytest.mark.parametrize(("tries", "seconds"), [(1, 10), (2, 10), (4, 10), (5, 60), (9, 60), (10, 450), (99, 450)])
def test_the_last_entry_that_is_reached_counts(tries, seconds):
    assert wait_before(check_pattern(PATTERN), tries, lambda low, high: (low + high) / 2) == seconds


@pytest.mark.parametrize(("pattern", "tries"), [(None, 1), ({}, 3), ({3: 10}, 2)])
def test_before_the_first_entry_it_is_ten_minutes(pattern, tries):
    assert wait_before(check_pattern(pattern), tries, max) == 600


@pytest.mark.parametrize("pattern", [{0: 1}, {"1": 1}, {True: 1}, {1: -1}, {1: (1, 2, 3)}, {1: "soon"}])
def test_patterns_that_can_not_be_meant(pattern):
    with pytest.raises(ValueError, match="retry_pattern"):
        check_pattern(pattern)
