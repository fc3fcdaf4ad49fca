"""Fixtures of the cron worker's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.crontab.harness import Gate, Pool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TABLES = """
CREATE TABLE ran (
    id int GENERATED ALWAYS AS IDENTITY, name text, planned timestamptz, pid int
);
CREATE TABLE counter (value int);
INSERT INTO counter VALUES (0);
"""


@pytest.fixture
def pool(short_path: Path, database_url: str) -> Iterator[Pool]:
    """A database with the tables that the functions write to, and no worker yet."""
    made = Pool(short_path, database_url)
    made.ask(TABLES)
    yield made
    made.close()


@pytest.fixture
def gate(short_path: Path) -> Iterator[Gate]:
    made = Gate(str(short_path / "gate"))
    yield made
    made.close()
