"""`procmanctl top`: look once a second, draw, obey a key, until told to stop."""

from __future__ import annotations

import os
import re
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

from procman.cli.screen import draw
from procman.cli.view import BACKSPACE, DOWN, END, ENTER, ESCAPE, HOME, PAGE_DOWN, PAGE_UP, QUIT, UP, View
from procman.errors import ControlError
from procman.observe.stacks import worker_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from procman.control.client import Client

INTERVAL = 1.0  # seconds

# What keys send (xterm, ctlseqs), and the names the view knows them by. Any other byte is the key itself.
KEYS = {
    b"\x1b[A": UP,
    b"\x1bOA": UP,
    b"\x1b[B": DOWN,
    b"\x1bOB": DOWN,
    b"\x1b[5~": PAGE_UP,
    b"\x1b[6~": PAGE_DOWN,
    b"\x1b[H": HOME,
    b"\x1b[F": END,
    b"\r": ENTER,
    b"\n": ENTER,
    b"\x1b": ESCAPE,
    b"\x7f": BACKSPACE,
    b"\x08": BACKSPACE,
    b"\x03": QUIT,
    b"\x04": QUIT,
}
# What one key sends: a control sequence (ECMA-48, 5.4), the same with O in the keypad's other mode, or a character.
_KEY = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1bO[A-Za-z]|[\xc0-\xff][\x80-\xbf]*|[\x00-\xff]")


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
            for key in _await_keys(resized, due):
                match view.obey(key):
                    case "quit":
                        return
                    case "stacks":
                        daemon.show_stacks(view)
            if monotonic() >= due:
                due = monotonic() + INTERVAL
                if not view.paused:
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
        heard = self._client.call("events", since=view.events[-1]["seq"] if view.events else 0)
        if view.events and heard["seq"] < view.events[-1]["seq"]:  # it counts anew: another daemon
            view.events.clear()
            heard = self._client.call("events")
        view.hear(heard["events"])
        view.problem = ""

    def try_to_look(self, view: View) -> None:
        try:
            self.look(view)
        except ControlError as error:
            view.problem = str(error)
            self.close()

    def show_stacks(self, view: View) -> None:
        """Take the stacks of the selected worker; what is in the way is told in their place."""
        name = view.chosen
        try:
            if self._client is None:
                self._client = self._connect()
            stacks = self._client.call("dumpstacks", name=name)["stacks"]
        except ControlError as error:
            view.show(f"Stacks of {name}", str(error))
        else:
            text = "\n\n".join(map(worker_text, stacks)) or "It has gone."
            view.show(f"Stacks of {name}", text)

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


def _await_keys(resized: int, due: float) -> list[str]:
    """The next keys, or none when it is time to look again or to draw in another size."""
    stdin = sys.stdin.fileno()
    ready, _, _ = select.select([stdin, resized], [], [], max(0.0, due - monotonic()))
    if resized in ready:
        os.read(resized, 512)
    if stdin not in ready:
        return []
    sent = os.read(stdin, 32)
    if not sent:
        return [QUIT]  # the end of the input ends the program
    return keys_in(sent)


def keys_in(sent: bytes) -> list[str]:
    """What was pressed: who types fast has pressed more than one key. Empty for one that means nothing here."""
    found = _KEY.findall(sent)
    return [KEYS.get(one) or ("" if one.startswith(b"\x1b") else one.decode("utf-8", "replace")) for one in found]
