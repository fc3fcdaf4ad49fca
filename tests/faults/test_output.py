"""Logs that nobody reads, commands that write without end, disks that are full: supervision goes on."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading

import pytest

from tests.support.daemon import Procmand, wait_until

APPLICATION = """
import logging
def application(environ, start_response):
    logging.getLogger("shop").warning("somebody asked")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"served"]
"""
HTTP = '[pools.http]\nkind = "http"\napp = "app:application"\nbind = "127.0.0.1:0"\nworkers = 2\n'
SLEEPER = '[pools.sleeper]\nkind = "exec"\ncommand = ["sleep", "1000"]\nstart_seconds = 0\n'
FLOOD = '[pools.flood]\nkind = "exec"\ncommand = ["yes", "flood"]\nstdout = "log"\nstart_seconds = 0\nworkers = 2\n'

# Fills a pipe or a socket, makes it the standard error, and becomes the daemon.
FULL = """
import os, socket, stat, sys
path = sys.argv[1]
if stat.S_ISSOCK(os.stat(path).st_mode):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    fd = sock.fileno()
else:
    fd = os.open(path, os.O_WRONLY)
os.set_blocking(fd, False)
try:
    while True:
        os.write(fd, b"x" * 4095 + b"\\n")
except BlockingIOError:
    os.set_blocking(fd, True)
os.dup2(fd, 2)
os.execv(sys.argv[2], sys.argv[2:])
"""


class Unread:
    """A daemon's standard error with room for nothing, until somebody reads."""

    def __init__(self, directory, kind):
        self.path = directory / "stderr"
        self.prefix = [sys.executable, "-c", FULL, str(self.path)]
        self.text = b""
        self._reader = self._listener = self._thread = None
        if kind == "pipe":
            os.mkfifo(self.path)
            self._reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
            os.set_blocking(self._reader, True)
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self.path))
            self._listener.listen()

    def read(self):
        """From now on somebody reads."""
        self.path.unlink()
        if self._listener is not None:
            self._reader = self._listener.accept()[0].detach()

        def reading():
            while data := os.read(self._reader, 65536):
                self.text += data

        self._thread = threading.Thread(target=reading)
        self._thread.start()

    def close(self):
        """When the daemon is gone."""
        if self._thread is not None:
            self._thread.join()
        if self._reader is not None:
            os.close(self._reader)
        if self._listener is not None:
            self._listener.close()


@pytest.fixture(params=["pipe", "socket"])
def unread(request, short_path):
    unread = Unread(short_path, request.param)
    yield unread
    unread.close()


def test_nobody_reads_the_log_and_everything_goes_on(short_path, unread):
    with Procmand(short_path, HTTP + SLEEPER, modules={"app.py": APPLICATION}, prefix=unread.prefix) as daemon:
        for name in ("http.1", "sleeper.1"):
            pid = daemon.worker(name)["pid"]
            os.kill(pid, signal.SIGKILL)
            daemon.wait_replaced(name, pid)
        assert daemon.request("GET", "/") == (200, b"served"), (
            "what a worker has to say stops it no more than the daemon"
        )
        assert daemon.procmanctl("reload", "http").returncode == 0
        unread.read()
        wait_until(lambda: b"Pool http serves generation 2" in unread.text, "what was kept to be written")
        assert b"exited: killed_by_user" in unread.text


def test_who_writes_without_end_is_read_when_there_is_time(short_path, unread):
    """Two commands flood the log, which is full: others are replaced at once, and what was lost is counted."""
    with Procmand(short_path, FLOOD + SLEEPER, prefix=unread.prefix) as daemon:
        for _ in range(3):
            pid = daemon.worker("sleeper.1")["pid"]
            os.kill(pid, signal.SIGKILL)
            daemon.wait_replaced("sleeper.1", pid)
        flooder = daemon.worker("flood.1")["pid"]
        os.kill(flooder, signal.SIGKILL)
        daemon.wait_replaced("flood.1", flooder)
        flooder = daemon.worker("flood.2")["pid"]
        daemon.wait(lambda: written_by(flooder) > 2**17, "more than is kept")
        unread.read()
        wait_until(lambda: b"log records were lost before this one" in unread.text, "the count of what was lost")


def written_by(pid):
    with open(f"/proc/{pid}/io") as file:
        return int(dict(line.split(": ") for line in file)["wchar"])


def test_a_flood_takes_a_small_part_of_the_daemon(short_path):
    with Procmand(short_path, FLOOD + SLEEPER) as daemon:
        daemon.wait(lambda: daemon.log.count("flood.2 procman.output: flood") > 1000, "the flood")
        before, begun = cpu(daemon), os.times().elapsed
        daemon.wait(lambda: os.times().elapsed > begun + 2, "time to pass")
        share = (cpu(daemon) - before) / (os.times().elapsed - begun)
        assert share < 0.5, share


def cpu(daemon):
    with open(f"/proc/{daemon.process.pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_file_that_can_not_be_written_is_the_command_s_own_trouble(short_path):
    text = SLEEPER + '[pools.full]\nkind = "exec"\ncommand = ["sh", "-c", "echo lost; exec sleep 1000"]\n'
    text += 'stdout = "/dev/full"\nstderr = "/dev/full"\nstart_seconds = 0\n'
    with Procmand(short_path, text) as daemon:
        assert daemon.pool("full")["ready"] == 1


def test_a_file_that_can_not_be_opened_keeps_the_command_from_starting_and_says_so(short_path):
    (short_path / "taken").mkdir()
    text = SLEEPER + '[pools.one]\nkind = "exec"\ncommand = ["sleep", "1000"]\nstdout = "taken"\nmax_restarts = 1\n'
    text += "backoff = { first = 0.01, most = 0.01 }\n"
    with Procmand(short_path, text, ready=False) as daemon:
        daemon.wait(lambda: "Pool one is parked" in daemon.log, "the pool to be parked")
        assert "IsADirectoryError" in daemon.pool("one")["parked"]
        assert daemon.pool("sleeper")["ready"] == 1


def test_a_line_without_end_becomes_records(short_path):
    script = "import sys\nsys.stdout.write('x' * 100_000 + 'end')\nsys.stdout.flush()\nsys.stdin.read()\n"
    text = (
        f'[pools.one]\nkind = "exec"\ncommand = ["{sys.executable}", "write.py"]\nstdout = "log"\nstart_seconds = 0\n'
    )
    with Procmand(short_path, text, modules={"write.py": script}) as daemon:
        daemon.wait(lambda: "xend" in daemon.log, "the end of the line")
        assert max(map(len, daemon.log.splitlines())) < 9000
