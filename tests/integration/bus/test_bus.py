"""Sending in transactions, and reading what they have committed."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress

import pytest

from procman import bus, signaling
from procman.bus import listener
from procman.bus.exchange import Exchange
from procman.bus.hub import Hub
from procman.bus.listener import Listener
from procman.core.spec import DatabaseSpec
from procman.errors import NoDatabase
from tests.integration.bus.conftest import Waiting


def texts(polled):
    return [message.text for message in polled.messages]


def kill_listeners(sql):
    """Break the connections that listen; how many there were."""
    rows = sql(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    return len(rows)


# -- sending -----------------------------------------------------------------------------------------------------


def test_what_a_unit_sends_is_written_in_order_when_it_commits(database, sql):
    with signaling.unit():
        bus.send("b", {"n": 1})
        bus.send("a", [2, "é\0\ud800"])
        bus.send("b", None)
    rows = sql("SELECT channel, message::text FROM procman.bus ORDER BY id")
    assert rows == [("b", '{"n":1}'), ("a", '[2,"\\u00e9\\u0000\\ud800"]'), ("b", "null")]


def test_what_is_changed_after_sending_does_not_change_the_message(database, sql):
    with signaling.unit():
        message = {"price": 1}
        bus.send("a", message)
        message["price"] = 2
    assert sql("SELECT message->>'price' FROM procman.bus") == [("1",)]


def test_a_rollback_sends_nothing(database, sql, exchange):
    waiting = Waiting(exchange, ["a"])
    with suppress(ZeroDivisionError), signaling.unit():
        bus.send("a", "never")
        raise ZeroDivisionError
    bus.send("a", "after")
    assert texts(waiting.result()) == ['"after"']
    assert sql("SELECT count(*) FROM procman.bus") == [(1,)]


def test_outside_a_unit_it_is_sent_at_once(database, sql):
    bus.send("a", 1, database=signaling.databases()[0])
    assert sql("SELECT channel FROM procman.bus") == [("a",)]
    assert signaling.current() is None


def test_what_is_sent_at_once_waits_for_nobody_and_stays(database, sql, exchange):
    waiting = Waiting(exchange, ["a"])
    with suppress(ZeroDivisionError), signaling.unit() as unit:
        bus.send("a", "with the unit")
        bus.send("a", "now", at_once=True)
        assert texts(waiting.result()) == ['"now"']
        assert not unit.opened
        raise ZeroDivisionError
    assert sql("SELECT message::text FROM procman.bus") == [('"now"',)]


def test_what_is_sent_at_once_waits_for_who_commits_in_this_moment_only(database, sql):
    with signaling.unit() as unit:
        with unit.cursor() as cr:
            cr.execute("SELECT 1")
        bus.send("a", 2)
        bus.send("a", 1, at_once=True)
    assert sql("SELECT message::text FROM procman.bus ORDER BY id") == [("1",), ("2",)]


@pytest.mark.parametrize("channel", ["", "a\0b", "x" * 513, "é" * 257])
def test_a_channel_is_a_text_of_reasonable_length(database, channel):
    with pytest.raises(ValueError, match="a channel is a text"):
        bus.send(channel, 1)


def test_a_channel_that_is_no_text_is_refused(database):
    with pytest.raises(TypeError, match="a channel is a str, not int"):
        bus.send(3, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("message", [float("nan"), {1, 2}, b"bytes", "x" * (1024 * 1024)])
def test_what_is_no_json_is_refused_where_it_is_sent(database, message):
    with signaling.unit() as unit:
        with pytest.raises((ValueError, TypeError)):
            bus.send("a", message)
        assert not unit.opened


def test_a_unit_sends_in_its_own_database_only(database):
    with signaling.unit(), pytest.raises(RuntimeError, match="the current unit works in database"):
        bus.send("a", 1, database="another")


def test_ids_become_visible_in_the_order_of_their_commits(database, sql):
    """The heart of it: somebody who always reads from the last id never misses one."""
    senders, each = 6, 40

    def send(sender: int) -> None:
        for number in range(each):
            with signaling.unit():
                with signaling.cursor() as cursor:
                    cursor.execute("SELECT pg_sleep(random() * 0.002)")
                bus.send("a", [sender, number])

    bus.send("a", "first")
    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(senders)]
    for thread in threads:
        thread.start()
    seen, last = [], 0
    while True:
        over = not any(thread.is_alive() for thread in threads)
        rows = sql("SELECT id, message::text FROM procman.bus WHERE id > %s ORDER BY id", last)
        seen += [text for _, text in rows]
        last = rows[-1][0] if rows else last
        if over and not rows:
            break
    assert len(seen) == senders * each + 1
    for sender in range(senders):
        mine = [text for text in seen if text.startswith(f"[{sender},")]
        assert mine == [f"[{sender},{number}]" for number in range(each)]


# -- polling -----------------------------------------------------------------------------------------------------


def test_a_waiting_poll_gets_what_is_committed(exchange):
    waiting = Waiting(exchange, ["a"])
    with signaling.unit():
        bus.send("b", "not mine")
        bus.send("a", 1)
        bus.send("a", 2)
    polled = waiting.result()
    assert texts(polled) == ["1", "2"]
    assert polled.last == polled.messages[-1].id


def test_a_poll_from_now_on_gets_nothing_old_and_learns_where_it_stands(exchange):
    bus.send("a", "old")
    polled = exchange.poll(["a"], 0, timeout=0)
    assert list(polled.messages) == []
    bus.send("a", "new")
    assert texts(exchange.poll(["a"], polled.last, timeout=30)) == ['"new"']


def test_an_empty_bus_has_a_position_too(exchange):
    polled = exchange.poll(["a"], 0, timeout=0)
    assert polled.last == 1
    bus.send("a", "first ever")
    assert texts(exchange.poll(["a"], polled.last, timeout=30)) == ['"first ever"']


def test_what_was_missed_is_delivered_at_once(exchange):
    bus.send("a", 1)
    first = exchange.poll(["a"], 1, timeout=30)
    bus.send("a", 2)
    bus.send("b", 3)
    bus.send("a", 4)
    assert texts(Waiting(exchange, ["a"], first.last).result())[0] == "2"
    assert texts(exchange.poll(["a", "b"], 1, timeout=30))[0] == "1"


def test_a_new_process_delivers_what_it_has_never_seen(exchange, database):
    for number in range(5):
        bus.send("a", number)
    late = Exchange()
    try:
        assert late.listen(wait=30)
        assert texts(late.poll(["a"], 1, timeout=30)) == ["0", "1", "2", "3", "4"]
        assert late.poll(["b"], 1, timeout=0).last == 6
    finally:
        late.close()
        late.join(30)


def test_a_long_answer_comes_in_parts(exchange, monkeypatch):
    monkeypatch.setattr("procman.bus.exchange.MOST_MESSAGES", 3)
    with signaling.unit():
        for number in range(7):
            bus.send("a", number)
    last, seen = 1, []
    while len(seen) < 7:
        polled = exchange.poll(["a"], last, timeout=30)
        assert len(polled.messages) <= 3
        seen += texts(polled)
        last = polled.last
    assert seen == [str(number) for number in range(7)]


def test_a_poll_ends_empty_at_its_timeout_and_moves_on(exchange):
    bus.send("b", 1)
    Waiting(exchange, ["b"], 1).result()
    polled = exchange.poll(["a"], 1, timeout=0.01)
    assert list(polled.messages) == []
    assert polled.last == 2


def test_peek_answers_at_once(exchange):
    assert exchange.peek(["a"], 0).last == 1
    bus.send("a", 1)
    bus.send("b", 2)
    assert exchange.peek(["a"], 0) == exchange.peek(["a"], 3)
    polled = exchange.peek(["a", "b"], 2)
    assert texts(polled) == ["2"]


def test_release_answers_everybody(exchange):
    waiting = [Waiting(exchange, [f"c{number}"]) for number in range(5)]
    exchange.release()
    assert [list(one.result().messages) for one in waiting] == [[]] * 5
    assert exchange.waiting == 0
    assert list(exchange.poll(["a"], 0, timeout=30).messages) == []


def test_only_configured_databases_are_heard(exchange):
    with pytest.raises(LookupError, match="there is no database 'postgres' here"):
        exchange.poll(["a"], 0, timeout=1, database="postgres")


def test_without_a_database_there_is_no_bus():
    signaling.configure(None)
    with pytest.raises(NoDatabase):
        Exchange().poll(["a"], 0, timeout=1)
    with pytest.raises(NoDatabase):
        bus.send("a", 1)


# -- losing the connection ---------------------------------------------------------------------------------------


def test_nothing_is_lost_when_the_connection_is(exchange, sql, postgres_server, caplog):
    caplog.set_level(logging.INFO, "procman.bus")
    bus.send("a", 0)
    last = exchange.poll(["a"], 1, timeout=30).last
    waiting = Waiting(exchange, ["a"], last)
    name = signaling.databases()[0]
    postgres_server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    assert kill_listeners(sql) >= 1
    # Not notified, and while nobody can listen: only catching up finds them.
    for number in range(1, 4):
        sql("INSERT INTO procman.bus (channel, message) VALUES ('a', %s)", str(number))
    postgres_server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    assert texts(waiting.result()) == ["1", "2", "3"]
    assert "lost, trying to get it back: " in caplog.text
    assert "This probably means" not in caplog.text


def test_the_same_trouble_is_told_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(listener, "_PAUSE_FIRST", 0.001)
    caplog.set_level(logging.DEBUG, "procman.bus")
    signaling.configure(DatabaseSpec(url=f"postgresql:///nowhere?host={tmp_path}"))
    listening = Listener("nowhere", Hub(), threading.Lock())
    thread = threading.Thread(target=listening.run)
    thread.start()
    deadline = time.monotonic() + 30
    while len(caplog.records) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    listening.stop()
    thread.join(30)
    signaling.configure(None)
    assert [record.levelname for record in caplog.records[:4]] == ["WARNING", "DEBUG", "DEBUG", "DEBUG"]
    assert caplog.messages[0].endswith("No such file or directory")


def test_it_connects_again_and_again(exchange, sql):
    for number in range(3):
        waiting = Waiting(exchange, ["a"])
        kill_listeners(sql)
        bus.send("a", number)
        assert texts(waiting.result()) == [str(number)]


def test_a_lost_notification_is_healed_by_looking(database, sql):
    hub = Hub()
    lock = threading.RLock()
    short = Listener(signaling.databases()[0], hub, lock, look_every=0.01)
    begun, woken = threading.Event(), threading.Event()
    hub.subscribe([], begun.set)
    hub.subscribe(["a"], woken.set)
    thread = threading.Thread(target=short.run)
    thread.start()
    try:
        assert begun.wait(30)
        sql("""INSERT INTO procman.bus (channel, message) VALUES ('a', '"quiet"')""")
        assert woken.wait(30)
    finally:
        short.stop()
        thread.join()


def test_a_database_restored_from_a_backup_starts_over(exchange, sql):
    for number in range(5):
        bus.send("a", number)
    ahead = exchange.poll(["a"], 5, timeout=30).last
    waiting = Waiting(exchange, ["a"], ahead)
    sql("DELETE FROM procman.bus WHERE id > 3")
    sql("ALTER TABLE procman.bus ALTER COLUMN id RESTART WITH 4")
    sql("NOTIFY procman_bus")
    deadline = time.monotonic() + 30
    post = exchange._post(None)
    while post.hub.newest != 3:
        assert time.monotonic() < deadline
    bus.send("a", "after the restore")
    assert texts(waiting.result()) == ['"after the restore"']


def test_a_position_the_bus_never_reached_is_where_this_process_began(exchange):
    bus.send("a", 1)
    polled = exchange.poll(["a"], 1_000_000, timeout=30)
    assert texts(polled) == ["1"]
    bus.send("a", 2)
    assert texts(exchange.poll(["a"], polled.last, timeout=30)) == ["2"]


# -- cleaning ----------------------------------------------------------------------------------------------------


def test_old_messages_are_removed_but_not_the_newest(exchange, sql, monkeypatch):
    monkeypatch.setattr(listener, "_BATCH", 3)
    with signaling.unit():
        for number in range(10):
            bus.send("a", number)
    sql("UPDATE procman.bus SET created = created - interval '2 days' WHERE id <= 9 OR id = 11")
    connection = signaling.connect(signaling.databases()[0])
    try:
        cleaner = Listener(signaling.databases()[0], Hub(), threading.RLock())
        with connection.cursor() as cursor:
            batches = 0
            while cleaner._clean(cursor):
                batches += 1
        assert batches == 2
        assert sql("SELECT id FROM procman.bus ORDER BY id") == [(10,), (11,)]
    finally:
        connection.close()
        cleaner.stop()
        cleaner.run()
