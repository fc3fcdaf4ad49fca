"""Registry signaling as one would write it first, and as Odoo had it: the counter-examples to procman's.

A process remembers a number, compares it with the database's at the start of each unit, and empties its cache when
they differ. Everything depends on where the number is kept, when it is moved on, and when it is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg2

if TYPE_CHECKING:
    from collections.abc import Callable

SETUP = """
CREATE SEQUENCE IF NOT EXISTS naive_sequence;
CREATE TABLE IF NOT EXISTS naive_table (id serial PRIMARY KEY);
"""


def nothing() -> None:
    pass


class Naive:
    """A process. ``signal`` is "before", "after" or "within" the commit; ``check`` is "before" or "after" the
    snapshot is taken; ``counter`` is what the number is; ``swallows``: it remembers the number that it has made."""

    def __init__(
        self,
        url: str,
        *,
        counter: str = "sequence",
        signal: str = "after",
        check: str = "before",
        swallows: bool = False,
    ) -> None:
        self._counter, self._signal, self._check, self._swallows = counter, signal, check, swallows
        self._data = psycopg2.connect(url)
        self._beside = psycopg2.connect(url)
        self._data.autocommit = self._beside.autocommit = True
        self._sql(self._beside, SETUP)
        self._known: Any = None
        self._cache: dict[int, int] = {}

    def close(self) -> None:
        self._data.close()
        self._beside.close()

    # -- a unit -------------------------------------------------------------------------------------------

    def begin(self, between: Callable[[], object] = nothing) -> None:
        """Begin a unit; ``between`` happens between the check and the snapshot, whichever comes first."""
        if self._check == "before":
            self._look(self._beside)
            between()
            self._open()
        else:
            self._open()
            between()
            self._look(self._data)

    def price(self, item: int) -> int:
        if item not in self._cache:
            self.fill(item)
        return self._cache[item]

    def fill(self, item: int) -> None:
        """Compute and remember."""
        self._cache[item] = self._sql(self._data, f"SELECT price FROM item WHERE id = {item}")

    def set(self, item: int, value: int) -> None:
        self._sql(self._data, f"UPDATE item SET price = {value} WHERE id = {item}")
        self._cache.pop(item, None)
        if self._signal == "within":
            self._move(self._data)

    def commit(self, between: Callable[[], object] = nothing) -> None:
        """End a unit that has written; ``between`` happens between the commit and the signal, whichever comes first."""
        if self._signal == "before":
            self._move(self._beside)
            between()
        self._sql(self._data, "COMMIT")
        if self._signal == "after":
            between()
            self._move(self._beside)

    def end(self) -> None:
        self._sql(self._data, "ROLLBACK")

    # -- signals ------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._sql(self._data, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")

    def look(self) -> None:
        """The check alone, as a unit of another thread makes it."""
        self._look(self._beside)

    def _look(self, connection: Any) -> None:
        query = {
            "sequence": "SELECT last_value + is_called::int FROM naive_sequence",
            "table": "SELECT max(id) FROM naive_table",
        }
        number = self._sql(connection, query[self._counter])
        if number != self._known:
            self._cache.clear()
        self._known = number

    def _move(self, connection: Any) -> None:
        made = self._sql(
            connection,
            "SELECT nextval('naive_sequence')"
            if self._counter == "sequence"
            else "INSERT INTO naive_table DEFAULT VALUES RETURNING id",
        )
        if self._swallows:
            self._known = made + (self._counter == "sequence")  # as it will be read

    @staticmethod
    def _sql(connection: Any, statement: str) -> Any:
        with connection.cursor() as cr:
            cr.execute(statement)
            return cr.fetchone()[0] if cr.description else None
