"""sd_notify(3) without libsystemd: tell the service manager how the daemon is.

Everything here does nothing when there is no service manager, and never raises: a daemon whose manager is not
listening has better things to do than to fail.
"""

from __future__ import annotations

import os
import select
import socket
from array import array
from time import CLOCK_MONOTONIC, clock_gettime_ns, monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence


_PROBE = "procman.probe"
_BARRIER_PATIENCE = 1.0  # seconds; the manager needs some milliseconds


class Notifier:
    """Speaks to $NOTIFY_SOCKET, a path or ``@name`` in the abstract namespace; to nobody when it is not set.

    The variables are removed from ``environ`` (by default this process's), so that no child speaks in our name.
    """

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        address = environ.pop("NOTIFY_SOCKET", "")
        self.watchdog_seconds = _watchdog(environ)
        size = environ.pop("FDSTORE", "")
        self._store_size = int(size) if size.isascii() and size.isdigit() else None  # None: the manager has not said
        self._pinged = 0.0
        self._address = ""
        self._socket: socket.socket | None = None
        if address[:1] in ("/", "@") and len(address) > 1:
            self._address = "\0" + address[1:] if address[0] == "@" else address
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    @property
    def active(self) -> bool:
        """Somebody listens."""
        return self._socket is not None

    @property
    def watchdog_interval(self) -> float | None:
        """The loop must come round at least this often: half of what is allowed (sd_watchdog_enabled(3))."""
        return None if self.watchdog_seconds is None else self.watchdog_seconds / 2

    def ready(self, status: str = "") -> None:
        """The daemon serves; also the end of a `reloading`."""
        self._send("READY=1", *_status(status))

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send(*_status(text))

    def reloading(self, status: str = "") -> None:
        """The daemon reloads, until `ready`. The manager compares the time with that of its request (notify-reload)."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={clock_gettime_ns(CLOCK_MONOTONIC) // 1000}", *_status(status))

    def stopping(self, status: str = "") -> None:
        """The daemon is on its way out."""
        self._send("STOPPING=1", *_status(status))

    @property
    def environment(self) -> dict[str, str]:
        """The variables as they were, for the next image of this process."""
        if self._socket is None:
            return {}
        address = "@" + self._address[1:] if self._address[0] == "\0" else self._address
        if self.watchdog_seconds is None:
            return {"NOTIFY_SOCKET": address}
        microseconds = str(round(self.watchdog_seconds * 1e6))
        return {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": microseconds, "WATCHDOG_PID": str(os.getpid())}

    def watchdog(self, *, now: bool = False) -> None:
        """The daemon is alive. To be called by the loop after each full turn; says it as often as is needed, or now."""
        if self.watchdog_seconds is None:
            return
        time = monotonic()
        if now or time - self._pinged >= self.watchdog_seconds / 4:
            self._pinged = time
            self._send("WATCHDOG=1")

    # -- descriptors --------------------------------------------------------------------------------------

    def stores_descriptors(self) -> bool:
        """Whether the manager keeps descriptors for us. Found out by giving it one, which takes it a moment."""
        if self._socket is None or self._store_size == 0:
            return False
        if self._store_size is not None:
            return True
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                self._send("FDSTORE=1", f"FDNAME={_PROBE}", fds=(theirs.fileno(),))
            if not self._barrier():
                return False
            refused = bool(select.select([ours], [], [], 0)[0])  # it has closed the other end
        self._send("FDSTOREREMOVE=1", f"FDNAME={_PROBE}")
        return not refused

    def store(self, name: str, fd: int) -> None:
        """Have the manager keep a copy of the descriptor."""
        # FDPOLL=0: a listening socket is not to be dropped for an error of one of its connections.
        self._send("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", fds=(fd,))

    def unstore(self, name: str) -> None:
        """Have the manager drop every descriptor of that name."""
        self._send("FDSTOREREMOVE=1", f"FDNAME={name}")

    def _barrier(self) -> bool:
        """Wait until the manager has read all that was sent before; False when it takes too long (BARRIER=1)."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            self._send("BARRIER=1", fds=(writer,))
        finally:
            os.close(writer)
        try:
            return bool(select.select([reader], [], [], _BARRIER_PATIENCE)[0])
        finally:
            os.close(reader)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str, fds: Sequence[int] = ()) -> None:
        if self._socket is None:
            return
        data = "\n".join(lines).encode("utf-8", "replace")
        try:
            # A manager that is busy must not stop the loop. It reads soon again, and what was said is said again.
            flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
            self._socket.sendmsg([data], ancillary, flags, self._address)
        except OSError:
            pass  # see the top of the module


def _watchdog(environ: MutableMapping[str, str]) -> float | None:
    """Seconds after which the manager takes a silent daemon for dead; None: never."""
    microseconds = environ.pop("WATCHDOG_USEC", "")
    pid = environ.pop("WATCHDOG_PID", "")
    # sd_watchdog_enabled(3): meant for the process of that pid, or for whoever reads it.
    mine = pid in ("", str(os.getpid()))
    valid = mine and microseconds.isascii() and microseconds.isdigit() and int(microseconds) > 0
    return int(microseconds) / 1e6 if valid else None


def _status(text: str) -> tuple[str, ...]:
    # A line end would begin another assignment: text from a pool's name or an error must not say READY=1.
    return (f"STATUS={' '.join(text.split())}",) if text else ()
