"""Durations, sizes, numbers, words: what is read, and that writing gives it back."""

from __future__ import annotations

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from procman.config.environment import Expanded, expand
from procman.config.problems import Wrong
from procman.config.values import LONGEST, Boolean, Duration, Fraction, Given, Integer, ListOf, OrNone, Size, Text
from procman.config.words import HistoryAge, ResourceLimits, SignalName, Umask, Variables, Workers


def reading(kind, value):
    return kind.read(Given(value, ("key",), "/base"))


def written(kind, value):
    """What is read from what is written."""
    raw = tomli.loads(f"key = {kind.write(value)}")["key"]
    return reading(kind, expand(raw, {}) if isinstance(raw, str) else raw)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (1, 1.0),
        (0.25, 0.25),
        ("250ms", 0.25),
        ("30s", 30.0),
        ("30 s", 30.0),
        ("1.5m", 90.0),
        ("2h", 7200.0),
        (Expanded("12"), 12.0),
        (Expanded("1.5"), 1.5),
        (Expanded("5m"), 300.0),
    ],
)
def test_durations(value, seconds):
    assert reading(Duration(), value) == seconds


def test_a_duration_of_zero_only_where_it_means_something():
    assert reading(Duration(zero=True), 0) == 0.0
    with pytest.raises(Wrong):
        reading(Duration(), 0)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (1, 1),
        ("1B", 1),
        ("1KiB", 1024),
        ("640MiB", 640 * 2**20),
        ("1.5GiB", 3 * 2**29),
        ("2TiB", 2**41),
        ("1kB", 1000),
        ("10MB", 10_000_000),
        ("1GB", 10**9),
        ("1 TB", 10**12),
        (Expanded("4096"), 4096),
    ],
)
def test_sizes(value, size):
    assert reading(Size(), value) == size


def test_only_what_comes_from_the_environment_may_be_the_text_of_a_number():
    assert reading(Integer(), Expanded("7")) == 7
    assert reading(Fraction(1, 10), Expanded("7.5")) == 7.5
    assert reading(Boolean(), Expanded("true")) is True
    assert reading(Workers(), Expanded("7")) == 7
    for kind, text in ((Integer(), "7"), (Fraction(1, 10), "7.5"), (Boolean(), "true"), (Workers(), "7")):
        with pytest.raises(Wrong):
            reading(kind, text)


def test_none_is_no_limit():
    assert reading(OrNone(Size()), "none") is None


def test_a_list_or_one_value():
    assert reading(ListOf(Text()), "a") == reading(ListOf(Text()), ["a"]) == ("a",)
    assert reading(ListOf(Text()), ["a", "b"]) == ("a", "b")


def test_every_bad_item_of_a_list_is_told():
    with pytest.raises(Wrong) as caught:
        reading(ListOf(Integer()), [1, "x", 2, True])
    assert [problem.path for problem in caught.value.problems] == [("key", 1), ("key", 3)]


@pytest.mark.parametrize(("value", "mask"), [("022", 0o22), ("0o077", 0o77), ("0", 0), ("777", 0o777)])
def test_umasks(value, mask):
    assert reading(Umask(), value) == mask


@pytest.mark.parametrize("value", ["TERM", "SIGTERM"])
def test_signals(value):
    assert reading(SignalName(), value) == "TERM"


def test_resource_limits():
    given_limits = {"nofile": 1024, "core": "unlimited", "data": "1MiB", "nproc": 0}
    limits = (("nofile", 1024), ("core", -1), ("data", 2**20), ("nproc", 0))
    assert reading(ResourceLimits(), given_limits) == limits
    assert written(ResourceLimits(), limits) == limits


@given(st.floats(min_value=0, max_value=LONGEST))
def test_durations_are_written_as_they_are(seconds):
    assert written(Duration(zero=True), seconds) == seconds


@given(st.integers(min_value=1, max_value=2**63 - 1) | st.integers(1, 2**20).map(lambda number: number * 2**20))
def test_sizes_are_written_as_they_are(size):
    assert written(Size(), size) == size


@given(st.floats(min_value=1, max_value=100))
def test_fractions_are_written_as_they_are(value):
    assert written(Fraction(1, 100), value) == value


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_strings_are_written_as_they_are(text):
    assert written(Text(empty=True), text) == text


@given(
    st.lists(
        st.tuples(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*", fullmatch=True), st.text("a${}\"'\\\n é")),
        unique_by=lambda pair: pair[0],
    )
)
def test_variables_are_written_as_they_are(pairs):
    raw = tomli.loads(f"key = {Variables().write(tuple(pairs))}")["key"]
    assert reading(Variables(), {name: expand(value, {}) for name, value in raw.items()}) == tuple(pairs)


@pytest.mark.parametrize(
    ("value", "pairs", "text"),
    [
        ("720h", (("root", 2592000.0),), '"2592000s"'),
        ("none", (("root", None),), '"none"'),
        (
            {"root": "2h", "root.mail": 5, "audit": "none"},
            (("root", 7200.0), ("root.mail", 5.0), ("audit", None)),
            '{ "root" = "7200s", "root.mail" = "5s", "audit" = "none" }',
        ),
    ],
)
def test_how_long_jobs_are_kept(value, pairs, text):
    assert reading(HistoryAge(), value) == pairs
    assert HistoryAge().write(pairs) == text
    assert reading(HistoryAge(), tomli.loads(f"x = {text}")["x"]) == pairs
