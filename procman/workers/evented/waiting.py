"""Waiting for descriptors in a gevent process without stopping the others."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg2
from gevent import get_hub
from gevent.socket import wait_read, wait_write
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE, STATUS_SETUP, parse_dsn, set_wait_callback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_READ = 1  # libev's EV_READ


def let_psycopg2_cooperate() -> None:
    """Make every psycopg2 connection of this process wait in gevent's loop.

    psycopg2's documentation, "Support for coroutine libraries".
    """
    set_wait_callback(_wait_for)


def _wait_for(connection: Any) -> None:
    # Whatever is raised here, also by a greenlet that is killed or timed out in the middle of a statement, makes
    # psycopg2 close the connection: the answer that is still to come can't reach anybody else.
    until = _connect_until(connection) if connection.status == STATUS_SETUP else None
    try:
        while True:
            state = connection.poll()
            if state == POLL_OK:
                return
            if state not in (POLL_READ, POLL_WRITE):
                raise psycopg2.OperationalError(f"psycopg2 is in the unknown state {state!r}")
            wait = wait_read if state == POLL_READ else wait_write
            wait(connection.fileno(), timeout=until and max(0.0, until - monotonic()))
    except TimeoutError:
        raise psycopg2.OperationalError("connection to server failed: timeout expired") from None


def _connect_until(connection: Any) -> float | None:
    # libpq looks at connect_timeout only when it waits itself (PostgreSQL, 32.1, PQconnectPoll).
    seconds = int(parse_dsn(connection.dsn).get("connect_timeout", 0))
    return monotonic() + seconds if seconds > 0 else None


@contextmanager
def watching(fds: Iterable[int], wake: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """Call ``wake``, from gevent's hub, as long as one of these descriptors is readable; gives what ends that."""
    loop = get_hub().loop
    with ExitStack() as stack:
        for fd in fds:
            watcher = loop.io(fd, _READ)
            stack.callback(watcher.close)
            watcher.start(wake)
            stack.callback(watcher.stop)
        yield stack.close
