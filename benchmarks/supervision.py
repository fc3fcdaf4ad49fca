"""What supervision costs: replacing, starting, idling, asking.

    python benchmarks/supervision.py [--rounds N] [--idle S] [NAME…]

A daemon of its own for each measure, in a temporary directory. Times are medians in milliseconds, on the machine as
it is: run it when the machine has nothing else to do, and compare only what was measured in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from procman.control.client import Client
from procman.errors import ControlError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# An application that takes half a second to import and 40 MiB of small objects, and tells of each fork.
APPLICATION = """
import os, socket, time

time.sleep(0.5)
BALLAST = [{str(n): [n, str(n)]} for n in range(95_000)]
_socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

def _forked():
    try:
        _socket.sendto(f"{os.getpid()} {time.monotonic()}".encode(), os.environ["BENCHMARK_SOCKET"])
    except (KeyError, OSError):
        pass

os.register_at_fork(after_in_child=_forked)

def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
# No death counts as young: what is measured is the replacement, not the wait before it.
HTTP = """
[pools.http]
kind = "http"
app = "app:application"
bind = "unix:web.sock"
workers = {workers}
max_restarts = 1000000
backoff = {{ first = 0.001, most = 0.001, lived = 0.001 }}
"""
SLEEPERS = """
[pools.sleeper]
kind = "exec"
command = ["sh", "-c", "echo > started; exec sleep 1000"]
workers = {workers}
start_seconds = 0
"""
CRASHING = """
[pools.crashing]
kind = "exec"
command = ["false"]
workers = 4
"""

Row = tuple[str, str]


class Daemon:
    """A procmand in a directory of its own."""

    def __init__(self, directory: Path, configuration: str) -> None:
        self.directory = directory
        (directory / "app.py").write_text(APPLICATION)
        (directory / "procman.toml").write_text(configuration)
        self.forks = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.forks.bind(str(directory / "forks"))
        self._log = (directory / "log").open("wb")
        program = os.path.join(os.path.dirname(sys.executable), "procmand")
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [program, "-c", str(directory / "procman.toml")],
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "BENCHMARK_SOCKET": str(directory / "forks")},
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def ask(self, command: str, **properties: Any) -> dict[str, Any]:
        """One command on a connection of its own."""
        with Client(f"ipc://{self.directory}/var/control.sock", timeout=60) as client:
            return dict(client.call(command, **properties))

    def workers(self, pool: str) -> list[dict[str, Any]]:
        return list(self.ask("stats")["pools"][pool]["workers"])

    def wait_serving(self, pool: str, workers: int) -> None:
        """Until that many workers are ready and nobody else is there."""
        while True:
            with contextlib.suppress(ControlError):
                if (self.directory / "var/control.sock").exists():
                    found = self.ask("stats")["pools"][pool]
                    if found["ready"] == len(found["workers"]) == workers:
                        return
            time.sleep(0.02)

    def get(self) -> None:
        """One request, on a connection of its own."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.directory / "web.sock"))
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while sock.recv(4096):
                pass

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.forks.close()
        self._log.close()


@contextlib.contextmanager
def daemon(configuration: str) -> Iterator[Daemon]:
    """A daemon for one measure; nothing is left of it afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="pm", dir="/tmp"))
    running = Daemon(directory, configuration)
    try:
        yield running
    finally:
        running.stop()
        shutil.rmtree(directory)


# -- figures of processes ---------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """Processor time of all its threads, to the nanosecond (schedstat)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def pss(pid: int) -> float:
    """MiB, shared pages counted by their share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def tree(pid: int) -> list[int]:
    """The process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in children for found in tree(int(child)))]


def milliseconds(times: list[float]) -> str:
    return f"{statistics.median(times) * 1000:.1f} ms"


# -- measures ---------------------------------------------------------------------------------------------


def replacement(options: argparse.Namespace) -> Iterator[Row]:
    """kill -9 of the only worker of an application that is slow to import."""
    first, serves = [], []
    with daemon(HTTP.format(workers=1)) as running:
        running.wait_serving("http", 1)
        for _ in range(options.rounds):
            (worker,) = running.workers("http")
            running.forks.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while running.forks.recv(100):
                    pass
            running.forks.setblocking(True)
            killed = time.monotonic()
            os.kill(worker["pid"], signal.SIGKILL)
            running.get()  # waits in the queue of the socket, which the daemon holds
            serves.append(time.monotonic() - killed)
            forked = {int(pid): float(at) for pid, at in (running.forks.recv(100).split() for _ in range(2))}
            (worker,) = running.workers("http")
            first.append(forked[worker["pid"]] - killed)
            running.wait_serving("http", 1)
    yield "kill -9 → replacement's first instruction", milliseconds(first)
    yield "kill -9 → replacement serves (40 MiB, 500 ms to import)", milliseconds(serves)


