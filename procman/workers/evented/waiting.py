"""Waiting for descriptors in a gevent process without stopping the others."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg2
from gevent import get_hub
from gevent.socket import wait_read, wait_write
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE, set_wait_callback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_READ = 1  # libev's EV_READ


def let_psycopg2_cooperate() -> None:
    """Make every psycopg2 connection of this process wait in gevent's loop.

    psycopg2's documentation, "Support for coroutine libraries".
    """
    set_wait_callback(_wait_for)


def _wait_for(connection: Any) -> None:
    try:
        while True:
            state = connection.poll()
            if state == POLL_OK:
                return
            if state == POLL_READ:
                wait_read(connection.fileno())
            elif state == POLL_WRITE:
                wait_write(connection.fileno())
            else:
                raise psycopg2.OperationalError(f"psycopg2 is in the unknown state {state!r}")
    except BaseException as error:
        # A greenlet that is killed or timed out leaves in the middle of a statement, whose answer is still to
        # come. Nobody else may get to see it: such a connection is of no more use.
        if not isinstance(error, psycopg2.Error):
            connection.close()
        raise


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
