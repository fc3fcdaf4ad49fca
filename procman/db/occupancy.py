"""Who lives in a data directory: a lock that lasts as long as any process of a server does.

The lock is a flock(2) on the directory itself, so nothing is left lying about. Its descriptor is inherited by
the postmaster and by every backend, and the lock goes when the last of them has gone. That covers what
``postmaster.pid`` can't: after ``kill -9`` of the postmaster its backends hold the shared memory for a moment,
and a new server that started meanwhile would refuse ("pre-existing shared memory block is still in use").
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
from select import poll
from time import monotonic, sleep

from procman.errors import DatabaseSetupError

log = logging.getLogger("procman.db")

FAST_SECONDS = 10.0  # for a fast shutdown of an earlier server; then it is told to quit at once
LAST_SECONDS = 20.0  # after which the directory is held to be really taken

_BUSY = (errno.EWOULDBLOCK, errno.EACCES)


class Occupancy:
    """A hold on a data directory. ``fd`` is its open directory; -1 on file systems that can't lock."""

    def __init__(self, directory: str, fd: int) -> None:
        self.directory = directory
        self.fd = fd

    @classmethod
    def is_free(cls, directory: str) -> bool:
        """Whether nobody holds the directory now."""
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return _try_lock(fd)
        finally:
            os.close(fd)

    @classmethod
    def take(cls, directory: str) -> Occupancy:
        """Hold the directory; a server that lives in it is shut down first.

        Raises DatabaseSetupError when it does not go within FAST_SECONDS + LAST_SECONDS.
        """
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _evict(directory, fd)
        except BaseException:
            os.close(fd)
            raise
        return cls(directory, fd)

    def clear(self, socket_path: str) -> None:
        """Remove what a killed server left: its pid file and its socket.

        PostgreSQL would clear them itself, but refuses when its old pid is now that of some other process of the
        same account, as is likely in a container. Whoever holds the directory knows better.
        """
        leftovers = (os.path.join(self.directory, "postmaster.pid"), socket_path, f"{socket_path}.lock")
        for path in leftovers:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass

    def release(self) -> None:
        """Let go of it in this process."""
        os.close(self.fd)


def postmaster(directory: str) -> int | None:
    """The pid of the live postmaster of this data directory, or None."""
    try:
        with open(os.path.join(directory, "postmaster.pid"), encoding="utf-8", errors="replace") as file:
            pid = int(file.readline())
    except (OSError, ValueError):
        return None
    try:
        # A postmaster's working directory is its data directory (PostgreSQL source, ChangeToDataDir()). A pid that
        # has been given to another process since then does not pass.
        lives = os.path.samefile(f"/proc/{pid}/cwd", directory) and "postgres" in os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None
    return pid if lives else None


def _evict(directory: str, fd: int) -> None:
    started = monotonic()
    told: signal.Signals | None = None
    while not _try_lock(fd):
        waited = monotonic() - started
        if waited > FAST_SECONDS + LAST_SECONDS:
            raise DatabaseSetupError(f"another process uses the data directory {directory} and does not go away")
        demand = signal.SIGINT if waited < FAST_SECONDS else signal.SIGQUIT
        pid = postmaster(directory)
        if pid is not None and told is not demand:
            log.warning(
                "PostgreSQL (%d) of an earlier daemon still runs in %s: sending it %s", pid, directory, demand.name
            )
            told = demand
            _signal(pid, demand)
        # flock(2) can only be waited for without a limit of time; a short nap costs nobody anything here.
        sleep(0.02)
    pid = postmaster(directory)
    if pid is not None:
        _end_stranger(pid)


def _end_stranger(pid: int) -> None:
    """A postmaster that was started by hand does not hold the lock: shut it down too, and see it end."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        watch = poll()
        watch.register(pidfd)
        for demand, seconds in ((signal.SIGINT, FAST_SECONDS), (signal.SIGQUIT, LAST_SECONDS)):
            _signal(pid, demand)
            if watch.poll(int(seconds * 1000)):
                return
    finally:
        os.close(pidfd)
    raise DatabaseSetupError(f"PostgreSQL ({pid}), started by another program, does not end")


def _signal(pid: int, signum: signal.Signals) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        pass


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        if error.errno not in (errno.EBADF, errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP):
            raise
        # NFS wants a descriptor open for writing, which no directory has: PostgreSQL's own checks must do there.
    return True
