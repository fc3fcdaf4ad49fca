"""Believing the caches for a moment: no look at the database, and how stale that may be."""

from __future__ import annotations

import psycopg2
import pytest

import procman
from procman import signaling
from procman.core.spec import DatabaseSpec
from procman.signaling.hint import Hint

RELAXED = 10.0


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("procman.signaling.database.monotonic", lambda: now[0])
    return now


@pytest.fixture
def relaxed(prices_url, tmp_path, clock):
    """This process is a worker of a relaxed pool."""
    signaling.configure(DatabaseSpec(url=prices_url), relaxed=RELAXED, hints=str(tmp_path))
    yield prices_url
    signaling.configure(None)


@pytest.fixture
def price():
    @procman.cached("prices")
    def price(item=1):
        with procman.cursor() as cr:
            cr.execute("SELECT price FROM item WHERE id = %s", (item,))
            return cr.fetchone()[0]

    return price


def elsewhere(url, value):
    """A change on another machine."""
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cr:
        cr.execute("UPDATE item SET price = %s", [value])
        procman.invalidate("prices", using=cr)
    connection.close()


def neighbour(url, tmp_path):
    """Another process of this machine has invalidated something."""
    Hint(str(tmp_path), psycopg2.extensions.parse_dsn(url)["dbname"]).change()


def opened(function):
    """What the function returns in a unit, and whether that needed the database."""
    with signaling.unit() as unit:
        return function(), unit.opened


def test_a_unit_with_warm_caches_needs_no_database(relaxed, price, clock):
    assert opened(price) == (0, True)
    assert opened(price) == (0, False)
    clock[0] += RELAXED - 0.001
    assert opened(price) == (0, False)
    clock[0] += 0.001
    assert opened(price) == (0, True)
    assert opened(price) == (0, False)


def test_a_strict_pool_always_looks(prices_url, price, clock):
    signaling.configure(DatabaseSpec(url=prices_url))
    assert opened(price) == (0, True)
    assert opened(price) == (0, True)
    signaling.configure(None)


def test_other_machines_are_seen_after_that_time(relaxed, price, clock):
    assert price() == 0
    elsewhere(relaxed, 5)
    clock[0] += RELAXED - 0.001
    assert price() == 0
    clock[0] += 0.001
    assert price() == 5


def test_its_own_writes_are_seen_at_once(relaxed, price):
    assert price() == 0
    with procman.cursor() as cr:
        cr.execute("UPDATE item SET price = 7")
        procman.invalidate("prices")
    assert opened(price) == (7, True)
    assert opened(price) == (7, False)
    procman.invalidate("prices")
    assert opened(price) == (7, True)


def test_those_of_this_machine_are_seen_at_once(relaxed, price, tmp_path):
    assert price() == 0
    elsewhere(relaxed, 5)
    neighbour(relaxed, tmp_path)
    assert opened(price) == (5, True)


def test_what_is_computed_late_poisons_nothing(relaxed, price, clock):
    assert price() == 0
    elsewhere(relaxed, 5)
    with signaling.unit() as unit:
        assert price(2) == 5  # computed in a newer snapshot, kept under the older tag
        assert unit.opened
    assert price(2) == 5
    clock[0] += RELAXED
    assert (price(), price(2)) == (5, 5)


def test_the_registry_is_believed_as_well(relaxed, clock, monkeypatch):
    loads = []

    def load(cr):
        loads.append(1)
        return len(loads)

    monkeypatch.setattr("procman.signaling.loading._loaders", [load])
    assert opened(procman.registry) == (1, True)
    assert opened(procman.registry) == (1, False)
    procman.reload_registry()
    assert opened(procman.registry) == (2, True)


def test_a_miss_looks(relaxed, price):
    assert price() == 0
    assert opened(lambda: price(2)) == (0, True)


def test_hints_reach_other_processes(tmp_path):
    one, two, another = Hint(str(tmp_path), "d"), Hint(str(tmp_path), "d"), Hint(str(tmp_path), "e")
    before = (one.value, another.value)
    two.change()
    assert one.value == two.value != before[0]
    assert another.value == before[1]


def test_where_no_file_can_be_had_the_hint_is_local():
    hint = Hint("/nonexistent", "d")
    before = hint.value
    hint.change()
    assert hint.value != before
