"""`procman.cached` in one process."""

from __future__ import annotations

import threading

import psycopg2
import pytest

import procman
from procman import signaling
from procman.core.spec import DatabaseSpec


@pytest.fixture
def price(configured):
    """A cached function; ``price.calls`` are the arguments it was really called with."""
    calls = []

    @procman.cached("prices", maxsize=3)
    def price(item, *, currency="EUR"):
        calls.append(item)
        with procman.cursor() as cr:
            cr.execute("SELECT price FROM item WHERE id = %s", (item,))
            return cr.fetchone()[0]

    price.calls = calls
    return price


def set_price(value, item=1):
    with procman.cursor() as cr:
        cr.execute("UPDATE item SET price = %s WHERE id = %s", (value, item))


def test_computed_once(price):
    assert [price(1), price(1), price(item=1)] == [0, 0, 0]
    assert price(1, currency="USD") == 0
    assert price.calls == [1, 1]


def test_least_recently_used_leaves(price):
    for item in (1, 2, 3, 1, 4, 1, 2):
        price(item)
    assert price.calls == [1, 2, 3, 4, 2]


def test_invalidated_after_the_commit_only(price):
    price(1)
    with signaling.unit():
        set_price(7)
        assert price(1) == 0
        procman.invalidate("prices")
        assert [price(1), price(1)] == [7, 7]
        set_price(8)
        assert price(1) == 7  # changed without a word
        procman.invalidate("prices")
        assert price(1) == 8
    assert [price(1), price(1)] == [8, 8]
    assert price.calls == [1, 1, 1, 1]


def test_another_group_is_not_touched(price):
    price(1)
    procman.invalidate("offers")
    price(1)
    assert price.calls == [1]


def test_rolled_back_fills_are_gone(price):
    with signaling.unit() as unit:
        set_price(7)
        assert price(1) == 7
        unit.rollback()
    assert price(1) == 0


def test_fills_of_a_unit_that_wrote_stay_its_own(price):
    with signaling.unit():
        set_price(5, item=2)
        assert [price(1), price(1)] == [0, 0]
        assert price.calls == [1]
    assert price(1) == 0
    assert price.calls == [1, 1]


def test_back_to_a_savepoint(price):
    with signaling.unit(), procman.cursor() as cr:
        cr.execute("SAVEPOINT here")
        set_price(7)
        procman.invalidate("prices")
        assert price(1) == 7
        cr.execute("ROLLBACK TO SAVEPOINT here")
        assert price(1) == 0


def test_exceptions_are_not_cached(configured):
    calls = []

    @procman.cached("prices")
    def fails(item):
        calls.append(item)
        raise LookupError(item)

    for _ in range(2):
        with pytest.raises(LookupError):
            fails(1)
    assert calls == [1, 1]


def test_none_and_false_are_values(configured):
    calls = []

    @procman.cached("prices")
    def nothing():
        calls.append(1)

    assert [nothing(), nothing()] == [None, None]
    assert calls == [1]


def test_methods_and_keys(configured):
    class Product:
        def __init__(self, number):
            self.number = number
            self.calls = 0

        @procman.cached("prices")
        def price(self, times):
            self.calls += 1
            return self.number * times

        @procman.cached("prices", key=lambda self, items: (self.number, tuple(items)))
        def total(self, items):
            self.calls += 1
            return sum(items)

    one, two = Product(1), Product(2)
    assert [one.price(3), two.price(3), one.price(3)] == [3, 6, 3]
    assert [one.total([1, 2]), one.total([1, 2]), two.total([1, 2])] == [3, 3, 3]
    assert (one.calls, two.calls) == (2, 2)


def test_unhashable_arguments_are_named(price):
    with pytest.raises(TypeError, match=r"price\(\) is cached, but its argument 'item' is not hashable \(list\)"):
        price([1])
    with pytest.raises(TypeError, match="'currency' is not hashable"):
        price(1, currency={})


def test_what_can_not_be_cached():
    with pytest.raises(TypeError, match="used only once"):

        @procman.cached("prices")
        def numbers():
            yield 1

    with pytest.raises(TypeError, match=r'needs the name of a group: @procman.cached\("prices"\)'):
        procman.cached(lambda: 1)
    for group in ("", "it's", "back\\slash", "x" * 201, None):
        with pytest.raises(ValueError, match="is no group"):
            procman.cached(group)
    with pytest.raises(ValueError, match="procman's own"):
        procman.invalidate("procman.registry")


def test_statistics(price):
    price(1), price(2), price(1)
    (figures,) = [row for row in signaling.statistics() if row.entries and row.function.endswith("price")]
    assert (figures.group, figures.entries, figures.hits, figures.misses) == ("prices", 2, 1, 2)
    assert figures.ratio == pytest.approx(1 / 3)


