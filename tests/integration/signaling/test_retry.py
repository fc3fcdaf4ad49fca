"""What is undone in part, and what is done again."""

from __future__ import annotations

import contextlib
import threading
from contextlib import contextmanager

import psycopg2
import psycopg2.errors
import pytest

import procman
from procman import bus, signaling
from procman.errors import NoDatabase
from procman.signaling import retry


def read(statement="SELECT price FROM item WHERE id = 1"):
    with procman.cursor() as cr:
        cr.execute(statement)
        return cr.fetchone()[0]


def write(price):
    with procman.cursor() as cr:
        cr.execute("UPDATE item SET price = %s WHERE id = 1", [price])


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.0)


@pytest.fixture
def other(prices_url):
    """A transaction of somebody else."""
    connection = psycopg2.connect(prices_url)
    yield connection
    connection.close()


def interfere(connection, price):
    """Change the row that the unit is about to change, after the unit's snapshot was taken."""
    with connection.cursor() as cr:
        cr.execute("UPDATE item SET price = %s WHERE id = 1", [price])
    connection.commit()


class Fault(Exception):
    pass


@contextmanager
def undone(block):
    """The block ends by an exception, which it passes on."""
    try:
        with block:
            yield
            raise Fault
    except Fault:
        return
    raise AssertionError("the exception was swallowed")


# -- transaction() ------------------------------------------------------------------------------------------


def test_outside_of_units_it_is_one(configured, truth):
    with procman.transaction() as unit:
        assert signaling.current() is unit
        write(7)
        assert truth() == 0
    assert truth() == 7


def test_outside_of_units_an_exception_undoes_it(configured, truth):
    with undone(procman.transaction()):
        write(7)
    assert signaling.current() is None
    assert truth() == 0


def test_inside_a_unit_an_exception_undoes_the_block_alone(configured, truth):
    with signaling.unit():
        write(7)
        with undone(procman.transaction()):
            write(8)
        assert read() == 7
    assert truth() == 7


def test_a_block_that_ends_well_stays_for_the_unit_to_decide(configured, truth):
    with undone(signaling.unit()), procman.transaction():
        write(8)
    assert truth() == 0


def test_a_statement_that_fails_in_a_block_leaves_the_unit_usable(configured, truth):
    with signaling.unit():
        write(7)
        with pytest.raises(psycopg2.errors.DivisionByZero), procman.transaction():
            read("SELECT 1 / 0")
        write(9)
    assert truth() == 9


def test_blocks_nest(configured, truth):
    with signaling.unit():
        with procman.transaction():
            write(1)
            with undone(procman.transaction()):
                write(2)
        assert read() == 1
    assert truth() == 1


def test_a_block_that_is_undone_invalidates_nothing(configured, truth):
    before = truth("SELECT count(*) FROM procman.signal_delta") if read() == 0 else None
    with signaling.unit() as unit:
        with undone(procman.transaction()):
            write(2)
            procman.invalidate("prices")
        assert not unit.has_invalidated("prices")
    assert truth("SELECT count(*) FROM procman.signal_delta") == before


def test_what_was_invalidated_before_the_block_stays_so(configured, truth):
    assert read() == 0
    with signaling.unit():
        procman.invalidate("prices")
        with undone(procman.transaction()):
            write(5)
    assert truth("SELECT count(*) FROM procman.signal_delta WHERE signal_group = 'prices'") == 1


def test_values_computed_in_a_block_that_is_undone_are_not_kept(configured):
    @procman.cached("prices")
    def price():
        return read()

    with signaling.unit():
        write(7)
        procman.invalidate("prices")
        assert price() == 7
        with undone(procman.transaction()):
            write(8)
            procman.invalidate("prices")
            assert price() == 8
        assert price() == 7
    assert price() == 7


def test_messages_of_a_block_that_is_undone_are_not_sent(configured, truth):
    with signaling.unit():
        with undone(procman.transaction()):
            bus.send("news", 1)
        bus.send("news", 2)
        with undone(procman.transaction()):
            bus.send("news", 3)
        with procman.transaction():
            bus.send("news", 4)
    assert truth("SELECT string_agg(message::text, ',' ORDER BY id) FROM procman.bus") == "2,4"


def test_hooks_of_a_block_that_is_undone_are_not_called(configured):
    called = []
    with signaling.unit() as unit:
        unit.after_commit(lambda: called.append("outer"))
        with undone(procman.transaction()):
            unit.after_commit(lambda: called.append("undone"))
            unit.before_commit(lambda cr: called.append("undone too"))
    assert called == ["outer"]


