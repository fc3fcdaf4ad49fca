"""The pool, against a real server."""

from __future__ import annotations

import socket
import threading

import pytest

from procman.db import connection as module
from procman.db.connection import ConnectionPool, connect
from procman.db.migrate import migrate
from procman.errors import DatabaseUnavailable


def pid(connection):
    return connection.info.backend_pid


def test_the_last_used_is_taken_first(database_url):
    pool = ConnectionPool(database_url)
    one, two = pool.borrow(), pool.borrow()
    assert (one.used, two.used) == (False, False)
    pool.give_back(one)
    pool.give_back(two)
    again = pool.borrow()
    assert again is two
    assert again.used
    pool.give_back(again)
    pool.close()
    assert (one.closed, two.closed) == (1, 1)


def test_never_more_than_most(database_url):
    pool = ConnectionPool(database_url, most=1, patience=0.05)
    one = pool.borrow()
    with pytest.raises(DatabaseUnavailable, match="all connections of this process are busy"):
        pool.borrow()
    waiting = ConnectionPool(database_url, most=1, patience=30)
    first = waiting.borrow()
    got = []
    thread = threading.Thread(target=lambda: got.append(waiting.borrow()))
    thread.start()
    waiting.give_back(first)
    thread.join()
    assert got == [first]
    one.close()
    first.close()


def test_one_that_died_while_idle_is_replaced_unseen(database_url, postgres_server):
    pool = ConnectionPool(database_url)
    one = pool.borrow()
    pool.give_back(one)
    postgres_server.execute(f"SELECT pg_terminate_backend({pid(one)}, 30000)")
    two = pool.borrow()
    assert one.closed
    assert not two.used
    with two.cursor() as cr:
        cr.execute("SELECT 1")
    pool.give_back(two)
    pool.close()


def test_one_idle_for_long_is_asked(database_url, monkeypatch):
    pool = ConnectionPool(database_url)
    one = pool.borrow()
    pool.give_back(one)
    monkeypatch.setattr(module, "SUSPECT_AFTER", 0.0)
    assert pool.borrow() is one
    pool.give_back(one)
    # A network that swallows everything: the connection looks alive, and is not.
    end = socket.socket(fileno=one.fileno())
    end.shutdown(socket.SHUT_WR)
    end.detach()
    two = pool.borrow()
    assert two is not one
    pool.give_back(two)
    pool.close()


def test_one_in_a_transaction_is_not_taken_back(database_url):
    pool = ConnectionPool(database_url, most=1)
    one = pool.borrow()
    with one.cursor() as cr:
        cr.execute("BEGIN")
    pool.give_back(one)
    assert one.closed
    pool.give_back(pool.borrow())
    pool.close()


def test_a_failure_to_connect_gives_the_place_back(tmp_path):
    pool = ConnectionPool(f"postgresql:///x?host={tmp_path}", most=1, patience=0.05)
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable, match=r"can't be reached.*No such file or directory$"):
            pool.borrow()


def test_a_lost_connection_is_said_to_be_lost(database_url, postgres_server):
    connection = connect(database_url, application_name="procman http.1")
    with connection.cursor() as cr:
        cr.execute("SHOW application_name")
        assert cr.fetchone() == ("procman http.1",)
        postgres_server.execute(f"SELECT pg_terminate_backend({pid(connection)}, 30000)")
        with pytest.raises(DatabaseUnavailable):
            cr.execute("SELECT 1")
    with pytest.raises(DatabaseUnavailable):
        connection.cursor()


def test_an_applications_name_in_the_url_wins(database_url):
    connection = connect(f"{database_url}&application_name=mine")
    with connection.cursor() as cr:
        cr.execute("SHOW application_name")
        assert cr.fetchone() == ("mine",)
    connection.close()


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_text_is_unicode_whatever_the_encoding_of_the_database(postgres_server, encoding):
    name = f"encoded_{encoding.lower()}"
    postgres_server.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    connection = connect(postgres_server.url(name))
    try:
        migrate(connection)
        with connection.cursor() as cr:
            cr.execute("SELECT %s", ("Käse",))
            assert cr.fetchone() == ("Käse",)
    finally:
        connection.close()
        postgres_server.execute(f"DROP DATABASE {name}")


def test_what_a_calm_hour_does_not_need_is_closed(database_url, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    pool = ConnectionPool(database_url, idle_time=60.0)
    first, second = pool.borrow(), pool.borrow()
    pool.give_back(first)
    pool.give_back(second)
    now[0] += 59.0
    assert pool.borrow() is second
    now[0] += 1.0
    pool.give_back(second)
    assert first.closed
    assert pool.borrow() is second
    pool.give_back(second)
    pool.close()


def test_an_old_one_is_closed_when_it_comes_back(database_url, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    pool = ConnectionPool(database_url, lifetime=60.0)
    first = pool.borrow()
    now[0] += 59.0
    pool.give_back(first)
    assert pool.borrow() is first
    now[0] += 1.0
    pool.give_back(first)
    assert first.closed
    second = pool.borrow()
    assert second is not first
    assert not second.used
    pool.give_back(second)
    pool.close()
