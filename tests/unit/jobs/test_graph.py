"""Groups and chains: who waits for whom."""

from __future__ import annotations

import pytest

import procman
from procman.jobs.graph import Prepared
from tests.support import jobs as functions


def prepared(*names):
    calls = []
    for name in names:
        call = functions.note.prepare(name)
        call.name = name
        calls.append(call)
    return calls


def edges(graph):
    return sorted((str(parent), str(child)) for parent, child in graph.edges)


def names(calls):
    return "".join(map(str, calls))


@pytest.mark.parametrize(
    ("make", "calls", "expected"),
    [
        (lambda a, b, c, d: procman.chain(a, b, c), "abc", "ab bc"),
        (lambda a, b, c, d: procman.group(a, b, c), "abc", ""),
        (lambda a, b, c, d: procman.chain(a, procman.group(b, c), d), "abcd", "ab ac bd cd"),
        (lambda a, b, c, d: procman.chain(procman.group(a, b), procman.group(c, d)), "abcd", "ac ad bc bd"),
        (lambda a, b, c, d: procman.group(procman.chain(a, b), procman.chain(c, d)), "abcd", "ab cd"),
        (lambda a, b, c, d: procman.chain(procman.group(procman.chain(a, b), c), d), "abcd", "ab bd cd"),
        (lambda a, b, c, d: procman.chain(a, procman.group(), d), "ad", "ad"),
        (lambda a, b, c, d: procman.chain(a), "a", ""),
        # The same call is the same job: what can't be written as chains of groups is a group of chains.
        (lambda a, b, c, d: procman.group(procman.chain(a, b, d), procman.chain(a, c)), "abdc", "ab ac bd"),
    ],
)
def test_who_waits_for_whom(make, calls, expected):
    graph = make(*prepared("a", "b", "c", "d"))
    assert names(graph.calls) == calls
    assert edges(graph) == sorted(tuple(pair) for pair in expected.split())


def test_first_and_last():
    a, b, c, d = prepared("a", "b", "c", "d")
    graph = procman.group(procman.chain(a, procman.group(b, c)), d)
    assert (names(graph.first), names(graph.last)) == ("ad", "bcd")


def test_parents_come_before_their_children():
    a, b, c = prepared("a", "b", "c")
    graph = procman.group(c, procman.chain(a, b), procman.chain(b, c))
    assert names(graph.calls) == "cab"
    assert names(graph.in_order()) == "abc"


def test_a_circle_is_refused():
    a, b = prepared("a", "b")
    with pytest.raises(ValueError, match=r"^jobs would wait for each other: (a → b → a|b → a → b)$"):
        procman.chain(a, b, a).delay()


@pytest.mark.parametrize("wrong", [functions.note, "note", None])
def test_what_is_no_call_is_refused(wrong):
    with pytest.raises(TypeError, match=r"expected calls such as f\.prepare\(…\), groups and chains of them, got"):
        procman.chain(wrong)
    with pytest.raises(TypeError, match=r"expected calls"):
        procman.group(functions.note.prepare("a"), wrong)


def test_arguments_are_looked_at_when_a_call_is_prepared():
    with pytest.raises(TypeError, match=r"^note\(\): too many positional"):
        functions.note.prepare("a", "b")
    call = functions.note.prepare("a")
    assert isinstance(call, Prepared)
    assert repr(call) == "<note(…), prepared>"
