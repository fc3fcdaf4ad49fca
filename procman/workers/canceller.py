"""Cancels what the interrupted unit waits for in PostgreSQL.

A main thread that waits for an answer inside libpq runs no byte code, so that the exception which is to end its
unit is not raised before the answer is there. The signal that goes with the interruption (`CANCEL`) is
blocked in every thread, and one thread waits for just that; it asks the server, over connections of its own, to
cancel what is running for this process (PostgreSQL, 32.7): psycopg2's connections all of them, the application's too.
Then the answer comes at once, and with it the exception.
"""

from __future__ import annotations

import _thread
import gc
import logging
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from procman.unix.process import CANCEL

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("procman.worker")

# Seconds for the main thread to take the interruption by itself, before it is taken for one that waits.
_PATIENCE = 0.03
_STACK = 512 * 1024  # bytes; what a thread gets by default would count for RLIMIT_DATA
_ACTIVE = 1  # psycopg2.extensions.TRANSACTION_STATUS_ACTIVE


class Canceller:
    """``waits``: whether the interruption has not been taken yet. `busy` is held as long as cancelling goes on."""

    def __init__(self, waits: Callable[[], bool]) -> None:
        self._waits = waits
        self.busy = threading.Lock()

    def start(self) -> None:
        """Start the thread; to be called in the main thread, before there is any other."""
        # The thread takes nothing but CANCEL. The kernel gives a process's signal to any thread that has not blocked it
        # (signal(7)), and the one that interrupts the unit has to interrupt what the main thread is waiting in.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        before = threading.stack_size(_STACK)
        try:
            # Not threading.Thread: the process is the application's, which may look at what threads there are.
            _thread.start_new_thread(self._run, ())
        except RuntimeError as error:  # no more threads for this account: queries are cancelled by the server then
            log.warning("Queries of interrupted units can't be cancelled: %s", error)
        finally:
            threading.stack_size(before)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask | {CANCEL})

    def _run(self) -> None:
        while True:
            signal.sigwait({CANCEL})
            time.sleep(_PATIENCE)
            with self.busy:
                if self._waits():
                    cancel_queries()


def cancel_soon(thread: int, waits: Callable[[], bool]) -> None:
    """Cancel what this thread waits for on procman's connections, in a thread that is not there for anything else.

    ``waits``: whether its unit, which was interrupted, still has not taken notice.
    """

    def run() -> None:
        time.sleep(_PATIENCE)
        if waits():
            cancel_queries(thread)

    try:
        _thread.start_new_thread(run, ())
    except RuntimeError as error:  # no more threads for this account: the arbiter will end the worker
        log.warning("The query of an interrupted unit can't be cancelled: %s", error)


def cancel_queries(thread: int | None = None) -> None:
    """Have the server cancel every statement that psycopg2 waits for in this process, or in one thread of it.

    Of a thread only those that it runs on procman's connections: of others nobody knows whose they are.
    """
    for connection in _active_connections():
        if thread is not None and getattr(connection, "thread", None) != thread:
            continue
        try:
            connection.cancel()
        except Exception as error:  # psycopg2's or, in the end of a connection, anything: the next one may be the one
            log.warning("A query can't be cancelled: %s", error)


def _active_connections() -> list[Any]:
    module = sys.modules.get("psycopg2.extensions")
    if module is None:
        return []
    return [
        found
        for found in gc.get_objects()
        # By type, not isinstance: that asks proxies for their __class__, which can run code of the application.
        if issubclass(type(found), module.connection) and not found.closed and found.info.transaction_status == _ACTIVE
    ]
