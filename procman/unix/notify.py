"""sd_notify(3) without libsystemd: tell the service manager how the daemon is.

Everything here does nothing when there is no service manager, and never raises: a daemon whose manager is not
listening has better things to do than to fail.
"""

from __future__ import annotations

import os
import socket
from time import CLOCK_MONOTONIC, clock_gettime_ns
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import MutableMapping


class Notifier:
    """Speaks to the socket at ``address`` (a path, or ``@name`` in the abstract namespace); None: to nobody.

    ``watchdog_seconds`` is the time after which the manager takes a silent daemon for dead; None: never.
    """

    def __init__(self, address: str | None, watchdog_seconds: float | None = None) -> None:
        self.watchdog_seconds = watchdog_seconds
        self._address: str | None = None
        self._socket: socket.socket | None = None
        if address and address[0] in "/@" and len(address) > 1:
            self._address = "\0" + address[1:] if address[0] == "@" else address
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Self:
        """For $NOTIFY_SOCKET and $WATCHDOG_USEC, which are removed so that no child speaks in the daemon's name."""
        address = environ.pop("NOTIFY_SOCKET", None)
        microseconds = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", "")
        # sd_watchdog_enabled(3): meant for the process of that pid, or for whoever reads it.
        mine = pid in ("", str(os.getpid()))
        valid = mine and microseconds.isascii() and microseconds.isdigit() and int(microseconds) > 0
        return cls(address, int(microseconds) / 1e6 if valid else None)

    @property
    def active(self) -> bool:
        """Somebody listens."""
        return self._socket is not None

    @property
    def watchdog_interval(self) -> float | None:
        """Seconds between two calls of `watchdog`: half of what is allowed, as sd_watchdog_enabled(3) advises."""
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

    def watchdog(self) -> None:
        """The daemon is alive. To be called by the loop after a full turn, never by a timer of its own."""
        if self.watchdog_seconds is not None:
            self._send("WATCHDOG=1")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> None:
        if self._socket is None or self._address is None:
            return
        data = "\n".join(lines).encode("utf-8", "replace")
        try:
            # A manager that is busy must not stop the loop. It reads soon again, and what was said is said again.
            self._socket.sendto(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, self._address)
        except OSError:
            pass  # see the top of the module


def _status(text: str) -> tuple[str, ...]:
    # A line end would begin another assignment: text from a pool's name or an error must not say READY=1.
    return (f"STATUS={' '.join(text.split())}",) if text else ()
