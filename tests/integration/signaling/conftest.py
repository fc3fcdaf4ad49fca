from __future__ import annotations

import psycopg2
import pytest

from procman import signaling
from procman.core.spec import DatabaseSpec
from tests.support.pricer import Pricer, with_schema


@pytest.fixture
def prices_url(database_url):
    """A database with a price list."""
    with_schema(database_url)
    return database_url


@pytest.fixture
def start(prices_url):
    """Starts a process on the price list; all are killed at the end."""
    started = []

    def start():
        started.append(Pricer(prices_url))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def configured(prices_url):
    """This process uses the database with the price list."""
    signaling.configure(DatabaseSpec(url=prices_url))
    yield prices_url
    if signaling.current() is not None:
        signaling.current().rollback()
    signaling.configure(None)


@pytest.fixture
def truth(prices_url):
    """What the database says, asked beside procman."""
    connection = psycopg2.connect(prices_url)
    connection.autocommit = True

    def ask(statement="SELECT price FROM item WHERE id = 1"):
        with connection.cursor() as cr:
            cr.execute(statement)
            return cr.fetchone()[0] if cr.description else None

    yield ask
    connection.close()
