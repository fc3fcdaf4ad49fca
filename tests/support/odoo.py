"""What an Odoo worker does when it is asked to run a job: queue_job's protocol, without Odoo.

Everything the protocol is about is here: what is locked, what is committed when, what a row looks like afterwards.
``python -m tests.support.odoo LAYOUT URL FD`` is such a worker as a process: one request at a time,
answered in the way of HTTP/1.0, as Odoo's prefork server does.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import psycopg2

from tests.support.oca import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.oca import Layout

_START = """
UPDATE queue_job SET state = 'started', date_started = clock_timestamp() AT TIME ZONE 'UTC', worker_pid = %s
WHERE uuid = %s
"""
_TAKE_LOCK_ROW = "INSERT INTO queue_job_lock (id, queue_job_id) VALUES (%s, %s) ON CONFLICT DO NOTHING"
_LOCK = """
SELECT FROM queue_job_lock WHERE queue_job_id IN (SELECT id FROM queue_job WHERE uuid = %s AND state = 'started')
FOR UPDATE SKIP LOCKED
"""
_LOAD = "SELECT method_name, args::text, retry, max_retries FROM queue_job WHERE uuid = %s"
_DONE = """
UPDATE queue_job SET state = 'done', result = %s, retry = %s, exc_name = NULL, exc_message = NULL, exc_info = NULL,
    date_done = clock_timestamp() AT TIME ZONE 'UTC',
    exec_time = extract(epoch FROM clock_timestamp() AT TIME ZONE 'UTC' - date_started)
WHERE uuid = %s
"""
_AGAIN = """
UPDATE queue_job SET state = 'pending', retry = %s, result = %s, worker_pid = NULL, date_enqueued = NULL,
    date_started = NULL, eta = (clock_timestamp() + make_interval(secs => %s)) AT TIME ZONE 'UTC'
WHERE uuid = %s
"""
_FAILED = """
UPDATE queue_job SET state = 'failed', retry = %s, exc_name = %s, exc_message = %s, exc_info = %s,
    date_done = clock_timestamp() AT TIME ZONE 'UTC'
WHERE uuid = %s
"""


class TryAgain(Exception):
    """The job is to be tried again after so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"again in {seconds} s")
        self.seconds = seconds


class Worker:
    """``methods`` are given a cursor of the job's transaction and the job's arguments; ``asked`` comes before all."""

    def __init__(
        self,
        layout: Layout,
        methods: dict[str, Callable[..., Any]],
        asked: Callable[[str], None] = lambda uuid: None,
    ) -> None:
        self._layout = layout
        self._methods = methods
        self._asked = asked

    def run(self, connection: Any, uuid: str) -> int:
        """Run the job if it is enqueued; returns the status of the answer."""
        self._asked(uuid)
        with connection.cursor() as cr:
            id = self._start(cr, uuid)  # noqa: A001
            connection.commit()
            if id is None or not self._hold(cr, uuid):
                connection.rollback()
                return 200
            cr.execute(_LOAD, (uuid,))
            method, args, retry, max_retries = cr.fetchone()
            try:
                result = self._methods[method](cr, *json.loads(args))
            except TryAgain as error:
                connection.rollback()
                if not max_retries or retry + 1 < max_retries:
                    cr.execute(_AGAIN, (retry + 1, str(error), error.seconds, uuid))
                    connection.commit()
                    return 200
                return self._failed(connection, uuid, retry + 1, error)
            except Exception as error:
                return self._failed(connection, uuid, retry + 1, error)
            cr.execute(_DONE, (None if result is None else str(result), retry + 1, uuid))
            connection.commit()
        return 200

    def _start(self, cr: Any, uuid: str) -> int | None:
        cr.execute(f"SELECT id FROM queue_job WHERE uuid = %s AND state = 'enqueued' {self._layout.guard}", (uuid,))
        row = cr.fetchone()
        if row is None:
            return None
        cr.execute(_START, (os.getpid(), uuid))
        if self._layout.lock_table:
            cr.execute(_TAKE_LOCK_ROW, (row[0], row[0]))
        return int(row[0])

    def _hold(self, cr: Any, uuid: str) -> bool:
        if not self._layout.lock_table:
            return True
        cr.execute(_LOCK, (uuid,))
        return cr.fetchone() is not None

    def _failed(self, connection: Any, uuid: str, retry: int, error: Exception) -> int:
        connection.rollback()
        kind = type(error)
        name = f"{kind.__module__}.{kind.__name__}"
        info = "".join(traceback.format_exception(error))
        with connection.cursor() as cr:
            cr.execute(_FAILED, (retry, name, str(error), info, uuid))
        connection.commit()
        return 500


