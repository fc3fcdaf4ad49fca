"""Functions that lose against others, in ways that are worth another attempt and in ways that are not."""

from __future__ import annotations

import psycopg2
from notes import end_backend, note

import procman
from procman import signaling

calls: dict[str, int] = {}


def count(name: str) -> int:
    note(name)
    calls[name] = calls.get(name, 0) + 1
    return calls[name]


def conflict() -> None:
    with procman.cursor() as cr:
        cr.execute("DO $$ BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = '40001'; END $$")


@procman.cron(every="1h", name="conflict twice")
def conflict_twice() -> None:
    if count("conflict twice") <= 2:
        conflict()


@procman.cron(every="1h", name="conflict always")
def conflict_always() -> None:
    count("conflict always")
    conflict()


@procman.cron(every="1h", name="connection lost once")
def connection_lost_once() -> None:
    if count("connection lost once") == 1:
        end_backend()


@procman.cron(every="1h", name="connection lost always")
def connection_lost_always() -> None:
    count("connection lost always")
    end_backend()


@procman.cron(every="1h", name="ends the unit")
def ends_the_unit() -> None:
    count("ends the unit")
    unit = signaling.current()
    assert unit is not None
    unit.rollback()


@procman.cron(every="1h", name="swallows an error")
def swallows_an_error() -> None:
    count("swallows an error")
    try:
        with procman.cursor() as cr:
            cr.execute("SELECT 1 / 0")
    except psycopg2.Error:
        pass


@procman.cron(every="1h", name="fails at the commit")
def fails_at_the_commit() -> None:
    count("fails at the commit")
    unit = signaling.current()
    assert unit is not None
    unit.before_commit(lambda cursor: cursor.execute("SELECT 'at the commit' / 0"))
