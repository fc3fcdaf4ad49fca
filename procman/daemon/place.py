"""The state directory: made, locked so that two daemons never share it, and left tidy."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from procman.errors import AddressError
from procman.observe.scoreboard import Scoreboard

if TYPE_CHECKING:
    from types import TracebackType


class Place:
    """A context manager around a daemon's life. Raises AddressError when another daemon has the directory."""

    def __init__(self, state_dir: str) -> None:
        self.state_dir = state_dir
        self.scoreboard = os.path.join(state_dir, "scoreboard")
        self.lock = -1  # the descriptor that holds the lock
        self._lock_path = os.path.join(state_dir, "procmand.lock")

    def __enter__(self) -> Place:
        try:
            os.makedirs(self.state_dir, mode=0o700, exist_ok=True)
            if self.lock < 0:
                self.lock = self._take_lock()
        except OSError as error:
            raise self._unusable(error) from error
        return self

    @classmethod
    def inherited(cls, state_dir: str, lock: int) -> Place:
        """The one that the image of this process before this one has entered, and left to it with its lock."""
        place = cls(state_dir)
        place.lock = lock
        return place

    def make_scoreboard(self, records: int) -> Scoreboard:
        """A new one, with room for so many workers. Raises AddressError."""
        try:
            return Scoreboard.create(self.scoreboard, records)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> AddressError:
        return AddressError(f"the state directory {self.state_dir} can't be used: {error}")

    def _take_lock(self) -> int:
        while True:
            # flock(2) goes with the process, however it ends: no stale lock survives a kill -9.
            fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
                os.close(fd)
                raise AddressError(f"another procmand (pid {owner}) runs in {self.state_dir}") from None
            if self._is_current(fd):
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
                return fd
            os.close(fd)  # the daemon before us removed the file between our open and our lock

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self._lock_path))
        except FileNotFoundError:
            return False

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for path in (self.scoreboard, self._lock_path):
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
        os.close(self.lock)
