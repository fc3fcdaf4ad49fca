"""Changes by programs that know nothing of procman."""

from __future__ import annotations

import logging
import threading

import psycopg2
import pytest

import procman
from procman import signaling
from procman.core.spec import DatabaseSpec
from procman.signaling import triggers

SIGNALS = "SELECT count(*) FROM procman.signal_delta WHERE signal_group = 'prices'"


@pytest.fixture(autouse=True)
def nothing_declared(monkeypatch):
    monkeypatch.setattr(triggers, "_declared", {})


@pytest.fixture
def price(prices_url):
    """A cached function."""

    @procman.cached("prices")
    def price(item=1):
        with procman.cursor() as cr:
            cr.execute("SELECT price FROM item WHERE id = %s", (item,))
            return cr.fetchone()[0]

    yield price
    signaling.configure(None)


def start(url):
    """As a new process."""
    signaling.configure(DatabaseSpec(url=url))


STATEMENTS = [
    "UPDATE item SET price = 5 WHERE id = 1",
    "UPDATE item SET price = 5 WHERE id = -1",
    "INSERT INTO item VALUES (999, 1)",
    "DELETE FROM item WHERE id = 2",
    "TRUNCATE item CASCADE",
    "COPY item FROM PROGRAM 'true'",
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_whatever_changes_the_table_signals(price, prices_url, truth, statement):
    procman.signal_on_change("item", group="prices")
    start(prices_url)
    assert price() == 0
    truth(statement)
    assert truth(SIGNALS) == 1


def test_a_change_from_elsewhere_is_seen(price, prices_url, truth):
    procman.signal_on_change("item", group="prices")
    start(prices_url)
    assert price() == 0
    truth("UPDATE item SET price = 5 WHERE id = 1")
    assert price() == 5


def test_one_that_is_rolled_back_signals_nothing(price, prices_url, truth):
    procman.signal_on_change("item", group="prices")
    start(prices_url)
    assert price() == 0
    with psycopg2.connect(prices_url) as other, other.cursor() as cr:
        cr.execute("UPDATE item SET price = 5")
        other.rollback()
    other.close()
    assert truth(SIGNALS) == 0


def test_a_role_that_may_only_change_the_table_signals_too(price, prices_url, truth, postgres_server):
    procman.signal_on_change("item", group="prices")
    start(prices_url)
    assert price() == 0
    truth("CREATE ROLE t_clerk; GRANT UPDATE, SELECT ON item TO t_clerk")
    try:
        truth("SET ROLE t_clerk")
        truth("UPDATE item SET price = 6 WHERE id = 1")
        truth("RESET ROLE")
    finally:
        truth("DROP OWNED BY t_clerk; DROP ROLE t_clerk")
    assert price() == 6


def test_it_is_made_once(price, prices_url, truth):
    procman.signal_on_change("item", group="prices")
    for _ in range(3):
        start(prices_url)
        price()
    assert truth("SELECT count(*) FROM pg_trigger WHERE tgname = 'procman_signal_prices'") == 1


def test_a_table_that_is_not_there_harms_nothing(price, prices_url, truth):
    procman.signal_on_change("elsewhere", group="prices")
    start(prices_url)
    assert price() == 0
    truth("CREATE TABLE elsewhere (id int)")
    start(prices_url)
    assert price() == 0
    truth("INSERT INTO elsewhere VALUES (1)")
    assert truth(SIGNALS) == 1


NAMES = ['"It\'s a % {table}"', 'shop."Price"', "shop.plain"]


@pytest.mark.parametrize("group", ["prices", "Preise für Ärzte", "p" * 200, "100%s {} :x"])
@pytest.mark.parametrize("name", NAMES)
def test_names_of_any_kind(price, prices_url, truth, name, group):
    truth("CREATE SCHEMA IF NOT EXISTS shop")
    truth(f"CREATE TABLE {name} (id int)")
    procman.signal_on_change(name, group=group)
    start(prices_url)
    price()
    truth(f"INSERT INTO {name} VALUES (1)")
    assert truth("SELECT signal_group FROM procman.signal_delta") == group


def test_in_a_migration_of_the_application(price, prices_url, truth):
    start(prices_url)
    price()
    with procman.cursor() as cr:
        procman.signal_on_change("item", group="prices", using=cr)
        procman.signal_on_change("item", group="prices", using=cr)
    truth("UPDATE item SET price = 5")
    assert truth(SIGNALS) == 1


def test_a_table_in_use_is_not_waited_for(price, prices_url, truth, caplog, monkeypatch):
    monkeypatch.setattr(triggers, "_LOCK_PATIENCE", "20ms")
    procman.signal_on_change("item", group="prices")
    start(prices_url)
    with psycopg2.connect(prices_url) as other, other.cursor() as cr:
        cr.execute("UPDATE item SET price = 0")
        with caplog.at_level(logging.WARNING):
            assert price() == 0
    other.close()
    assert "Changes of item in database" in caplog.text
    assert "do not invalidate 'prices'" in caplog.text
    start(prices_url)
    price()
    truth("UPDATE item SET price = 5")
    assert truth(SIGNALS) == 1


def test_many_that_start_at_once_make_it_once(price, prices_url, truth):
    procman.signal_on_change("item", group="prices")
    start(prices_url)
    with procman.cursor():
        pass
    truth("DROP TRIGGER procman_signal_prices ON item")
    failures = []

    def begin():
        connection = signaling.connect(psycopg2.extensions.parse_dsn(prices_url)["dbname"])
        try:
            triggers.install(connection)
        except psycopg2.Error as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    truth("UPDATE item SET price = 5")
    assert truth(SIGNALS) == 1


@pytest.mark.parametrize("wrong", ["", None, "a\0b", "a\\b"])
def test_what_is_no_table(wrong):
    with pytest.raises(ValueError, match="no name of a table"):
        procman.signal_on_change(wrong, group="prices")


def test_groups_of_procmans_own():
    with pytest.raises(ValueError, match="procman's own"):
        procman.signal_on_change("item", group="procman.registry")