def test_invalidate_through_another_connection(price, prices_url):
    price(1)
    connection = psycopg2.connect(prices_url)
    cr = connection.cursor()
    cr.execute("UPDATE item SET price = 7 WHERE id = 1")
    procman.invalidate("prices", using=cr)
    assert price(1) == 0
    connection.commit()
    assert price(1) == 7
    cr.execute("UPDATE item SET price = 8 WHERE id = 1")
    procman.invalidate("prices", using=cr)
    connection.rollback()
    assert price(1) == 7
    connection.close()


def test_invalidate_through_the_units_own_cursor(price):
    with procman.cursor() as cr:
        assert price(1) == 0
        cr.execute("UPDATE item SET price = 7 WHERE id = 1")
        procman.invalidate("prices", using=cr)
        assert price(1) == 7


def test_a_late_fill_does_not_poison(configured):
    """A thread computes from an old snapshot, and ends after another one has changed the value."""
    computing, changed = threading.Event(), threading.Event()
    slow = threading.local()

    @procman.cached("prices")
    def price(item):
        with procman.cursor() as cr:
            cr.execute("SELECT price FROM item WHERE id = %s", (item,))
            value = cr.fetchone()[0]
        if getattr(slow, "here", False):
            computing.set()
            assert changed.wait(30)
        return value

    results = []

    def compute_late():
        slow.here = True
        with signaling.unit():
            results.append(price(1))

    thread = threading.Thread(target=compute_late)
    thread.start()
    assert computing.wait(30)
    with signaling.unit():
        set_price(7)
        procman.invalidate("prices")
    assert price(1) == 7
    changed.set()
    thread.join()
    assert results == [0]
    assert price(1) == 7


def test_an_old_unit_does_not_push_out_what_newer_ones_share(price):
    price(1)
    old = {}
    opened, go = threading.Event(), threading.Event()

    def look_late():
        with signaling.unit(), procman.cursor() as cr:
            cr.execute("SELECT 1")
            opened.set()
            assert go.wait(30)
            old["price"] = price(1)

    thread = threading.Thread(target=look_late)
    thread.start()
    assert opened.wait(30)
    with signaling.unit():
        set_price(7)
        procman.invalidate("prices")
    assert price(1) == 7
    calls = len(price.calls)
    go.set()
    thread.join()
    assert old["price"] == 0
    assert price(1) == 7
    assert len(price.calls) == calls + 1  # the old unit's own


def test_threads_compute_once(configured):
    calls = []
    inside, go = threading.Event(), threading.Event()

    @procman.cached("prices")
    def slow(item):
        calls.append(item)
        inside.set()
        assert go.wait(30)
        return item * 10

    results = []
    threads = [threading.Thread(target=lambda: results.append(slow(1))) for _ in range(5)]
    threads[0].start()
    assert inside.wait(30)
    for thread in threads[1:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join()
    assert results == [10] * 5
    assert calls == [1]


def test_a_result_with_a_ttl_grows_old(configured, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("procman.signaling.memo.monotonic", lambda: now[0])
    calls = []

    @procman.cached("prices", ttl=10)
    def rate(currency):
        calls.append(currency)
        return len(calls)

    assert [rate("EUR"), rate("EUR"), rate("CHF")] == [1, 1, 2]
    now[0] = 109.9
    assert rate("EUR") == 1
    now[0] = 110.0
    assert [rate("EUR"), rate("EUR")] == [3, 3]


def test_clear_forgets_here(configured):
    calls = []

    @procman.cached("prices")
    def answer():
        calls.append(1)
        return len(calls)

    assert [answer(), answer()] == [1, 1]
    answer.clear()
    assert answer() == 2


def test_all_cached_values_together_have_a_bound(prices_url):
    signaling.configure(DatabaseSpec(url=prices_url, cache_size=200_000))

    @procman.cached("prices")
    def page(number):
        return "x" * 10_000

    for number in range(100):
        page(number)
    (figures,) = [row for row in signaling.statistics() if row.function.endswith("page")]
    assert 100_000 < figures.size <= 200_000
    assert figures.entries < 20
    misses = page.misses
    page(99)
    assert page.misses == misses
    signaling.configure(None)


@pytest.mark.parametrize("wrong", [{"maxsize": 0}, {"ttl": 0}, {"ttl": -1.0}])
def test_bounds_that_can_not_be(wrong):
    with pytest.raises(ValueError, match="maxsize of at least 1"):
        procman.cached("prices", **wrong)
