"""procmanctl top on a real terminal (a pseudo one): it draws, obeys, and gives the terminal back as it was."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import pytest

from tests.support.daemon import PATIENCE, Procmand, program

SLEEPERS = """
[pools.sleeper]
kind = "exec"
command = ["sleep", "1000"]
workers = 3
start_seconds = 0.05
"""


# These would be believed instead of the terminal.
ENVIRON = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}


class Terminal:
    """The program on a terminal of its own; what it writes is kept in ``text``, without what only moves and colours."""

    def __init__(self, file, *, columns=100, lines=30):
        self.control, terminal = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(terminal)
        self.process = subprocess.Popen(
            [program("procmanctl"), "-c", str(file), "top"],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**ENVIRON, "TERM": "xterm-256color"},
            start_new_session=True,
            # Its controlling terminal: Ctrl-C and a new size are signals to it, as they are to a program in a shell.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.terminal = terminal
        self.raw = ""

    @property
    def text(self):
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.raw)

    def resize(self, columns, lines):
        fcntl.ioctl(self.control, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    def press(self, keys):
        os.write(self.control, keys)

    def wait_for(self, what):
        """Until it is written from now on."""
        self.raw = ""
        deadline = time.monotonic() + PATIENCE
        while what not in self.text:
            assert time.monotonic() < deadline, self.text
            if select.select([self.control], [], [], 1)[0]:
                self.raw += os.read(self.control, 65536).decode("utf-8", "replace")

    def wait(self):
        while self.process.poll() is None:
            if select.select([self.control], [], [], 0.1)[0]:
                self.raw += os.read(self.control, 65536).decode("utf-8", "replace")
        return self.process.returncode

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.control)
        os.close(self.terminal)


@pytest.fixture
def daemon(short_path):
    with Procmand(short_path, SLEEPERS) as daemon:
        yield daemon


@pytest.fixture
def terminal(daemon):
    terminal = Terminal(daemon.file)
    yield terminal
    terminal.close()


def test_it_draws_follows_and_quits(daemon, terminal):
    terminal.wait_for("sleeper.3")
    assert "procmand" in terminal.text
    assert "\x1b[?1049h" in terminal.raw, "it takes a screen of its own"
    pid = daemon.worker("sleeper.1")["pid"]
    os.kill(pid, signal.SIGKILL)
    terminal.wait_for("killed_by_user")
    terminal.resize(60, 10)
    terminal.wait_for("sleeper.1")
    terminal.press(b"G")
    terminal.wait_for("sleeper.3")
    terminal.press(b"/nothing\r")
    terminal.wait_for("only nothing")
    terminal.press(b"\x1b")
    terminal.wait_for("sleeper")
    terminal.press(b"q")
    assert terminal.wait() == 0
    assert "\x1b[?1049l" in terminal.raw, "and gives it back"
    assert termios.tcgetattr(terminal.terminal) == terminal.before


def test_it_waits_for_a_daemon_that_went(daemon, terminal):
    terminal.wait_for("sleeper.3")
    daemon.stop(signal.SIGTERM)
    terminal.wait_for("no daemon at")
    daemon.start()
    terminal.wait_for("running")
    terminal.press(b"\x03")
    assert terminal.wait() == 0
    daemon.wait_said("READY=1")


def test_stacks_of_the_selected_worker(short_path):
    text = '[pools.http]\nkind = "http"\napp = "app:application"\nbind = "127.0.0.1:0"\n'
    with Procmand(short_path, text, modules={"app.py": "def application(environ, start): pass\n"}) as daemon:
        terminal = Terminal(daemon.file)
        terminal.wait_for("http.1")
        terminal.press(b"\r")
        terminal.wait_for("Stacks of http.1")
        terminal.press(b"\x1b")
        terminal.wait_for("WORKER")
        terminal.press(b"q")
        assert terminal.wait() == 0
        terminal.close()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_gives_the_terminal_back_when_it_is_ended(terminal, signum):
    terminal.wait_for("sleeper.3")
    terminal.process.send_signal(signum)
    assert terminal.wait() == 0
    assert "\x1b[?1049l" in terminal.raw
    assert termios.tcgetattr(terminal.terminal) == terminal.before


def test_without_a_terminal_it_says_what_to_do_instead(daemon):
    run = daemon.procmanctl("top")
    assert run.returncode == 2
    assert "top needs a terminal" in run.stderr
    assert "procmanctl stats" in run.stderr


def test_without_a_daemon_it_takes_no_screen(short_path):
    (short_path / "procman.toml").write_text(SLEEPERS)
    terminal = Terminal(short_path / "procman.toml")
    assert terminal.wait() == 3
    assert "\x1b[?1049h" not in terminal.raw
    terminal.close()
