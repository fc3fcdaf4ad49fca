"""Folding while others write and read."""

from __future__ import annotations

import threading
import time

from procman import signaling
from procman.db.connection import connect
from procman.db.migrate import LOCK_CLASS, LOCK_FOLD, migrate
from procman.signaling import store


def test_enough_signals_are_folded_by_who_meets_them(start, truth):
    process = start()
    process.ask("signals", 70)
    process.ask("price", 1)
    assert truth("SELECT count(*) FROM procman.signal_delta") < 64
    process.ask("set", 1, 7)
    assert start().ask("price", 1) == 7


def test_folding_changes_no_fingerprint(database_url):
    connection = connect(database_url)
    migrate(connection)
    with connection.cursor() as cr:
        cr.execute(store.insertion(["a", "b", "a"]))
        cr.execute(store.insertion(["a"]))
    before = _read(connection)
    assert before.deltas == 4
    assert before.tag("a").signals == 3
    assert store.fold(connection)
    after = _read(connection)
    assert after.deltas == 0
    assert [after.tag(group) for group in "abc"] == [before.tag(group) for group in "abc"]
    with connection.cursor() as cr:
        cr.execute(store.insertion(["b"]))
    assert _read(connection).tag("b") != before.tag("b")
    assert _read(connection).tag("a") == before.tag("a")
    connection.close()


def _read(connection):
    signals = store.begin(connection)
    with connection.cursor() as cr:
        cr.execute("COMMIT")
    return signals


def test_two_never_fold_at_once_and_nobody_waits(database_url):
    one, two = connect(database_url), connect(database_url)
    migrate(one)
    with one.cursor() as cr:
        cr.execute(f"BEGIN; SELECT pg_advisory_xact_lock({LOCK_CLASS}, {LOCK_FOLD})")
        assert store.fold(two) is False
        cr.execute("COMMIT")
    assert store.fold(two) is True
    one.close()
    two.close()


def test_fold_amid_writers_and_readers(database_url):
    """Every snapshot's fingerprint must be that of the signals it sees, counted in a table beside."""
    setup = connect(database_url)
    migrate(setup)
    with setup.cursor() as cr:
        cr.execute("CREATE TABLE witness (token bigint)")
    setup.close()
    end = time.monotonic() + 2.5
    errors, folds, checks = [], [], []

    def run(work):
        connection = connect(database_url)
        try:
            while time.monotonic() < end and not errors:
                work(connection)
        except Exception as error:
            errors.append(repr(error))
        finally:
            connection.close()

    def write(connection):
        statement = store.insertion(["prices"])
        token = statement.rsplit(", ", 1)[1].rstrip(")")
        with connection.cursor() as cr:
            cr.execute(f"BEGIN; {statement}; INSERT INTO witness VALUES ({token}); COMMIT")

    def read(connection):
        signals = store.begin(connection)
        with connection.cursor() as cr:
            cr.execute("SELECT count(*), coalesce(bit_xor(token), 0) FROM witness")
            count, token = cr.fetchone()
            cr.execute("COMMIT")
        checks.append(count)
        if signals.tag("prices")[1:] != (count, token):
            errors.append((signals.tag("prices"), count, token))

    def fold(connection):
        folds.append(store.fold(connection))

    threads = [threading.Thread(target=run, args=(work,)) for work in (write, write, read, read, fold, fold)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert max(checks) > 50
    assert folds.count(True) > 5


def test_where_folding_is_not_allowed_the_unit_does_not_suffer(configured, truth):
    with signaling.unit() as unit:
        unit.cursor()
    truth(f"{store.insertion(['prices'] * 80)}")
    with signaling.unit() as unit, unit.cursor() as cr:
        cr.execute("SET SESSION default_transaction_read_only = on")
        # Its own end finds the deltas, and may not fold them.
    assert truth("SELECT count(*) FROM procman.signal_delta") == 80
