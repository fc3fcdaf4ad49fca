"""What docs/jobs.md shows, runs."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

from procman.jobs import testing

PAGE = (Path(__file__).parents[3] / "docs/jobs.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
MODULE, EXAMPLES, TEST = BLOCKS[0], BLOCKS[1:-1], BLOCKS[-1]

# What the page does not show.
STUBS = """
def deliver(address, subject, price):
    return subject != "busy"

def find_places(product):
    return ["here", "there"]
"""


@pytest.fixture
def names(monkeypatch):
    """The names of the module that the page begins with, which can be imported."""
    module = types.ModuleType("shop_jobs")
    monkeypatch.setitem(sys.modules, "shop_jobs", module)
    exec(MODULE + STUBS, vars(module))
    return vars(module)


def test_there_are_examples():
    assert MODULE.startswith("# shop/jobs.py")
    assert len(EXAMPLES) == 5
    assert "def test_" in TEST


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_examples(example, names, database):
    with testing.rolled_back():
        exec(example, dict(names))
        ran = testing.run_jobs(future=True)
        assert ran
        assert {job.state for job in ran} == {"done"}


def test_the_test(names, database):
    inside = dict(names)
    exec(TEST, inside)
    with testing.rolled_back() as unit:
        inside["test_the_report"](unit)
