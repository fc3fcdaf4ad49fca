"""Job and cron functions that tests have run, here or in processes of their own."""

from __future__ import annotations

import os
import threading
import time
from datetime import timedelta
from typing import Any

import psycopg2

import procman
from procman import jobs, signaling
from procman.errors import UnitAborted

SCHEMA = """
CREATE TABLE effect (id serial PRIMARY KEY, value text, pid int);
CREATE TABLE counter (id int PRIMARY KEY, value int NOT NULL);
INSERT INTO counter VALUES (1, 0);
"""


def leave(value: str) -> None:
    """An effect that can be counted."""
    with procman.cursor() as cr:
        cr.execute("INSERT INTO effect (value, pid) VALUES (%s, %s)", (value, os.getpid()))


@procman.job
def note(value: str = "note") -> str:
    leave(value)
    return f"noted {value}"


@procman.job(channel="root.mail", priority=5, retries=2, retry_pattern={1: 30, 2: [50, 60]})
def configured(value: str) -> None:
    leave(value)


@procman.job(description="{value} of {size}", timeout=timedelta(minutes=1.5), batch=20)
def described(value: str, size: int = 1) -> None:
    leave(value)


@procman.job(description="{nobody}")
def misdescribed() -> None:
    pass


@procman.job(identity_key="value {value}")
def once_per_value(value: str, size: int = 1) -> None:
    leave(value)


@procman.job(identity_key=lambda value: {"free": None, "seven": 7}.get(value, f"value {value}"))
def once_per_value_too(value: str) -> None:
    leave(value)


@procman.job
def give_back(value: Any) -> Any:
    return value


@procman.job
def add_up() -> int:
    job = procman.jobs.current()
    assert job is not None
    return sum(parent.result for parent in job.parents())


@procman.job
def give_back_bytes() -> Any:
    return {b"x": 1}


@procman.job
def fail(value: str) -> None:
    leave(value)
    raise ValueError(f"no \0 {value}")


@procman.job(retries=2)
def again(seconds: float | None = None, ignore_retry: bool = False) -> None:
    leave("again")
    raise procman.RetryJob("not yet", seconds=seconds, ignore_retry=ignore_retry)


@procman.job
def end_the_transaction() -> None:
    leave("ended")
    unit = signaling.current()
    assert unit is not None
    unit.commit()


@procman.job
def swallow_an_error() -> None:
    leave("swallowed")
    with procman.cursor() as cr:
        try:
            cr.execute("SELECT 1/0")
        except psycopg2.Error:
            pass


@procman.job
def run_into_a_limit() -> None:
    leave("limit")
    raise UnitAborted("real_time")


@procman.job
def lose_the_connection() -> None:
    leave("lost")
    with procman.cursor() as cr:
        cr.execute("SELECT pg_terminate_backend(pg_backend_pid())")


@procman.job
def count() -> None:
    """Loses against every other one that commits meanwhile."""
    with procman.cursor() as cr:
        cr.execute("SELECT value FROM counter WHERE id = 1")
        ((value,),) = cr.fetchall()
        time.sleep(0.005)
        cr.execute("UPDATE counter SET value = %s WHERE id = 1", (value + 1,))


@procman.job
def kill_the_worker(file: str) -> None:
    """Dies in the middle, until the file is gone."""
    leave("killed")
    if os.path.exists(file):
        os.kill(os.getpid(), 9)


@procman.job
def wait_for(file: str, value: str = "waited") -> None:
    """Runs until there is such a file."""
    leave(value)
    open(f"{file}.{value}.{os.getpid()}", "w").close()
    while not os.path.exists(file):
        time.sleep(0.01)


@procman.job
def sleep_in_the_database(file: str) -> None:
    """In a statement that takes its time, the first time."""
    if not os.path.exists(file):
        open(file, "w").close()
        with procman.cursor() as cr:
            cr.execute("SELECT pg_sleep(60)")
    leave("slept")


def no_job() -> None:
    leave("no job")


@procman.job
def tell_progress(done: float, total: float, note: str, file: str) -> None:
    """And wait for the file, if one is named."""
    leave("told")
    procman.progress(done, total, note)
    while file and not os.path.exists(file):
        time.sleep(0.01)


@procman.job
def tell_progress_often(number: int) -> None:
    for done in range(1, number + 1):
        procman.progress(done, number)


@procman.job
def tell_progress_for_ever(file: str) -> None:
    open(file, "w").close()
    while True:
        procman.progress(1)
        try:
            time.sleep(0.01)
        except Exception:
            pass


@procman.job
def enqueue_a_note(value: str) -> None:
    note.delay(value)


_begun: list[None] = []


@procman.job
def enqueue_beside_another() -> int:
    """Another transaction makes an equal job first; how many attempts that took."""
    _begun.append(None)
    jobs.counts()  # the snapshot is taken
    if len(_begun) == 1:
        other = threading.Thread(target=note.options(identity_key="twin").delay)
        other.start()
        other.join()
    procman.chain(note.options(identity_key="twin").prepare(), note.prepare("child")).delay()
    return len(_begun)


@procman.job
def roll_the_transaction_back() -> None:
    leave("rolled back")
    unit = signaling.current()
    assert unit is not None
    unit.rollback()


@procman.job
def leave_the_process() -> None:
    leave("left")
    raise SystemExit(3)


@procman.job
def lose_once() -> None:
    """The first time another one has changed the row since this transaction began."""
    unit = signaling.current()
    assert unit is not None
    with procman.cursor() as cr:
        cr.execute("SELECT value FROM counter WHERE id = 1")
        ((value,),) = cr.fetchall()
        if value == 0:
            with signaling.lend(unit.database) as beside, beside.cursor() as other:
                other.execute("UPDATE counter SET value = 1 WHERE id = 1")
        cr.execute("UPDATE counter SET value = value + 1 WHERE id = 1")
    leave("won")


@procman.job(batch=20, retries=2)
def kill_the_worker_of_a_batch(file: str) -> None:
    leave("killed")
    if os.path.exists(file):
        os.kill(os.getpid(), 9)
