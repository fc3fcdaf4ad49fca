"""What is decided as a process becomes a worker."""

from __future__ import annotations

import pytest

from procman.core.spec import DatabaseSpec
from procman.workers.boot import fitting

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("configured", "memory_soft", "kept"),
    [(64, None, 64), (64, 2048 * MIB, 64), (64, 150 * MIB, 10), (5, 150 * MIB, 5), (64, MIB, 1)],
)
def test_registries_fit_below_the_memory_limit(configured, memory_soft, kept):
    assert fitting(DatabaseSpec(url="x", registries=configured), memory_soft).registries == kept