def serve(
    listener: socket.socket,
    connect: Callable[[str], Any],
    worker: Worker,
    heard: Callable[[bytes], object] = lambda head: None,
) -> None:
    """One connection, one request, at a time. ``heard`` is given the heads of the requests."""
    connections: dict[str, Any] = {}
    while True:
        client, _ = listener.accept()
        with client:
            head = b""
            while b"\r\n\r\n" not in head and (data := client.recv(65536)):
                head += data
            if b"\r\n\r\n" not in head:
                continue
            heard(head)
            query = parse_qs(urlsplit(head.split()[1].decode()).query)
            database = query["db"][0]
            if database not in connections:
                connections[database] = connect(database)
            status = worker.run(connections[database], query["job_uuid"][0])
            try:
                client.sendall(b"HTTP/1.0 %d x\r\nContent-Length: 0\r\n\r\n" % status)
            except (BrokenPipeError, ConnectionResetError):
                pass  # who asked didn't wait for the answer


def connecting(url: str, layout: Layout) -> Callable[[str], Any]:
    """How such an Odoo connects to a database of the server at ``url``."""

    def connect(name: str) -> Any:
        who = f"odoo-{os.getpid()}" if layout.named else ""
        connection = psycopg2.connect(url, dbname=name, application_name=who)
        connection.set_session(isolation_level="REPEATABLE READ")
        return connection

    return connect


# -- jobs --------------------------------------------------------------------------------------------------


def note(cr: Any, value: str) -> str:
    """Leaves an effect that can be counted."""
    cr.execute("INSERT INTO effect (value) VALUES (%s)", (value,))
    return f"noted {value}"


def fail(cr: Any, value: str) -> None:
    note(cr, value)
    raise ValueError(f"no {value}")


def again(cr: Any, seconds: float) -> None:
    note(cr, "again")
    raise TryAgain(seconds)


def wait_for(cr: Any, file: str, value: str = "waited") -> str:
    """Runs until there is such a file; says in another one that it has begun."""
    noted = note(cr, value)
    open(f"{file}.{os.getpid()}", "w").close()
    while not os.path.exists(file):
        time.sleep(0.01)
    return noted


def die_unless(cr: Any, file: str) -> str:
    """Takes its worker with it until there is such a file."""
    if not os.path.exists(file):
        os.kill(os.getpid(), 9)
    return note(cr, "survived")


METHODS = {function.__name__: function for function in (note, fail, again, wait_for, die_unless)}


def marking(layout: Layout, path: str) -> Worker:
    """For measuring: notes in a file when a job was asked for, and when its method was begun."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)

    def asked(uuid: str) -> None:
        os.write(fd, b"r 0 %d %.6f\n" % (os.getpid(), time.time()))

    def mark(cr: Any, key: int, seconds: float = 0) -> None:
        os.write(fd, b"s %d %d %.6f\n" % (key, os.getpid(), time.time()))
        if seconds:
            time.sleep(seconds)

    return Worker(layout, {"mark": mark}, asked)


if __name__ == "__main__":
    layout, url, fd = LAYOUTS[sys.argv[1]], sys.argv[2], int(sys.argv[3])
    marks = os.environ.get("BENCHMARK_MARKS")
    worker = marking(layout, marks) if marks else Worker(layout, METHODS)
    serve(socket.socket(fileno=fd), connecting(url, layout), worker)
