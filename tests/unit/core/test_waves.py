from __future__ import annotations

from procman.core.waves import cycles, dependents


def test_no_cycle():
    assert list(cycles({"a": ["b"], "b": ["c"], "c": [], "d": ["a", "c"]})) == []


def test_a_cycle_is_shown_with_its_way_back():
    assert list(cycles({"x": [], "a": ["b"], "b": ["c"], "c": ["a"]})) == [["a", "b", "c", "a"]]
    assert list(cycles({"a": ["a"]})) == [["a", "a"]]


def test_every_cycle_is_shown():
    assert list(cycles({"a": ["b"], "b": ["a"], "c": ["a", "d"], "d": ["c"]})) == [["a", "b", "a"], ["c", "d", "c"]]


def test_dependents_are_those_that_name_it():
    assert dependents({"a": ["c"], "b": ["a", "c"], "c": []}, "c") == ["a", "b"]
