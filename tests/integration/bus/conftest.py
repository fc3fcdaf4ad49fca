"""A bus in a database of its own, read in this process by threads."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import psycopg2
import pytest

from procman import signaling
from procman.bus.exchange import Exchange
from procman.core.spec import DatabaseSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from procman.bus.exchange import Polled


@pytest.fixture
def database(database_url: str) -> Iterator[str]:
    """The URL of the database that signaling is configured for."""
    signaling.configure(DatabaseSpec(url=database_url))
    yield database_url
    signaling.configure(None)


@pytest.fixture
def sql(database: str) -> Iterator[Callable[..., list[tuple]]]:
    """Run a statement on a connection of its own, as an administrator would."""
    connection = psycopg2.connect(database)
    connection.autocommit = True

    def execute(statement: str, *values: object) -> list[tuple]:
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    yield execute
    connection.close()


@pytest.fixture
def exchange(database: str) -> Iterator[Exchange]:
    """An exchange that hears the bus of the main database."""
    exchange = Exchange()
    assert exchange.listen(wait=30)
    yield exchange
    exchange.close()
    exchange.join(30)


class Waiting:
    """A poll in a thread."""

    def __init__(self, exchange: Exchange, channels: list[str], last: int = 0, timeout: float = 30) -> None:
        self._exchange = exchange
        self._polled: Polled | None = None
        before = exchange.waiting
        self._thread = threading.Thread(target=self._poll, args=(channels, last, timeout), daemon=True)
        self._thread.start()
        while exchange.waiting <= before and self._thread.is_alive():
            time.sleep(0.001)

    def _poll(self, channels: list[str], last: int, timeout: float) -> None:
        self._polled = self._exchange.poll(channels, last, timeout=timeout)

    def result(self) -> Polled:
        self._thread.join(40)
        assert self._polled is not None
        return self._polled
