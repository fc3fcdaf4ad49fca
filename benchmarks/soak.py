"""Does it last? Load, reloads and random kills, for as long as one likes; then, whether the daemon is as it was.

    python benchmarks/soak.py [--seconds 600] [--reload 5] [--kill 2] [--seed N]

Eight clients ask without a pause, over TCP and over a unix socket, half of them on connections that they keep and half
on a new one for each request. Meanwhile the pool is reloaded, and workers, templates, commands and the nursery are
killed with SIGKILL. At the end the daemon's private memory and its descriptors must be what they were, and every
request must have been answered, save those that were on a worker that was killed. The exit status is 1 if anything is
not so.

Which worker had a lost request is known from an earlier answer on the same connection, or because the worker had told
that it begins with it. A request on a new connection that nobody had begun with is excused only if a worker was
killed while it waited; these are counted apart.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import select
import signal
import socket
import statistics
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from processes import Procmand, children, command_line, cpu_seconds, descriptors, private_memory, procmand

from procman.errors import ControlError

if TYPE_CHECKING:
    from collections.abc import Callable

APPLICATION = """
import os, socket

_journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
_journal_path = os.path.abspath("journal")  # beside the configuration

def application(environ, start_response):
    pid = str(os.getpid()).encode()
    _journal.sendto(pid + b" " + environ["PATH_INFO"][1:].encode(), _journal_path)
    start_response("200 OK", [("Content-Length", str(len(pid)))])
    return [pid]
"""
CONFIGURATION = """
[pools.http]
kind = "http"
app = "app:application"
bind = ["127.0.0.1:0", "unix:web.sock"]
workers = 4
backoff = { first = 0.001, most = 0.01, lived = 0.001 }
max_restarts = 1000000