def test_another_database_than_the_units(configured):
    with signaling.unit(), pytest.raises(ValueError, match="not in 'elsewhere'"), procman.transaction("elsewhere"):
        pass


def test_without_a_database():
    signaling.configure(None)
    with pytest.raises(NoDatabase), procman.transaction(), procman.cursor():
        pass


# -- retryable ----------------------------------------------------------------------------------------------


def test_what_loses_is_done_again(configured, truth, other):
    tries = []

    @procman.retryable
    def raise_price():
        seen = read()
        if not tries:
            interfere(other, 10)
        tries.append(seen)
        write(seen + 1)
        return "done"

    assert raise_price() == "done"
    assert tries == [0, 10]
    assert truth() == 11


def test_a_deadlock_is_done_again(configured, truth):
    with procman.cursor() as cr:
        cr.execute("UPDATE item SET price = 0")
    met = threading.Barrier(2, timeout=20)

    @procman.retryable
    def add(first, second, tries):
        tries.append(1)
        with procman.cursor() as cr:
            cr.execute("SET LOCAL deadlock_timeout = '20ms'")
            cr.execute("UPDATE item SET price = price + 1 WHERE id = %s", [first])
            if len(tries) == 1:
                met.wait()
            cr.execute("UPDATE item SET price = price + 1 WHERE id = %s", [second])

    mine, theirs = [], []
    thread = threading.Thread(target=add, args=(2, 1, theirs))
    thread.start()
    add(1, 2, mine)
    thread.join()
    assert len(mine) + len(theirs) > 2
    assert truth("SELECT array_agg(price ORDER BY id) FROM item WHERE id IN (1, 2)") == [2, 2]


def test_it_gives_up_in_the_end(configured, truth, other):
    tries = []

    @procman.retryable
    def raise_price():
        tries.append(read())
        interfere(other, tries[-1] + 1)
        write(1000)

    with pytest.raises(psycopg2.errors.SerializationFailure):
        raise_price()
    assert len(tries) == retry.MOST_ATTEMPTS
    assert truth() == retry.MOST_ATTEMPTS


def test_any_other_error_is_passed_on_at_once(configured):
    tries = []

    @procman.retryable
    def fail():
        tries.append(read())
        raise Fault

    with pytest.raises(Fault):
        fail()
    assert tries == [0]


def test_inside_a_unit_it_is_a_plain_call(configured, other):
    tries = []

    @procman.retryable
    def raise_price():
        tries.append(read())
        interfere(other, 10)
        write(1)

    with pytest.raises(psycopg2.errors.SerializationFailure), signaling.unit():
        raise_price()
    assert tries == [0]


def test_a_frameworks_own_error_is_seen_through():
    class OperationalError(Exception):
        pass

    class DeadlockDetected(Exception):
        sqlstate = "40P01"

    wrapped = OperationalError("wrapped")
    wrapped.__cause__ = DeadlockDetected()
    assert retry.lost_against_another(wrapped)
    assert not retry.lost_against_another(OperationalError())


# -- blocks one after the other -------------------------------------------------------------------------------


def test_each_of_several_blocks_is_undone_alone(configured, truth):
    with signaling.unit() as unit:
        with unit.next_savepoint():
            write(1)
        with undone(unit.next_savepoint()):
            write(2)
        assert read() == 1
        with undone(unit.next_savepoint()):
            write(3)
        with unit.next_savepoint():
            assert read() == 1
            write(4)
        with undone(unit.next_savepoint()):
            pass
        with unit.next_savepoint(), undone(procman.transaction()):
            write(5)
    assert truth() == 4


def _write_and_swallow_an_error():
    write(2)
    with contextlib.suppress(psycopg2.Error):
        read("SELECT 1 / 0")


def test_a_block_that_leaves_an_aborted_transaction_is_told_so_and_undone(configured, truth):
    with signaling.unit() as unit:
        with unit.next_savepoint():
            write(1)
        with pytest.raises(psycopg2.errors.InFailedSqlTransaction), unit.next_savepoint():
            _write_and_swallow_an_error()
        assert read() == 1
    assert truth() == 1


def test_what_a_block_that_is_undone_has_invalidated_and_hooked_is_forgotten(configured):
    called = []
    with signaling.unit() as unit:
        with unit.next_savepoint():
            unit.after_commit(lambda: called.append("first"))
        with undone(unit.next_savepoint()):
            procman.invalidate("prices")
            unit.after_commit(lambda: called.append("second"))
        assert not unit.has_invalidated("prices")
    assert called == ["first"]
