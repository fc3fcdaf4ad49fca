"""What registry signaling costs a unit and a writer, procman's and each generation of Odoo's, on one PostgreSQL.

    python -m benchmarks.signaling [rounds]     (from the root of the repository)

Every way is played with psycopg2 over a unix socket, with the statements that its code sends, interleaved in one
run. A unit here is: the check, BEGIN, one query, COMMIT. "Beyond a plain BEGIN" is what the check adds to a unit
without one. Medians; the messages that a unit sends are counted as they are handed to the driver. The server does not
wait for its disk, which would hide what is compared here.
"""

from __future__ import annotations

import multiprocessing
import secrets
import shutil
import signal
import statistics
import sys
import tempfile
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any

import psycopg2

from procman import signaling
from procman.core.spec import DatabaseSpec
from procman.db.connection import connect
from procman.db.migrate import migrate
from procman.signaling import store
from tests.support.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable

QUERY = "SELECT price FROM item WHERE id = 1"
CACHES_17 = ("default", "assets", "templates", "routing")
TABLES_19 = ("registry", "default", "assets", "stable", "templates", "routing", "groups")

SETUP = "; ".join(
    [
        "CREATE TABLE item (id int PRIMARY KEY, price int)",
        "INSERT INTO item SELECT n, 0 FROM generate_series(1, 100) n",
        "CREATE SEQUENCE base_registry_signaling",
        "CREATE SEQUENCE base_cache_signaling",
        *(f"CREATE SEQUENCE base_cache_signaling_{name}" for name in CACHES_17),
        *(
            f"CREATE TABLE orm_signaling_{name} (id serial PRIMARY KEY, date timestamp DEFAULT now())"
            for name in TABLES_19
        ),
        *(f"INSERT INTO orm_signaling_{name} DEFAULT VALUES" for name in TABLES_19),
    ]
)
SEQUENCES_16 = (
    "SELECT base_registry_signaling.last_value, base_cache_signaling.last_value "
    "FROM base_registry_signaling, base_cache_signaling"
)
SEQUENCES_17 = (
    "SELECT base_registry_signaling.last_value, "
    + ", ".join(f"base_cache_signaling_{name}.last_value" for name in CACHES_17)
    + " FROM base_registry_signaling, "
    + ", ".join(f"base_cache_signaling_{name}" for name in CACHES_17)
)
TABLES = "SELECT " + ", ".join(f"(SELECT max(id) FROM orm_signaling_{name})" for name in TABLES_19)


class Unit:
    """A connection that counts the messages it sends."""

    def __init__(self, url: str) -> None:
        self.connection = connect(url)
        self.messages = 0

    def send(self, statement: str) -> Any:
        self.messages += 1
        with self.connection.cursor() as cr:
            cr.execute(statement)
            return cr.fetchall() if cr.description else None

    def data(self, begin: str = "BEGIN ISOLATION LEVEL REPEATABLE READ") -> None:
        self.send(begin)
        self.send(QUERY)
        self.send("COMMIT")


def no_check(unit: Unit) -> None:
    unit.data()


def two_sequences(unit: Unit) -> None:
    """Up to 16: a cursor of its own, so a transaction of its own."""
    unit.send("BEGIN ISOLATION LEVEL REPEATABLE READ")
    unit.send(SEQUENCES_16)
    unit.send("ROLLBACK")
    unit.data()


def five_sequences(unit: Unit) -> None:
    """17: the same with a sequence for each cache."""
    unit.send("BEGIN ISOLATION LEVEL REPEATABLE READ")
    unit.send(SEQUENCES_17)
    unit.send("ROLLBACK")
    unit.data()


def seven_tables(unit: Unit) -> None:
    """19, a route that writes: the first statement on the request's cursor, then a new transaction for the data."""
    unit.send("BEGIN ISOLATION LEVEL REPEATABLE READ")
    unit.send(TABLES)
    unit.send("ROLLBACK")
    unit.data()


def seven_tables_read_only(unit: Unit) -> None:
    """19, a route that only reads: check and data in one transaction."""
    unit.send("BEGIN ISOLATION LEVEL REPEATABLE READ")
    unit.send(TABLES)
    unit.send(QUERY)
    unit.send("COMMIT")


def digest(unit: Unit) -> None:
    """procman: the check goes with BEGIN, in the data's own snapshot."""
    unit.messages += 1
    store.begin(unit.connection)
    unit.send(QUERY)
    unit.send("COMMIT")


CHECKS: dict[str, Callable[[Unit], None]] = {
    "no check": no_check,
    "Odoo up to 16: two sequences": two_sequences,
    "Odoo 17: five sequences": five_sequences,
    "Odoo 19: seven max(id)": seven_tables,
    "Odoo 19, read-only route": seven_tables_read_only,
    "procman: digest with BEGIN": digest,
}


