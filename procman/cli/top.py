"""`procmanctl top`: look once a second, draw, obey a key, until told to stop."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live

from procman.cli.screen import View, draw
from procman.errors import ControlError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from procman.control.client import Client

INTERVAL = 1.0  # seconds

QUIT = frozenset({b"q", b"Q", b"\x03", b"\x04"})
SCROLL = {
    b"j": 1,
    b"\x1b[B": 1,
    b"\x1bOB": 1,
    b"k": -1,
    b"\x1b[A": -1,
    b"\x1bOA": -1,
    b" ": 10,
    b"\x1b[6~": 10,
    b"b": -10,
    b"\x1b[5~": -10,
    b"g": -1_000_000,
    b"\x1b[H": -1_000_000,
    b"G": 1_000_000,
    b"\x1b[F": 1_000_000,
}


def usable() -> bool:
    """There is a terminal to draw on and a keyboard to listen to."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def run(connect: Callable[[], Client]) -> None:
    """Show what the daemon is doing, until ``q``. A daemon that goes is waited for.

    Raises ControlError when there is none to begin with.
    """
    console = Console()
    with ExitStack() as stack:
        view, daemon = View(), _Daemon(connect)
        stack.callback(daemon.close)
        daemon.look(view)  # before the screen is taken: what is wrong now is said as by any other command
        stack.enter_context(_keyboard())
        resized = stack.enter_context(_resized())
        live = stack.enter_context(Live(console=console, screen=True, auto_refresh=False))
        due = monotonic() + INTERVAL
        while True:
            live.update(draw(view, console.width, console.height), refresh=True)
            key = _await_key(resized, due)
            if key in QUIT:
                return
            view.offset += SCROLL.get(key, 0)
            if monotonic() >= due:
                due = monotonic() + INTERVAL
                daemon.try_to_look(view)


class _Daemon:
    """The connection to the daemon, made anew after it was lost."""

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._client: Client | None = None

    def look(self, view: View) -> None:
        if self._client is None:
            self._client = self._connect()
        view.status = self._client.call("status")
        operations: list[dict[str, Any]] = self._client.call("operations")["operations"]
        view.operations = [one for one in operations if one["state"] == "running"]
        view.rates.look(view.pools, monotonic())
        view.problem = ""

    def try_to_look(self, view: View) -> None:
        try:
            self.look(view)
        except ControlError as error:
            view.problem = str(error)
            self.close()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


@contextmanager
def _keyboard() -> Iterator[None]:
    """Keys come one by one and are not echoed."""
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


@contextmanager
def _resized() -> Iterator[int]:
    """A descriptor that is readable when the terminal has another size, or somebody asks us to end."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    handlers = {signum: signal.signal(signum, lambda *_: None) for signum in (signal.SIGWINCH,)}
    handlers |= {signum: signal.signal(signum, _leave) for signum in (signal.SIGTERM, signal.SIGHUP)}
    before = signal.set_wakeup_fd(writer)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(before)
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        os.close(reader)
        os.close(writer)


def _leave(*_: object) -> None:
    raise KeyboardInterrupt  # so that the terminal is given back as it was


def _await_key(resized: int, due: float) -> bytes:
    """The next key, or nothing when it is time to look again or to draw in another size."""
    stdin = sys.stdin.fileno()
    ready, _, _ = select.select([stdin, resized], [], [], max(0.0, due - monotonic()))
    if resized in ready:
        os.read(resized, 512)
    # What a key sends arrives in one piece; the end of the input ends the program.
    return (os.read(stdin, 32) or b"q") if stdin in ready else b""