[pools.command]
kind = "exec"
command = ["sleep", "1000000"]
workers = 4
start_seconds = 0
backoff = { first = 0.001, most = 0.01, lived = 0.001 }
max_restarts = 1000000
"""
CLIENTS = 8
PATIENCE = 30.0  # seconds for one answer
EXCUSE = 0.25  # seconds before and after a death for which it is to blame
SAMPLE = 1.0
WARM_UP = 0.2  # the part of the time that comes before the comparison
MOST_GROWTH = 1.0  # MiB
MOST_REMEMBERED = 100_000
CONTEXT = 20  # lines of the log that are shown with one that should not be there


@dataclass
class Lost:
    """A request without an answer. ``worker``: whose connection it was on, if that is known."""

    id: str
    worker: int | None
    begun: float
    at: float
    error: str


@dataclass
class Record:
    """What has happened so far."""

    answered: int = 0
    slowest: float = 0.0
    lost: list[Lost] = field(default_factory=list)
    killed: dict[int, tuple[float, float]] = field(default_factory=dict)  # when it was told, and had ended, by pid
    began: dict[str, int] = field(default_factory=dict)  # which worker, by request that is not answered yet
    kills: dict[str, int] = field(default_factory=dict)
    reloads: int = 0
    rejected: int = 0
    memory: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)


class Client:
    """Asks until told to stop."""

    def __init__(self, number: int, connect: Callable[[], socket.socket], record: Record, *, keep: bool) -> None:
        self._number, self._connect, self._record, self._keep = number, connect, record, keep
        self._socket: socket.socket | None = None
        self._worker: int | None = None

    def run(self, done: threading.Event) -> None:
        for count in itertools.count():
            if done.is_set():
                break
            self._one(f"{self._number}-{count}")
        self._hang_up()

    def _one(self, name: str) -> None:
        begun = time.monotonic()
        try:
            if self._socket is None:
                self._socket = self._connect()
                self._socket.settimeout(PATIENCE)
            self._ask(self._socket, name)
            self._record.answered += 1
        except OSError as error:
            text = f"{type(error).__name__}: {error}"
            self._record.lost.append(Lost(name, self._worker, begun, time.monotonic(), text))
            self._hang_up()
        else:
            self._record.began.pop(name, None)
        self._record.slowest = max(self._record.slowest, time.monotonic() - begun)

    def _ask(self, sock: socket.socket, name: str) -> None:
        close = b"" if self._keep else b"Connection: close\r\n"
        sock.sendall(b"GET /%b HTTP/1.1\r\nHost: soak\r\n%b\r\n" % (name.encode(), close))
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._more(sock)
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
        while len(body) < length:
            body += self._more(sock)
        if not lines[0].startswith(b"http/1.1 200"):
            raise ConnectionError(lines[0].decode())
        self._worker = int(body)
        if b"connection: close" in lines:
            self._hang_up()

    def _more(self, sock: socket.socket) -> bytes:
        data = sock.recv(65536)
        if not data:
            raise ConnectionResetError("the connection was closed without an answer")
        return data

    def _hang_up(self) -> None:
        self._worker = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Soak:
    def __init__(self, daemon: Procmand, journal: socket.socket, options: argparse.Namespace) -> None:
        self._daemon = daemon
        self._journal = journal
        self._options = options
        self._record = Record()
        self._random = random.Random(options.seed)
        self._done = threading.Event()
        self._read = threading.Event()

    def run(self) -> Record:
        """All of it; what has come of it."""
        host, _, port = self._daemon.ask("status")["pools"]["http"]["listens"][0].rpartition(":")

        def tcp() -> socket.socket:
            return socket.create_connection((host, int(port)), timeout=PATIENCE)

        def unix() -> socket.socket:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(self._daemon.directory / "web.sock"))
            return sock

        clients = [
            Client(number, tcp if number % 4 < 2 else unix, self._record, keep=number % 2 == 0)
            for number in range(CLIENTS)
        ]
        jobs = [client.run for client in clients]
        jobs += [self._reload, self._kill]
        threads = [threading.Thread(target=job, args=(self._done,)) for job in jobs]
        reader = threading.Thread(target=self._read_journal)
        for thread in (reader, *threads):
            thread.start()
        self._watch()
        self._done.set()
        for thread in threads:
            thread.join()
        self._read.set()  # not before: workers wait for room in the journal
        reader.join()
        return self._record

    def _watch(self) -> None:
        end = time.monotonic() + self._options.seconds
        while time.monotonic() < end and self._daemon.process.poll() is None:
            self._record.memory.append(private_memory(self._daemon.pid))
            self._record.descriptors.append(descriptors(self._daemon.pid))
            time.sleep(SAMPLE)

    def _reload(self, done: threading.Event) -> None:
        while not done.wait(self._options.reload):
            try:
                self._daemon.ask("reload", name=["http"], waiting=True)
                self._record.reloads += 1
            except ControlError:  # as it must be when its template or its canary was killed
                self._record.rejected += 1

    def _kill(self, done: threading.Event) -> None:
        while not done.wait(self._random.uniform(0, 2 * self._options.kill)):
            kind = self._random.choice(("worker", "worker", "worker", "template", "command", "nursery"))
            victims = self._victims(kind)
            if not victims:
                continue
            pid = self._random.choice(victims)
            with contextlib.suppress(ProcessLookupError):
                self._end(pid, self._record.killed if kind == "worker" else {})
                self._record.kills[kind] = self._record.kills.get(kind, 0) + 1

    def _end(self, pid: int, killed: dict[int, tuple[float, float]]) -> None:
        """Kill it, and wait for its end: on a busy machine both may take a while."""
        pidfd = os.pidfd_open(pid)
        try:
            told = time.monotonic()
            killed[pid] = (told, told + PATIENCE)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], PATIENCE)
            killed[pid] = (told, time.monotonic())
        finally:
            os.close(pidfd)

    def _victims(self, kind: str) -> list[int]:
        if kind in ("template", "nursery"):
            templates = [pid for pid in children(self._daemon.pid) if f"workers.{kind}" in command_line(pid)]
            workers = {worker["pid"] for worker in self._daemon.pool("http")["workers"]}
            return [pid for pid in templates if pid not in workers]
        pool = self._daemon.pool("http" if kind == "worker" else "command")
        return [worker["pid"] for worker in pool["workers"] if worker["pid"] and worker["state"] == "ready"]

    def _read_journal(self) -> None:
        self._journal.settimeout(0.5)
        names: deque[str] = deque()
        while not self._read.is_set():
            with contextlib.suppress(TimeoutError):
                pid, _, name = self._journal.recv(100).decode().partition(" ")
                self._record.began[name] = int(pid)
                names.append(name)
            if len(names) > MOST_REMEMBERED:
                self._record.began.pop(names.popleft(), None)  # was answered before this was read


# -- judgement --------------------------------------------------------------------------------------------


def judge(record: Record) -> tuple[int, int, list[Lost]]:
    """(lost on a killed worker, excused because one was killed just then, lost without an excuse)."""
    on_killed = excused = 0
    unexcused = []
    for lost in record.lost:
        worker = lost.worker or record.began.get(lost.id)
        if worker is not None and worker in record.killed:
            on_killed += 1
        elif worker is None and any(
            told - EXCUSE <= lost.at and lost.begun <= ended + EXCUSE for told, ended in record.killed.values()
        ):
            excused += 1
        else:
            unexcused.append(lost)
    return on_killed, excused, unexcused


def growth(values: list[float]) -> tuple[float, float]:
    """The medians of the first and of the last quarter after the warm-up."""
    values = values[int(len(values) * WARM_UP) :]
    quarter = max(1, len(values) // 4)
    return statistics.median(values[:quarter]), statistics.median(values[-quarter:])


def settled(daemon: Procmand) -> int:
    """The daemon's descriptors when nothing is going on."""
    daemon.wait_serving("http", 4)
    daemon.wait_serving("command", 4)
    best = descriptors(daemon.pid)
    for _ in range(50):  # connections of clients go away a moment after the clients
        time.sleep(0.05)
        best = min(best, descriptors(daemon.pid))
    return best


