"""Invalidating in the transactions of other drivers, with the real ones."""

from __future__ import annotations

from contextlib import contextmanager

import psycopg
import psycopg2
import pytest
import sqlalchemy
from sqlalchemy.orm import Session

import procman
from procman import signaling
from procman.core.spec import DatabaseSpec, SignalStore


@contextmanager
def by_psycopg2(url):
    connection = psycopg2.connect(url)
    yield connection.cursor(), connection
    connection.close()


@contextmanager
def by_psycopg(url):
    with psycopg.connect(url) as connection:
        yield connection.cursor(), connection


@contextmanager
def by_sqlalchemy(url, driver="psycopg2"):
    module = {"psycopg2": psycopg2, "psycopg": psycopg}[driver]
    engine = sqlalchemy.create_engine(f"postgresql+{driver}://", creator=lambda: module.connect(url))
    with engine.connect() as connection:
        yield connection, connection
    engine.dispose()


@contextmanager
def by_sqlalchemy_on_psycopg(url):
    with by_sqlalchemy(url, "psycopg") as found:
        yield found


@contextmanager
def by_session(url):
    engine = sqlalchemy.create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(url))
    with Session(engine) as session:
        yield session, session
    engine.dispose()


WAYS = [by_psycopg2, by_psycopg, by_sqlalchemy, by_sqlalchemy_on_psycopg, by_session]
ways = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
GROUP = "100%s of :prices"


@pytest.fixture
def count(prices_url):
    calls = []

    @procman.cached(GROUP)
    def count():
        calls.append(1)
        return len(calls)

    yield count
    signaling.configure(None)


@ways
def test_from_its_commit_on_and_never_if_it_rolls_back(way, prices_url, count):
    signaling.configure(DatabaseSpec(url=prices_url))
    assert (count(), count()) == (1, 1)
    with way(prices_url) as (using, transaction):
        procman.invalidate(GROUP, using=using)
        assert count() == 1
        transaction.rollback()
        assert count() == 1
        procman.invalidate(GROUP, using=using)
        transaction.commit()
        assert (count(), count()) == (2, 2)


@ways
def test_with_odoos_signals(way, prices_url, count, truth):
    for name in ("base_registry_signaling", "base_cache_signaling"):
        truth(f"CREATE SEQUENCE {name}")
    signaling.configure(DatabaseSpec(url=prices_url, signaling=SignalStore.SEQUENCES))
    assert (count(), count()) == (1, 1)
    with way(prices_url) as (using, transaction):
        procman.invalidate(GROUP, using=using)
        transaction.commit()
    assert (count(), count()) == (2, 2)


@ways
def test_triggers(way, prices_url, count, truth):
    signaling.configure(DatabaseSpec(url=prices_url))
    assert (count(), count()) == (1, 1)
    with way(prices_url) as (using, transaction):
        procman.signal_on_change("item", group=GROUP, using=using)
        transaction.commit()
    truth("UPDATE item SET price = 1")
    assert (count(), count()) == (2, 2)
