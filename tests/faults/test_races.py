"""The seven races of signaling by a number (see `tests.support.naive`), each against a store that loses it and ours.

Each test is one script of steps in the one order that matters. Against the naive store the script must end in a
stale read, or it would show nothing; against procman's it must not.
"""

from __future__ import annotations

import contextvars

import pytest

import procman
from procman import signaling
from procman.core.spec import DatabaseSpec
from tests.support.naive import Naive, nothing
from tests.support.pricer import Pricer, with_schema


class Ours:
    """A process of procman's, with the steps of `Naive`."""

    def __init__(self, url):
        self._pricer = Pricer(url)

    def close(self):
        self._pricer.kill()

    kill = close

    def begin(self, between=nothing):
        self._pricer.ask("begin")
        self._pricer.ask("in unit: price", 5)  # whatever needs the caches first opens the transaction
        between()

    def price(self, item):
        return self._pricer.ask("in unit: price", item)

    def set(self, item, value):
        self._pricer.ask("in unit: set", item, value)

    def commit(self, between=nothing):
        self._pricer.ask("commit")
        between()

    def end(self):
        self._pricer.ask("rollback")


@pytest.fixture
def url(database_url):
    with_schema(database_url)
    return database_url


@pytest.fixture
def make(url):
    """Makes processes: ``make("naive", **how)`` or ``make("ours", …)``; all are closed at the end."""
    made = []

    def make(kind, **how):
        made.append(Naive(url, **how) if kind == "naive" else Ours(url))
        return made[-1]

    yield make
    for process in made:
        process.close()


def read(process, *items):
    """What a unit of the process finds."""
    process.begin()
    try:
        found = [process.price(item) for item in items]
    finally:
        process.end()
    return found if len(found) > 1 else found[0]


def write(process, item, value, between=nothing):
    process.begin()
    process.set(item, value)
    process.commit(between)


both = pytest.mark.parametrize(("kind", "stale"), [("naive", True), ("ours", False)])


@both
def test_a_the_signal_comes_before_the_commit(make, kind, stale):
    """Who reads in between computes from the old data and remembers the new number: stale for ever."""
    reader, writer = make(kind, signal="before"), make(kind, signal="before")
    assert read(reader, 1) == 0
    write(writer, 1, 7, between=lambda: read(reader, 1))
    assert (read(reader, 1) != 7) == stale


class Killed(Exception):
    pass


@both
def test_b_the_signal_comes_after_the_commit(make, kind, stale):
    """Who reads in between is stale for a moment; who is killed in between has invalidated nothing."""
    reader, writer = make(kind, signal="after"), make(kind, signal="after")
    assert read(reader, 1) == 0
    seen = []
    write(writer, 1, 7, between=lambda: seen.append(read(reader, 1)))
    assert (seen != [7]) == stale

    def die():
        raise Killed

    assert read(reader, 1) == 7
    with pytest.raises(Killed):
        write(writer, 1, 8, between=die)
    writer.close()
    assert (read(reader, 1) != 8) == stale


@both
def test_c_the_commits_come_in_another_order_than_the_numbers(make, kind, stale):
    """The later number is visible first: who has seen it does not notice the earlier one."""
    how = {"counter": "table", "signal": "within", "check": "after"}
    reader, first, second = (make(kind, **how) for _ in range(3))
    assert read(reader, 1, 2) == [0, 0]
    first.begin()
    first.set(1, 7)
    second.begin()
    second.set(2, 8)
    second.commit()
    assert read(reader, 1, 2) == [0, 8]
    first.commit()
    assert (read(reader, 1, 2) != [7, 8]) == stale


@both
def test_d_a_process_takes_its_own_signal_for_the_last(make, kind, stale):
    """It remembers the number that it has made itself, and so has seen those of others that came before."""
    one, other = make(kind, swallows=True), make(kind, swallows=True)
    assert read(one, 1, 2) == [0, 0]
    one.begin()
    one.set(1, 7)
    write(other, 2, 8)
    one.commit()
    assert (read(one, 1, 2) != [7, 8]) == stale


@both
def test_e_check_and_data_are_of_different_moments(make, kind, stale):
    """A commit in between: the unit meets one value from its cache as it was, the other from the data as it is."""
    reader, writer = make(kind), make(kind)
    assert read(reader, 1) == 0

    def both_rise():
        writer.begin()
        writer.set(1, 7)
        writer.set(2, 7)
        writer.commit()

    reader.begin(between=both_rise)
    one, two = reader.price(1), reader.price(2)
    reader.end()
    assert (one != two) == stale


@both
def test_g_the_number_is_newer_than_the_data(make, kind, stale):
    """A sequence is not of the snapshot: what is computed from the old data is kept under the new number."""
    reader, writer = make(kind, check="after"), make(kind, check="after")
    reader.begin(between=lambda: write(writer, 1, 7))
    assert reader.price(1) == 0
    reader.end()
    assert (read(reader, 1) != 7) == stale


# -- (f) is between units of one process ----------------------------------------------------------------------


def test_f_a_late_fill_naive(make):
    """A unit with an old snapshot puts what it computes into the cache that newer units use."""
    process, writer = make("naive"), make("naive")
    process.begin()
    write(writer, 1, 7)
    process.look()  # another thread's unit begins: the cache is emptied, the number is the new one
    process.fill(1)  # and the old unit's thread comes to compute
    process.end()
    assert read(process, 1) == 0  # stale, for ever


def test_f_a_late_fill_ours(url, make):
    signaling.configure(DatabaseSpec(url=url))

    @procman.cached("prices")
    def price(item):
        with procman.cursor() as cr:
            cr.execute("SELECT price FROM item WHERE id = %s", [item])
            return cr.fetchone()[0]

    old, new = contextvars.copy_context(), contextvars.copy_context()
    try:
        old.run(signaling.begin)
        assert old.run(price, 5) == 0  # its snapshot is taken
        write(make("ours"), 1, 7)
        new.run(signaling.begin)
        assert new.run(price, 1) == 7
        assert old.run(price, 1) == 0  # computed late, from the old snapshot
        assert new.run(price, 1) == 7
        assert price(1) == 7
    finally:
        for context in (old, new):
            context.run(lambda: signaling.current().rollback())
        signaling.configure(None)
