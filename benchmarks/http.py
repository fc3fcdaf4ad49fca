"""One http worker beside one gunicorn sync worker: requests per second, and processor time for each request.

    python benchmarks/http.py [--rounds N] [--seconds S]

gunicorn is installed into a temporary virtual environment. The servers take turns, so that whatever else the
machine does meets all of them; medians and ratios are printed. The client is a plain epoll loop in Python: when
it is the slower one, requests per second say little, and processor time for each request says it all.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

from procman.core.lifecycle import Boot, FromChild, Ready, Seat
from procman.core.spec import HttpWork, Kind, Limits, PoolSpec, TcpAddress
from procman.observe.scoreboard import Scoreboard
from procman.unix.channel import Channel, pair
from procman.unix.sockets import bind

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECTIONS = 32
REQUEST = b"GET /hello HTTP/1.1\r\nHost: localhost\r\nUser-Agent: benchmark\r\nAccept: */*\r\n%b\r\n"
APPLICATION = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [b"Hello, world!"]
"""
WORKER = """
import sys
from procman.workers.application import load
from procman.workers.boot import executed, run
from procman.workers.http import serve
child = executed(int(sys.argv[1]))
run(child, lambda: serve(child, load(child.spec.work.app)))
"""


class Server:
    """A running server: where it listens and which process works."""

    def __init__(self, name: str, port: int, process: subprocess.Popen[bytes], worker: int) -> None:
        self.name, self.port, self.process, self.worker = name, port, process, worker

    def cpu_seconds(self) -> float:
        """Processor time of the worker so far."""
        fields = Path(f"/proc/{self.worker}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start_procman(directory: Path) -> Server:
    listener = bind(TcpAddress(host="127.0.0.1", port=0))
    port = listener.getsockname()[1]
    work = HttpWork(app="hello:application", binds=(TcpAddress(host="127.0.0.1", port=port),))
    limits = Limits(memory_soft=640 << 20, time_real=120.0, requests=1 << 40)
    spec = PoolSpec(name="http", kind=Kind.HTTP, work=work, limits=limits, working_dir=str(directory))
    board = Scoreboard.create(str(directory / "board"), 1)
    ours, theirs = pair()
    channel = Channel(ours, FromChild)
    process = subprocess.Popen([sys.executable, "-c", WORKER, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    seat = Seat(name="http.1", slot=1, generation=1, record=0)
    boot = Boot(pool=spec, generation=1, seat=seat, database=None, log_format="text", state_dir=str(directory))
    channel.send(boot, board.fd, 2, listener.fileno())
    while not isinstance(received := channel.receive(wait=True), tuple) or not isinstance(received[0], Ready):
        pass
    server = Server("procman", port, process, process.pid)
    server.keep = (channel, listener, board)  # type: ignore[attr-defined]
    return server


def start_gunicorn(directory: Path) -> Server:
    environment = directory / "venv"
    venv.create(environment, with_pip=True)
    python = str(environment / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "gunicorn"], check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        python,
        "-m",
        "gunicorn",
        "-w",
        "1",
        "-b",
        f"127.0.0.1:{port}",
        "--log-level",
        "error",
        "hello:application",
    ]
    process = subprocess.Popen(command, cwd=directory)
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    worker = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    return Server("gunicorn sync", port, process, worker)


def load(port: int, seconds: float, keep: bool) -> tuple[int, float]:
    """Requests answered and the time they took; a connection that was closed is opened again."""
    request = REQUEST % (b"" if keep else b"Connection: close\r\n")
    poll, socks = select.epoll(), {}

    def open_one() -> None:
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(request)
        socks[sock.fileno()] = sock
        poll.register(sock, select.EPOLLIN)

    for _ in range(CONNECTIONS):
        open_one()
    done, begun = 0, time.perf_counter()
    end = begun + seconds
    while time.perf_counter() < end:
        for fd, _ in poll.poll():
            sock = socks[fd]
            try:
                data = sock.recv(65536)
            except ConnectionResetError:
                data = b""
            if data:
                done += data.endswith(b"Hello, world!")
                if keep and b"onnection: close" not in data:
                    sock.sendall(request)
                continue
            del socks[fd]
            sock.close()
            open_one()
    taken = time.perf_counter() - begun
    for sock in socks.values():
        sock.close()
    return done, taken


def measure(server: Server, seconds: float, keep: bool) -> tuple[float, float]:
    """Requests per second, and microseconds of processor time for each."""
    before = server.cpu_seconds()
    done, taken = load(server.port, seconds, keep)
    return done / taken, (server.cpu_seconds() - before) / done * 1e6


def compare(servers: list[Server], rounds: int, seconds: float, report: Callable[[str], None]) -> None:
    for keep in (True, False):
        figures: dict[str, list[tuple[float, float]]] = {server.name: [] for server in servers}
        for _ in range(rounds):
            for server in servers:
                figures[server.name].append(measure(server, seconds, keep))
        report("keep-alive" if keep else "new connections")
        rates = {name: statistics.median(rate for rate, _ in found) for name, found in figures.items()}
        costs = {name: statistics.median(cost for _, cost in found) for name, found in figures.items()}
        for name in figures:
            report(f"  {name:14} {rates[name]:9,.0f} req/s  {costs[name]:7.1f} us of processor time for each")
        first, second = list(figures)
        report(f"  ratio          {rates[first] / rates[second]:9.1f}        {costs[second] / costs[first]:7.1f}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=2.0)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "hello.py").write_text(APPLICATION)
        servers = [start_procman(directory), start_gunicorn(directory)]
        try:
            compare(servers, chosen.rounds, chosen.seconds, print)
        finally:
            for server in servers:
                server.process.terminate()
                server.process.wait()


if __name__ == "__main__":
    main()
