"""The process beside the embedded PostgreSQL: reports its start, passes on its log, sees that it ends.

It lives exactly as long as anybody holds the other end of the log: the postmaster or one of its backends.
"""

from __future__ import annotations

import logging
import os
import select
import signal
from time import monotonic
from typing import TYPE_CHECKING, NoReturn

import psycopg2

from procman.core.lifecycle import Failed, Ready
from procman.db.connection import connect
from procman.db.serverlog import ServerLog
from procman.errors import ChannelClosed, DatabaseUnavailable
from procman.unix.process import send_signal

if TYPE_CHECKING:
    from procman.db.embedded import Cluster
    from procman.db.serverlog import ServerEvent
    from procman.unix.channel import Channel

log = logging.getLogger("procman.postgres")

LOOK_EVERY = 0.02  # while the server starts; it says in a file, and to nobody, that it is ready
# From SIGTERM to the question who sent it. When the arbiter dies, the signal may come before the end of its channel:
# each of its threads that dies signals its children, and the last one closes the files (prctl(2), PR_SET_PDEATHSIG).
WHETHER_IT_LIVES = 0.5
PATIENCE = 30.0  # from the death of the arbiter to the fast shutdown

# What the postmaster says when the startup process, which recovers the data, has failed (its source, postmaster.c).
_STARTUP_FAILED = "aborting startup due to startup process failure"
_SMART_SHUTDOWN = "received smart shutdown request"
_STATUS_LINE = 7  # of postmaster.pid, counted from 0 (PostgreSQL source, LOCK_FILE_LINE_PM_STATUS)


class Companion:
    """``pidfd`` is the postmaster's, ``log_fd`` the end of the pipe it writes its log to."""

    def __init__(self, cluster: Cluster, database: str, channel: Channel, *, log_fd: int, pidfd: int) -> None:
        self._cluster = cluster
        self._database = database
        self._channel: Channel | None = channel
        self._log_fd = log_fd
        self._pidfd = pidfd
        self._postmaster = os.getpid()
        self._stream = ServerLog()
        self._told = False
        self._demand_at: float | None = None
        self._hurry_at: float | None = None

    def run(self) -> NoReturn:
        """Work until the server has gone, then end this process."""
        status = 1
        try:
            for leave in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                # It goes when the server has gone, so as to tell what the server says last.
                signal.signal(leave, signal.SIG_IGN)
            self._work()
            status = 0
        except Exception:  # the end of a process that has no caller
            log.exception("PostgreSQL's companion failed; the server goes on without its log")
        finally:
            os._exit(status)

    def _work(self) -> None:
        watch = select.poll()
        for fd in (self._log_fd, self._pidfd, self._channel_fd()):
            watch.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in watch.poll(self._timeout())}
            if self._log_fd in ready and not self._relay():
                self._ended()
                return
            if self._pidfd in ready:
                watch.unregister(self._pidfd)
                self._ended()
            if self._channel is not None and self._channel_fd() in ready:
                fd = self._channel_fd()
                if not self._listen():
                    watch.unregister(fd)
            self._act()

    def _timeout(self) -> float | None:
        """In milliseconds, as poll(2) wants it."""
        if not self._told:
            return LOOK_EVERY * 1000
        deadlines = [at for at in (self._demand_at, self._hurry_at) if at is not None]
        return max(0.0, min(deadlines) - monotonic()) * 1000 if deadlines else None

    def _act(self) -> None:
        if not self._told and self._accepts():
            self._tell(Ready())
        if self._hurry_at is not None and monotonic() >= self._hurry_at:
            self._hurry_at = None
            self._hurry()
        if self._demand_at is not None and monotonic() >= self._demand_at:
            self._demand_at = None
            log.warning("Somebody still uses PostgreSQL (%d), whose daemon is dead: fast shutdown", self._postmaster)
            send_signal(self._pidfd, signal.SIGINT)

    def _hurry(self) -> None:
        # Somebody else than the kernel sent SIGTERM. The server waits for its last session then, and the workers'
        # sessions do not end while their daemon lives: until then nobody new would get in.
        if self._channel is not None:
            log.warning("PostgreSQL (%d) got SIGTERM: fast shutdown, so that it is replaced", self._postmaster)
            send_signal(self._pidfd, signal.SIGINT)

    # -- the arbiter ----------------------------------------------------------------------------------------

    def _channel_fd(self) -> int:
        return -1 if self._channel is None else self._channel.fileno()

    def _listen(self) -> bool:
        """Take note of what the arbiter says: only its end matters; False then."""
        if self._channel is None:
            return False
        try:
            received = self._channel.receive()
        except ChannelClosed:
            self._channel.close()
            self._channel = None
            self._demand_at = monotonic() + PATIENCE
            return False
        for fd in received[1] if received else ():
            os.close(fd)
        return True

    def _tell(self, message: Ready | Failed) -> None:
        self._told = True
        if self._channel is not None:
            try:
                self._channel.send(message)
            except ChannelClosed:
                pass  # _listen will see it too

    # -- the server -----------------------------------------------------------------------------------------

    def _relay(self) -> bool:
        """Pass on what the server says; False at the end."""
        data = os.read(self._log_fd, 65536)
        for event in self._stream.feed(data) if data else self._stream.end():
            log.log(event.level, "%s", event.text)
            if not self._told and self._gives_up(event):
                # Said at once, not when the process ends: then the arbiter may know the end before the reason.
                self._obituary()
            if event.pid == self._postmaster and _SMART_SHUTDOWN in event.text:
                self._hurry_at = monotonic() + WHETHER_IT_LIVES
        return bool(data)

    def _gives_up(self, event: ServerEvent) -> bool:
        # The postmaster alone: a session that comes too early is told FATAL as well, and that is FATAL for it only.
        if event.pid != self._postmaster:
            return False
        return event.severity in ("FATAL", "PANIC") or _STARTUP_FAILED in event.text

    def _ended(self) -> None:
        if not self._told:
            self._obituary()

    def _obituary(self) -> None:
        lines = "\n".join(self._stream.tail)
        self._tell(Failed(traceback=f"PostgreSQL did not start; its last words:\n{lines}"))

    def _accepts(self) -> bool:
        """Whether the server accepts connections; procman's database is made then if it is not there."""
        if self._status() != "ready":
            return False
        try:
            self._ensure_database()
        except (DatabaseUnavailable, psycopg2.Error) as error:
            log.debug("PostgreSQL says it is ready and is not: %s", error)
            return False
        return True

    def _status(self) -> str:
        # Asked for in the file, as pg_ctl does: a connection too early is a FATAL message in the log.
        try:
            with open(os.path.join(self._cluster.data_dir, "postmaster.pid"), encoding="utf-8") as file:
                lines = file.read().splitlines()
        except OSError:
            return ""
        if len(lines) <= _STATUS_LINE or lines[0] != str(self._postmaster):
            return ""
        return lines[_STATUS_LINE].strip()

    def _ensure_database(self) -> None:
        connection = connect(self._cluster.url("postgres"), application_name="procman companion")
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (self._database,))
                if cursor.fetchone() is None:
                    cursor.execute(f'CREATE DATABASE "{self._database}"')
        finally:
            connection.close()
