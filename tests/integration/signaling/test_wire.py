"""What the check costs, counted where it can't be hidden: in the messages on the socket."""

from __future__ import annotations

import os

import pytest

import procman
from procman import signaling
from procman.core.spec import DatabaseSpec
from tests.support.wire import WireProxy


@pytest.fixture
def proxy(short_path, postgres_server, prices_url):
    proxy = WireProxy(short_path, postgres_server.cluster.socket_path)
    name = prices_url.split("?")[0].rsplit("/", 1)[1]
    signaling.configure(
        DatabaseSpec(url=f"host={short_path} user=procman dbname={name} sslmode=disable gssencmode=disable")
    )
    with procman.cursor():
        pass  # connects and installs the schema
    proxy.queries.clear()
    yield proxy
    signaling.configure(None)
    proxy.close()


@procman.cached("prices")
def price(item):
    with procman.cursor() as cr:
        cr.execute("SELECT price FROM item WHERE id = %s", (item,))
        return cr.fetchone()[0]


def test_the_check_has_no_message_of_its_own(proxy):
    with procman.cursor() as cr:
        cr.execute("SELECT 1")
    assert len(proxy.queries) == 3
    assert proxy.queries[0].startswith("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM procman.signals()")
    assert proxy.queries[1:] == ["SELECT 1", "COMMIT"]


def test_the_signals_go_with_the_commit(proxy):
    with procman.cursor() as cr:
        cr.execute("UPDATE item SET price = 1")
        procman.invalidate("prices", "offers", "prices")
    assert len(proxy.queries) == 3
    assert proxy.queries[2].startswith("INSERT INTO procman.signal_delta (signal_group, token) VALUES ('offers', ")
    assert proxy.queries[2].endswith("; COMMIT")
    assert proxy.queries[2].count("'prices'") == 1


def test_a_unit_that_needs_nothing_sends_nothing(proxy):
    with signaling.unit() as unit:
        assert not unit.opened
    signaling.begin().rollback()
    assert proxy.queries == []


def test_a_hit_costs_the_check_alone(proxy):
    assert price(1) == 0
    proxy.queries.clear()
    with signaling.unit():
        for _ in range(100):
            assert price(1) == 0
    assert len(proxy.queries) == 2
    assert proxy.queries[1] == "COMMIT"


def test_a_signal_alone_is_one_message(proxy):
    procman.invalidate("prices")
    assert len(proxy.queries) == 1
    assert proxy.queries[0].startswith("INSERT INTO procman.signal_delta")


def test_a_miss_asks_once_whether_it_may_be_shared(proxy):
    with signaling.unit():
        assert [price(1), price(1)] == [0, 0]
        signaling.current().rollback()
    assert os.path.basename(proxy.queries[2]) == "SELECT pg_current_xact_id_if_assigned() IS NULL"
    assert len(proxy.queries) == 4


def test_blocks_in_a_row_take_a_message_each_and_none_for_those_that_send_nothing(proxy):
    with signaling.unit() as unit:
        for number in range(5):
            with unit.next_savepoint():
                if number % 2:
                    with unit.cursor() as cr:
                        cr.execute("SELECT 1")
    # BEGIN with the signals, the first savepoint, two that follow one that has sent something, two statements, COMMIT.
    assert len(proxy.queries) == 7
