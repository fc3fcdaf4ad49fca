from __future__ import annotations

import logging

import pytest

from procman.db.serverlog import ServerLog


def levels(data):
    return [(event.level, event.text) for event in ServerLog().feed(data)]


@pytest.mark.parametrize(
    ("line", "level"),
    [
        (b"[12] LOG:  checkpoint starting", logging.DEBUG),
        (b"[12] LOG:  server process (PID 5) was terminated by signal 9: Killed", logging.INFO),
        (b"[12] LOG:  database system is ready to accept connections", logging.INFO),
        (b"[12] WARNING:  out of coffee", logging.WARNING),
        (b"[12] ERROR:  division by zero", logging.WARNING),
        (b"[12] FATAL:  terminating connection due to administrator command", logging.DEBUG),
        (b"[12] FATAL:  terminating connection due to unexpected postmaster exit", logging.DEBUG),
        (b"[12] FATAL:  the database system is starting up", logging.DEBUG),
        (b"[12] FATAL:  the database system is in recovery mode", logging.DEBUG),
        (b"[12] WARNING:  terminating connection because of crash of another server process", logging.DEBUG),
        (b"[12] ERROR:  could not serialize access due to concurrent update", logging.DEBUG),
        (b"[12] ERROR:  deadlock detected", logging.DEBUG),
        (b"[12] FATAL:  could not create lock file", logging.ERROR),
        (b"[12] PANIC:  could not write", logging.CRITICAL),
        (b"postgres: error while loading shared libraries", logging.WARNING),
    ],
)
def test_levels(line, level):
    assert [found for found, _ in levels(line + b"\n")] == [level]


def test_further_lines_belong_to_their_message():
    data = b"[12] ERROR:  no\n[12] DETAIL:  because\n[12] STATEMENT:  SELECT\n\t1 / 0\n[13] WARNING:  next\n"
    assert levels(data) == [
        (logging.WARNING, "[12] ERROR: no\nDETAIL: because\nSTATEMENT: SELECT\n\t1 / 0"),
        (logging.WARNING, "[13] WARNING: next"),
    ]


def test_lines_may_come_in_pieces():
    stream = ServerLog()
    assert stream.feed(b"[12] WARN") == []
    (event,) = stream.feed("ING:  caf\u00e9\n[1".encode())
    assert event.text == "[12] WARNING: caf\u00e9"
    assert stream.feed(b"3] FATAL:  oh") == []
    (event,) = stream.end()
    assert (event.severity, event.text, event.pid) == ("FATAL", "[13] FATAL: oh", 13)
    assert stream.end() == []


def test_the_last_lines_are_kept():
    stream = ServerLog(keep=2)
    stream.feed(b"[1] LOG:  a\n[1] LOG:  b\n[1] LOG:  c\n")
    assert stream.tail == ["[1] LOG:  b", "[1] LOG:  c"]