def measure_checks(url: str, rounds: int) -> None:
    unit = Unit(url)
    times: dict[str, list[float]] = {name: [] for name in CHECKS}
    messages = {}
    for _ in range(rounds):
        for name, check in CHECKS.items():
            before, started = unit.messages, perf_counter()
            check(unit)
            times[name].append(perf_counter() - started)
            messages[name] = unit.messages - before
    plain = statistics.median(times["no check"])
    print(
        f"\nThe check, per unit ({rounds} units of each)\n"
        f"{'':34}{'unit, us':>10}{'beyond a plain BEGIN, us':>26}{'messages':>10}"
    )
    for name, found in times.items():
        median = statistics.median(found)
        print(f"{name:34}{median * 1e6:10.0f}{(median - plain) * 1e6:26.0f}{messages[name]:10}")
    unit.connection.close()
    beyond = (statistics.median(times["procman: digest with BEGIN"]) - plain) * 1e6
    extra = messages["procman: digest with BEGIN"] - messages["no check"]
    print(f"target: at most 100 us beyond a plain BEGIN: {'reached' if beyond <= 100 else 'missed'} ({beyond:.0f})")
    print(f"target: no round trip of its own: {'reached' if extra == 0 else 'missed'} ({extra} messages)")


def measure_nothing(url: str, rounds: int) -> None:
    """Units that touch neither cache nor database."""
    signaling.configure(DatabaseSpec(url=url))
    sent = 0
    started = perf_counter()
    for _ in range(rounds * 10):
        with signaling.unit() as unit:
            pass
        sent += unit.opened
    each = (perf_counter() - started) / (rounds * 10)
    signaling.configure(None)
    print(
        f"\nA unit that touches neither cache nor database: {each * 1e6:.1f} us, "
        f"{sent} of {rounds * 10} opened a transaction"
    )


# -- writers --------------------------------------------------------------------------------------------------


def write(url: str, how: str, seconds: float, start: Any, results: Any) -> None:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    beside = psycopg2.connect(url)
    beside.autocommit = True
    cr, signals = connection.cursor(), beside.cursor()
    start.wait()
    commits, end = 0, monotonic() + seconds
    while monotonic() < end:
        item = secrets.randbelow(100) + 1
        cr.execute("BEGIN")  # READ COMMITTED: what is compared is the signals, not conflicts on the data
        cr.execute(f"UPDATE item SET price = price + 1 WHERE id = {item}")
        match how:
            case "no signal":
                cr.execute("COMMIT")
            case "nextval after the commit":
                cr.execute("COMMIT")
                signals.execute("SELECT nextval('base_cache_signaling')")
            case "insert after the commit":
                cr.execute("COMMIT")
                signals.execute("BEGIN; INSERT INTO orm_signaling_default DEFAULT VALUES; COMMIT")
            case _:
                cr.execute(f"{store.insertion(['prices'])}; COMMIT")
        commits += 1
    results.put(commits)
    connection.close()
    beside.close()


WRITERS = ("no signal", "nextval after the commit", "insert after the commit", "procman: with the commit")


def measure_writers(url: str, processes: int = 4, seconds: float = 1.0, rounds: int = 3) -> None:
    rates: dict[str, list[float]] = {how: [] for how in WRITERS}
    folder = connect(url)
    for _ in range(rounds):
        for how in WRITERS:
            results: Any = multiprocessing.Queue()
            start = multiprocessing.Event()
            writers = [
                multiprocessing.Process(target=write, args=(url, how, seconds, start, results))
                for _ in range(processes)
            ]
            for writer in writers:
                writer.start()
            start.set()
            total = sum(results.get() for _ in writers)
            for writer in writers:
                writer.join()
            rates[how].append(total / seconds)
            store.fold(folder)
    folder.close()
    print(f"\nCommits per second of {processes} writers, each of which signals")
    plain = statistics.median(rates["no signal"])
    for how, found in rates.items():
        print(f"{how:34}{statistics.median(found):10.0f}{statistics.median(found) / plain:8.2f} of no signal")


def main(rounds: int) -> None:
    directory = tempfile.mkdtemp(prefix="pg", dir="/tmp")
    server = Server(directory)
    try:
        url = server.url("postgres")
        connection = connect(url)
        migrate(connection)
        with connection.cursor() as cr:
            cr.execute(SETUP)
        connection.close()
        measure_checks(url, rounds)
        measure_nothing(url, rounds)
        measure_writers(url)
    finally:
        server.stop(signal.SIGQUIT)
        shutil.rmtree(directory)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
