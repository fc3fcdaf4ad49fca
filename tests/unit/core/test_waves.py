from __future__ import annotations

from procman.core.waves import cycle, dependents


def test_no_cycle():
    assert cycle({"a": ["b"], "b": ["c"], "c": [], "d": ["a", "c"]}) is None


def test_a_cycle_is_shown_with_its_way_back():
    assert cycle({"x": [], "a": ["b"], "b": ["c"], "c": ["a"]}) == ["a", "b", "c", "a"]
    assert cycle({"a": ["a"]}) == ["a", "a"]


def test_dependents_are_those_that_name_it():
    assert dependents({"a": ["c"], "b": ["a", "c"], "c": []}, "c") == ["a", "b"]
