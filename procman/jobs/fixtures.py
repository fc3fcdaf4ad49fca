"""For pytest: ``pytest_plugins = ["procman.jobs.fixtures"]`` in an application's conftest.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from procman.jobs import testing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from procman.signaling import Unit


@pytest.fixture
def procman_unit() -> Iterator[Unit]:
    """A unit for the test, of which nothing remains: see `procman.jobs.testing`."""
    with testing.rolled_back() as unit:
        yield unit
