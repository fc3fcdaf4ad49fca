"""What supervision costs, beside gunicorn, uWSGI, supervisor and Circus: replacing, starting, idling, asking.

    python benchmarks/supervision.py [--rounds N] [--idle S] [--peers DIRECTORY] [NAME…]

The others are installed from the package index into a virtual environment in DIRECTORY, which is kept. All contenders
of a measure run at the same time and take turns, so that whatever else the machine does meets all of them; medians are
printed, with their ratio to procman's, and whether procman reaches its target. Wall-clock times are those of the
machine as it is: compare only what was measured in the same run, and believe no missed target on a busy machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import contenders
from contenders import (
    HEAVY,
    Circus,
    Contender,
    Gunicorn,
    GunicornPreload,
    Procman,
    ProcmanExec,
    Supervisor,
    Uwsgi,
    UwsgiLazy,
    taking_turns,
    times_of,
)
from processes import cpu_seconds, directory_with, pss, tree, wakeups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Kinds = tuple[type[Contender], ...]


class Table:
    """Prints the rows of one measure."""

    def __init__(self, title: str) -> None:
        print(f"\n{title}", flush=True)

    def row(self, name: str, text: str) -> None:
        print(f"  {name:<20} {text}", flush=True)

    def compare(self, figures: dict[str, float], unit: str, targets: dict[str, float]) -> None:
        """The figures with their ratio to procman's, the first; ``targets`` by contender, at most."""
        own = next(iter(figures.values()))
        for name, figure in figures.items():
            ratio = f"{figure / own:8.2f} x" if own > 0 else ""
            target = targets.get(name)
            verdict = "" if target is None else f"   target ≤ {target:g} {unit}: {'yes' if figure <= target else 'NO'}"
            self.row(name, f"{figure:10.3f} {unit} {ratio}{verdict}")


@contextlib.contextmanager
def running(
    options: argparse.Namespace, kinds: Kinds, workers: int, *, preamble: str = "", wait: bool = True
) -> Iterator[list[Contender]]:
    """All of them at once, each with so many workers."""
    with contextlib.ExitStack() as stack:
        found = []
        for kind in kinds:
            directory = stack.enter_context(directory_with())
            contender = kind(options.peers, directory, workers, preamble=preamble)
            contender.start()
            stack.callback(contender.stop)
            found.append(contender)
        if wait:
            for contender in found:
                contender.wait_workers()
            time.sleep(1)
        yield found


def medians(found: dict[str, list[float]], scale: float = 1000) -> dict[str, float]:
    return {name: statistics.median(values) * scale for name, values in found.items()}


# -- measures ---------------------------------------------------------------------------------------------


def first_instruction(options: argparse.Namespace) -> None:
    """kill -9 of the only worker → its replacement's first instruction."""
    kinds = (Procman, ProcmanExec, Gunicorn, Uwsgi, Supervisor, Circus)
    with running(options, kinds, 1) as all_of_them:
        turns = [(one.name, lambda one=one: _replaced(one)) for one in all_of_them]
        figures = medians(taking_turns(turns, options.rounds))
    table = Table("kill -9 → the replacement's first instruction")
    table.compare(figures, "ms", {"procman": 5, "procman exec": 5})


def _replaced(contender: Contender) -> float:
    (victim,) = contender.worker_pids()
    contender.forget_starts()
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    said = {contender.next_start(): time.monotonic() - killed}
    while not (alive := [pid for pid in said if pid in contender.worker_pids()]):
        # The process in between, which forks the worker and goes, speaks as well.
        while (pid := contender.next_start(0.001)) is not None:
            said[pid] = time.monotonic() - killed
    if contender.serves:
        contender.get(patiently=True)
    time.sleep(0.05)
    return said[alive[0]]


