"""Estimates of what values take."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from procman.signaling.weight import weight


@dataclass
class Row:
    name: str
    amount: float


def really(value):
    """Everything, counted."""
    if isinstance(value, dict):
        return sys.getsizeof(value) + sum(really(key) + really(each) for key, each in value.items())
    if isinstance(value, list | tuple | set):
        return sys.getsizeof(value) + sum(map(really, value))
    return sys.getsizeof(value)


@pytest.mark.parametrize(
    "value",
    [
        1,
        "x" * 1000,
        b"x" * 100_000,
        [f"name {number}" for number in range(1000)],
        {number: (number, f"text {number}") for number in range(10_000, 15_000)},
        [[float(a * b) for a in range(20)] for b in range(500, 600)],
    ],
    ids=["int", "text", "bytes", "list", "dict", "nested"],
)
def test_it_is_about_right(value):
    assert really(value) * 0.5 <= weight(value) <= really(value) * 2


def test_objects_count_with_what_they_hold():
    assert weight(Row("x" * 10_000, 1.0)) > 10_000


def test_what_holds_itself_ends():
    loop = []
    loop.append(loop)
    assert weight(loop) < 1000


def test_what_is_shared_is_counted_once_where_it_is_seen():
    text = "x" * 10_000
    assert weight([text, text]) < 15_000
