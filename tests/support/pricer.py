"""A process that keeps a price list through procman's caches, steered over its standard input, one JSON per line.

As a program: the process. Imported: `Pricer`, a handle on such a process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2

import procman
from procman import signaling
from procman.core.spec import DatabaseSpec

if TYPE_CHECKING:
    from types import TracebackType

ROOT = Path(__file__).parents[2]

SCHEMA = """
CREATE TABLE item (id int PRIMARY KEY, price int NOT NULL);
INSERT INTO item SELECT n, 0 FROM generate_series(1, 5) n
"""


class Pricer:
    """Ask it any of `COMMANDS`."""

    def __init__(self, url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.pricer", url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Pricer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            try:
                stream.close()
            except BrokenPipeError:
                pass

    def tell(self, command: str, *arguments: Any) -> None:
        self.process.stdin.write(json.dumps([command, *arguments]).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        return json.loads(self.process.stdout.readline())

    def ask(self, command: str, *arguments: Any) -> Any:
        self.tell(command, *arguments)
        return self.answer()


@procman.cached("prices")
def price(item: int) -> int:
    with procman.cursor() as cr:
        cr.execute("SELECT price FROM item WHERE id = %s", (item,))
        return cr.fetchone()[0]


@procman.registry_loader
def sum_of_prices(cr: Any) -> int:
    cr.execute("SELECT sum(price)::int FROM item")
    return cr.fetchone()[0]


def update(item: int, value: int) -> None:
    with procman.cursor() as cr:
        cr.execute("UPDATE item SET price = %s WHERE id = %s", (value, item))


def set_price(item: int, value: int) -> None:
    with signaling.unit():
        set_in_unit(item, value)


def set_in_unit(item: int, value: int) -> None:
    update(item, value)
    procman.invalidate("prices")


def raise_price(item: int) -> int:
    """Adds one, so that prices only grow; returns the new price."""
    with procman.cursor() as cr:
        cr.execute("UPDATE item SET price = price + 1 WHERE id = %s RETURNING price", (item,))
        procman.invalidate("prices")
        return cr.fetchone()[0]


def signal(times: int) -> None:
    for _ in range(times):
        procman.invalidate("prices")


COMMANDS = {
    "price": price,
    "registry": procman.registry,
    "set": set_price,
    "raise": raise_price,
    "signals": signal,
    "begin": lambda: signaling.begin() and None,
    "in unit: price": price,
    "in unit: set": set_in_unit,
    "in unit: update only": update,
    "in unit: invalidate": lambda: procman.invalidate("prices"),
    "in unit: reload registry": procman.reload_registry,
    "commit": lambda: signaling.current().commit(),
    "rollback": lambda: signaling.current().rollback(),
}


def with_schema(url: str) -> None:
    """Make the price list."""
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cr:
        cr.execute(SCHEMA)
    connection.close()


def serve(url: str) -> None:
    signaling.configure(DatabaseSpec(url=url))
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        try:
            answer = COMMANDS[command](*arguments)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