def serving_again(options: argparse.Namespace) -> None:
    """kill -9 of the only worker → its replacement serves, with an application of 40 MiB that takes 0.5 s to import."""
    kinds = (Procman, Gunicorn, GunicornPreload, Uwsgi, UwsgiLazy)
    with running(options, kinds, 1, preamble=HEAVY) as all_of_them:
        turns = [(one.name, lambda one=one: _serves_again(one)) for one in all_of_them]
        figures = medians(taking_turns(turns, max(5, options.rounds // 2)))
    table = Table("kill -9 → the replacement serves; 40 MiB, 500 ms to import (--preload can't reload)")
    table.compare(figures, "ms", {"procman": 8})


def _serves_again(contender: Contender) -> float:
    (victim,) = contender.worker_pids()
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    contender.get(patiently=True)
    took = time.monotonic() - killed
    while victim in contender.worker_pids() or len(contender.worker_pids()) != 1:
        time.sleep(0.01)
    time.sleep(0.05)
    return took


def start(options: argparse.Namespace) -> None:
    """From the start of the program to the first instruction of the last of 50 trivial workers."""
    kinds: Kinds = (ProcmanExec, Gunicorn, Uwsgi, Supervisor, Circus)

    def fifty(kind: type[Contender]) -> float:
        with running(options, (kind,), 50, wait=False) as (one,):
            said: set[int] = set()
            while len(said) < 50:
                said.add(one.next_start() or 0)
            return time.monotonic() - one.began

    turns = [(kind.name, lambda kind=kind: fifty(kind)) for kind in kinds]
    turns.append(("bare fork and exec", bare_start))
    figures = medians(taking_turns(turns, max(3, options.rounds // 5)))
    Table("start of 50 trivial workers").compare(figures, "ms", {"procman exec": 200})


def bare_start() -> float:
    """The floor: a loop that forks and executes the same commands."""
    reader, writer = os.pipe()
    begun = time.monotonic()
    pids = [
        os.posix_spawn("/bin/sh", ["sh", "-c", "echo $$; exec sleep 100000"], os.environ,
                       file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1)])
        for _ in range(50)
    ]  # fmt: skip
    os.close(writer)
    said = b""
    while said.count(b"\n") < 50:
        said += os.read(reader, 4096)
    took = time.monotonic() - begun
    os.close(reader)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return took


def idle(options: argparse.Namespace) -> None:
    """The manager beside 10, 50 and 200 workers that have nothing to do."""
    for workers in (10, 50, 200):
        kinds: Kinds = (Procman, ProcmanExec, Gunicorn, Uwsgi, Supervisor, Circus)
        with running(options, kinds, workers) as all_of_them:
            time.sleep(3)
            before = {one.name: _spent(one) for one in all_of_them}
            time.sleep(options.idle)
            table = Table(f"manager idle with {workers} workers, for {options.idle:g} s")
            for one in all_of_them:
                cpu, woken = (now - then for now, then in zip(_spent(one), before[one.name], strict=True))
                percent, memory = 100 * cpu / options.idle, sum(pss(pid) for pid in one.manager())
                reached = f"   target ≤ 0.01 %, 18 MiB: {'yes' if percent <= 0.01 and memory <= 18 else 'NO'}"
                text = f"{percent:8.4f} % of a core, {woken / options.idle:6.2f} wakeups/s, PSS {memory:5.1f} MiB"
                table.row(one.name, text + (reached if workers == 50 and isinstance(one, Procman) else ""))


def _spent(contender: Contender) -> tuple[float, int]:
    pids = contender.manager()
    return sum(cpu_seconds(pid) for pid in pids), sum(wakeups(pid) for pid in pids)


def memory(options: argparse.Namespace) -> None:
    """Eight workers of an application of 40 MiB that have done some work, and all that goes with them."""
    figures = {}
    for kind in (Procman, Gunicorn, GunicornPreload, Uwsgi, UwsgiLazy):
        with running(options, (kind,), 8, preamble=HEAVY) as (one,):
            for _ in range(1600):
                one.get()
            figures[one.name] = sum(pss(pid) for pid in tree(one.pid))
    Table("8 workers of a 40 MiB application after 1,600 requests, PSS of the tree").compare(
        figures, "MiB", {"procman": 100}
    )


def stats(options: argparse.Namespace) -> None:
    """The figures of 50 workers, over the socket and by the command line."""
    kinds: Kinds = (Procman, Gunicorn, Uwsgi, Supervisor, Circus)
    with running(options, kinds, 50) as all_of_them:
        found: dict[str, list[float]] = {one.name: [] for one in all_of_them}
        for _ in range(5):
            for one in all_of_them:
                found[one.name] += times_of(one, options.rounds)
        Table("figures of 50 workers, over the socket").compare(medians(found), "ms", {"procman": 1})
        asking = [one for one in all_of_them if one.ask_command()]
        turns = [(one.name, lambda one=one: _command(one.ask_command())) for one in asking]
        figures = medians(taking_turns(turns, max(5, options.rounds // 2)))
        Table("figures of 50 workers, by the command line").compare(figures, "ms", {"procman": 80})


def _command(command: list[str]) -> float:
    begun = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun


# -- things that go wrong ---------------------------------------------------------------------------------

ENDS = "echo $$ > started; exit 1"


class ProcmanEnding(ProcmanExec):
    pool = f'[pools.x]\nkind = "exec"\ncommand = ["sh", "-c", "{ENDS}"]\n'

    def prepare(self) -> None:
        beside = '[pools.http]\nkind = "http"\napp = "app:application"\nbind = "unix:web.sock"\n'
        (self.directory / "procman.toml").write_text(f"{beside}{self.pool}workers = {self.workers}\n")


class SupervisorEnding(Supervisor):
    shell = ENDS


class CircusEnding(Circus):
    shell = ENDS


class GunicornEnding(Gunicorn):
    def prepare(self) -> None:
        super().prepare()
        with (self.directory / "gunicorn.conf.py").open("a") as file:
            file.write("    os._exit(1)\n")


class UwsgiEnding(Uwsgi):
    def prepare(self) -> None:
        super().prepare()
        app = self.directory / "app.py"
        app.write_text(app.read_text().replace("    os.close(fd)\n", "    os.close(fd)\n    os._exit(1)\n"))


def crash_loop(options: argparse.Namespace) -> None:
    """Four workers that exit at once: how often they are started in 20 s, and what that costs."""
    kinds: Kinds = (ProcmanEnding, GunicornEnding, UwsgiEnding, SupervisorEnding, CircusEnding)
    with running(options, kinds, 4, wait=False) as all_of_them:
        time.sleep(20)
        table = Table("four workers that exit at once, in 20 s")
        for one in all_of_them:
            count, alive = _count_starts(one), one.process.poll() is None
            text = (
                f"{count:6d} starts, {cpu_seconds(one.pid):6.2f} s of CPU" if alive else f"{count:6d} starts, has ended"
            )
            if isinstance(one, ProcmanEnding):
                parked = "is parked" in (one.directory / "log").read_text()
                one.get()  # the pool beside it
                text += f"   target ≤ 20, parked, others serve: {'yes' if parked and count <= 20 else 'NO'}"
            table.row(one.name, text)


def _count_starts(contender: Contender) -> int:
    fd = os.open(contender.directory / "started", os.O_RDONLY | os.O_NONBLOCK)
    data = b""
    with contextlib.suppress(BlockingIOError):
        while more := os.read(fd, 65536):
            data += more
    os.close(fd)
    return data.count(b"\n")


SLOW = """
import time as _time
def _slow(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        _time.sleep(1)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def manager_killed(options: argparse.Namespace) -> None:
    """kill -9 of the manager while a request is in flight: the request, the orphans, the next start."""
    table = Table("kill -9 of the manager")
    for kind in (Procman, ProcmanExec, Gunicorn, Uwsgi, Supervisor, Circus):
        with running(options, (kind,), 4, preamble=SLOW) as (one,):
            workers = one.worker_pids()
            answered = _in_flight(one) if one.serves else None
            if answered is None:
                os.kill(one.pid, signal.SIGKILL)
                one.process.wait()
            time.sleep(2.5)
            left = [pid for pid in workers if _alive(pid)]
            one.start()
            time.sleep(2.5)
            again = one.process.poll() is None
            text = f"{len(left)} of 4 workers left after 2.5 s, {'starts again' if again else 'does not start again'}"
            if answered is not None:
                text += f", request in flight {'answered' if answered else 'lost'}"
            if isinstance(one, Procman):
                reached = "yes" if again and not left and answered is not False else "NO"
                text += f"   target none left, answered, starts: {reached}"
            table.row(one.name, text)
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _in_flight(contender: Contender) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(contender.directory / "web.sock"))
        sock.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        time.sleep(0.3)
        os.kill(contender.pid, signal.SIGKILL)
        contender.process.wait()
        try:
            return b"200" in sock.recv(4096)
        except OSError:
            return False


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


class Keeper:
    """Clients that keep their connection until its end is announced."""

    def __init__(self, path: Path, done: threading.Event) -> None:
        self._path, self._done = str(path), done
        self.lost: list[OSError] = []
        self.unannounced = 0  # reused connections that were closed without a word; asked again, as RFC 9110 allows
        self.times: list[float] = []

    def run(self) -> None:
        """Ask until done."""
        sock: socket.socket | None = None
        while not self._done.is_set():
            begun, reused = time.monotonic(), sock is not None
            try:
                if sock is None:
                    sock = socket.socket(socket.AF_UNIX)
                    sock.settimeout(10)
                    sock.connect(self._path)
                if self._ask(sock):
                    sock.close()
                    sock = None
            except OSError as error:
                sock = None
                if reused and isinstance(error, ConnectionError):
                    self.unannounced += 1
                    continue
                self.lost.append(error)
            self.times.append(time.monotonic() - begun)

    def _ask(self, sock: socket.socket) -> bool:
        """One request; whether the connection will be closed."""
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"\r\n\r\nok"):
            more = sock.recv(4096)
            if not more:
                raise ConnectionResetError("closed without an answer")
            answer += more
        # Without Content-Length's like, HTTP/1.0 servers announce the end by their version.
        return b"connection: close" in answer.lower() or answer.startswith(b"HTTP/1.0")


def reloads(options: argparse.Namespace) -> None:
    """Three reloads while four clients that keep their connections, where they may, ask all the time."""
    table = Table("three reloads under load")
    for kind in (Procman, Gunicorn, Uwsgi, UwsgiLazy):
        done = threading.Event()
        with running(options, (kind,), 2, preamble=HEAVY) as (one,):
            keeper = Keeper(one.directory / "web.sock", done)
            clients = [threading.Thread(target=keeper.run) for _ in range(4)]
            for client in clients:
                client.start()
            for _ in range(3):
                one.reload()
            done.set()
            for client in clients:
                client.join()
        lost, slowest = len(keeper.lost), max(keeper.times) * 1000
        text = f"{lost} of {len(keeper.times)} lost, {keeper.unannounced} reused connections closed unannounced"
        if kind is Procman:
            reached = not lost and not keeper.unannounced and slowest <= 50
            text += f"   target 0, 0, ≤ 50 ms: {'yes' if reached else 'NO'}"
        table.row(kind.name, f"the slowest {slowest:5.0f} ms, {text}")


MEASURES: dict[str, Callable[[argparse.Namespace], None]] = {
    measure.__name__: measure
    for measure in (
        first_instruction,
        serving_again,
        start,
        idle,
        memory,
        stats,
        crash_loop,
        manager_killed,
        reloads,
    )
}


def main() -> None:
    """Print a table for each measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to measure: {', '.join(MEASURES)}")
    parser.add_argument("--rounds", type=int, default=30, help="how often a short thing is done")
    parser.add_argument("--idle", type=float, default=20.0, help="how many seconds to do nothing for")
    parser.add_argument("--peers", type=Path, default=Path(tempfile.gettempdir()) / f"procman-peers-{os.getuid()}")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left running
    options.peers = contenders.environment(options.peers.absolute())
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, Python {sys.version.split()[0]}")
    for name in options.names or MEASURES:
        MEASURES[name](options)


if __name__ == "__main__":
    main()