def start(options: argparse.Namespace) -> Iterator[Row]:
    """From the start of the program to the first instruction of the last command."""
    times = []
    for _ in range(max(3, options.rounds // 10)):
        with daemon(SLEEPERS.format(workers=50)) as running:
            fifo = running.directory / "started"
            os.mkfifo(fifo)
            with fifo.open("r+b", buffering=0) as started:
                for _ in range(50):
                    started.read(1)
            times.append(time.monotonic() - running.started)
    yield "start of 50 commands", milliseconds(times)


def idle(options: argparse.Namespace) -> Iterator[Row]:
    """The daemon beside workers that have nothing to do."""
    for workers in (10, 50, 200):
        with daemon(HTTP.format(workers=workers) + "[pools.http.limits]\ntime_real = 120\n") as running:
            running.wait_serving("http", workers)
            time.sleep(1)
            before = cpu_seconds(running.pid)
            time.sleep(options.idle)
            percent = 100 * (cpu_seconds(running.pid) - before) / options.idle
            yield f"idle with {workers} workers", f"{percent:.4f} % of a core, PSS {pss(running.pid):.1f} MiB"


def memory(options: argparse.Namespace) -> Iterator[Row]:
    """Eight workers that have done some work, their template, and the daemon."""
    with daemon(HTTP.format(workers=8)) as running:
        running.wait_serving("http", 8)
        while min(worker["requests"] for worker in running.workers("http")) < 50:
            for _ in range(400):
                running.get()
        total = sum(pss(pid) for pid in tree(running.pid))
    yield "8 workers of a 40 MiB application, PSS of the tree", f"{total:.0f} MiB"


def stats(options: argparse.Namespace) -> Iterator[Row]:
    """One `stats` of 50 workers, over the socket and by the command line."""
    with daemon(HTTP.format(workers=50)) as running:
        running.wait_serving("http", 50)
        over_socket, by_command = [], []
        with Client(f"ipc://{running.directory}/var/control.sock", timeout=60) as client:
            for _ in range(options.rounds * 4):
                begun = time.monotonic()
                client.call("stats")
                over_socket.append(time.monotonic() - begun)
        program = os.path.join(os.path.dirname(sys.executable), "procmanctl")
        for _ in range(10):
            begun = time.monotonic()
            command = [program, "-c", str(running.directory / "procman.toml"), "stats"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            by_command.append(time.monotonic() - begun)
    yield "stats of 50 workers, over the socket", milliseconds(over_socket)
    yield "stats of 50 workers, by the command line", milliseconds(by_command)


def crash_loop(options: argparse.Namespace) -> Iterator[Row]:
    """Four commands that end at once."""
    with daemon(CRASHING) as running:
        time.sleep(20)
        spent = cpu_seconds(running.pid)
        log = (running.directory / "log").read_text()
    state = "parked" if "is parked" in log else "still trying"
    yield "four commands that end at once, in 20 s", f"{log.count(') exited')} starts, {spent:.2f} s of CPU, {state}"


class Keeper:
    """Clients that keep their connection until its end is announced."""

    def __init__(self, path: Path, done: threading.Event, lost: list[OSError], times: list[float]) -> None:
        self._path, self._done, self._lost, self._times = str(path), done, lost, times

    def run(self) -> None:
        """Ask until done."""
        sock: socket.socket | None = None
        while not self._done.is_set():
            begun = time.monotonic()
            try:
                if sock is None:
                    sock = socket.socket(socket.AF_UNIX)
                    sock.connect(self._path)
                if self._ask(sock):
                    sock.close()
                    sock = None
            except OSError as error:
                self._lost.append(error)
                sock = None
            self._times.append(time.monotonic() - begun)

    def _ask(self, sock: socket.socket) -> bool:
        """One request; whether the connection will be closed."""
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"\r\n\r\nok"):
            more = sock.recv(4096)
            if not more:
                raise ConnectionResetError("closed without an answer")
            answer += more
        return b"connection: close" in answer.lower()


def reloads(options: argparse.Namespace) -> Iterator[Row]:
    """Three reloads while four clients that keep their connections ask all the time."""
    lost: list[OSError] = []
    times: list[float] = []
    done = threading.Event()
    with daemon(HTTP.format(workers=2)) as running:
        running.wait_serving("http", 2)
        clients_of = Keeper(running.directory / "web.sock", done, lost, times)

        clients = [threading.Thread(target=clients_of.run) for _ in range(4)]
        for client in clients:
            client.start()
        for _ in range(3):
            running.ask("reload", name=["http"], waiting=True)
        done.set()
        for client in clients:
            client.join()
    yield "three reloads under load", f"{len(lost)} of {len(times)} lost, slowest {max(times) * 1000:.0f} ms"


MEASURES: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    measure.__name__: measure for measure in (replacement, start, idle, memory, stats, crash_loop, reloads)
}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to measure: {', '.join(MEASURES)}")
    parser.add_argument("--rounds", type=int, default=50, help="how often a short thing is done")
    parser.add_argument("--idle", type=float, default=20.0, help="how many seconds to do nothing for")
    options = parser.parse_args()
    for name in options.names or MEASURES:
        for what, figure in MEASURES[name](options):
            print(f"{what:<58} {figure}", flush=True)


if __name__ == "__main__":
    main()