def soak(options: argparse.Namespace) -> bool:
    """Run it and print what came of it; whether all is well."""
    with procmand(CONFIGURATION, app=APPLICATION) as daemon:
        journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        journal.bind(str(daemon.directory / "journal"))
        before = settled(daemon)
        cpu = cpu_seconds(daemon.pid)
        record = Soak(daemon, journal, options).run()
        if daemon.process.poll() is not None:
            print((daemon.directory / "log").read_text()[-5000:])
            return False
        cpu = cpu_seconds(daemon.pid) - cpu
        after = settled(daemon)
        journal.close()
        log = (daemon.directory / "log").read_text().splitlines()
        found = [index for index, line in enumerate(log) if "Traceback" in line or "parked" in line]
        unhappy = ["\n".join(log[max(0, index - 2) : index + CONTEXT]) for index in found]
    return report(record, (before, after), cpu / options.seconds, unhappy)


def report(record: Record, quiet: tuple[int, int], cpu: float, unhappy: list[str]) -> bool:
    on_killed, excused, unexcused = judge(record)
    memory = growth(record.memory)
    kills = ", ".join(f"{count} x {kind}" for kind, count in sorted(record.kills.items()))
    verdicts = {
        "no request lost without an excuse": not unexcused,
        f"memory grew by at most {MOST_GROWTH:g} MiB": memory[1] - memory[0] <= MOST_GROWTH,
        "as many descriptors as before": quiet[1] <= quiet[0],
        "no traceback and no parked pool in the log": not unhappy,
    }
    print(f"requests answered            {record.answered}, the slowest after {record.slowest:.2f} s")
    lost = f"{on_killed} on a killed worker, {excused} while one was killed, {len(unexcused)} other"
    print(f"requests lost                {lost}")
    print(f"reloads                      {record.reloads}, and {record.rejected} rejected after a kill")
    print(f"kills                        {kills}")
    print(f"daemon's private memory      {memory[0]:.2f} MiB early, {memory[1]:.2f} MiB late")
    print(f"daemon's descriptors         {quiet[0]} before, {quiet[1]} after, at most {max(record.descriptors)}")
    print(f"daemon's processor time      {100 * cpu:.2f} % of a core")
    for lost in unexcused[:10]:
        print(f"LOST {lost}")
    for line in unhappy[:10]:
        print(f"LOG  {line}")
    for sentence, held in verdicts.items():
        print(f"{'yes' if held else 'NO '}  {sentence}")
    return all(verdicts.values())


def main() -> None:
    """Soak, and say by the exit status whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--reload", type=float, default=5.0, help="seconds between reloads")
    parser.add_argument("--kill", type=float, default=2.0, help="seconds between kills, on the average")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left running
    print(
        f"{options.seconds:g} s, reload every {options.reload:g} s, kill every {options.kill:g} s, seed {options.seed}"
    )
    sys.exit(0 if soak(options) else 1)


if __name__ == "__main__":
    main()
