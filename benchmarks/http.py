"""One http worker beside others: requests per second, processor time for each, memory of idle connections.

    python benchmarks/http.py [--rounds N] [--seconds S] [--only NAME,NAME] [--environment DIR]
    python benchmarks/http.py --slow        # 1,000 idle and 500 slow connections beside a normal client

The others are installed into a virtual environment, a temporary one unless DIR is given; what can't be installed is
left out (bjoern needs the headers of libev). They take turns, so that whatever else the machine does meets all of
them; medians and ratios are printed. The load comes from wrk, one thread and 32 connections; where there is no wrk,
from an epoll loop in Python, which is slower than some servers: then processor time for each request says more than
requests per second. Processor time is that of all processes of a server. procman's limits, scoreboard and figures are
switched on.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from procman.core.lifecycle import Boot, FromChild, Ready, Seat
from procman.core.spec import HttpWork, Kind, Limits, PoolSpec, TcpAddress
from procman.observe.scoreboard import Scoreboard
from procman.unix.channel import Channel, pair
from procman.unix.sockets import bind

CONNECTIONS = 32
REQUEST = b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n"
APPLICATION = """
import time

def work(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass

def application(environ, start_response):
    if environ["PATH_INFO"] == "/work":
        work(0.001)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [b"Hello, world!"]

async def asgi(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError(scope["type"])
    if scope["path"] == "/work":
        work(0.001)
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"13")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"Hello, world!"})
"""
WORKER = """
import sys
from procman.workers.application import load
from procman.workers.boot import executed, run
from procman.workers.http import serve
child = executed(int(sys.argv[1]))
run(child, lambda: serve(child, load(child.spec.work.app)))
"""
# What is installed, and what is run with the port in place of {port}; {bin} is where its programs are.
_GUNICORN = ["{bin}/gunicorn", "-w1", "-b127.0.0.1:{port}"]
_GTHREAD = [*_GUNICORN, "-kgthread", "--threads=4"]
PEERS: dict[str, tuple[str, list[str]]] = {
    "gunicorn sync": ("gunicorn", [*_GUNICORN, "--http-parser=python", "hello:application"]),
    "gunicorn gthread": ("gunicorn", [*_GTHREAD, "--http-parser=python", "hello:application"]),
    # Its newest parser, in C, has to be asked for when it is installed.
    "gunicorn sync fast": ("gunicorn[fast]", [*_GUNICORN, "--http-parser=fast", "hello:application"]),
    "gunicorn gthread fast": ("gunicorn[fast]", [*_GTHREAD, "--http-parser=fast", "hello:application"]),
    "gunicorn asgi fast": ("gunicorn[fast]", [*_GUNICORN, "-kasgi", "--http-parser=fast", "hello:asgi"]),
    "uwsgi http-socket": (
        "uwsgi",
        ["{bin}/uwsgi", "--http-socket=127.0.0.1:{port}", "--master", "-p1", "--die-on-term", "-L", "-w", "hello"],
    ),
    "uwsgi http11-socket": (
        "uwsgi",
        ["{bin}/uwsgi", "--http11-socket=127.0.0.1:{port}", "--master", "-p1", "--die-on-term", "-L", "-w", "hello"],
    ),
    "granian": (
        "granian",
        ["{bin}/granian", "--interface=wsgi", "--port={port}", "--workers=1", "--no-ws", "hello:application"],
    ),
    "waitress": ("waitress", ["{bin}/waitress-serve", "--listen=127.0.0.1:{port}", "hello:application"]),
    "cheroot": ("cheroot", ["{bin}/cheroot", "--bind=127.0.0.1:{port}", "hello:application"]),
    "gevent pywsgi": (
        "gevent",
        ["{bin}/python", "-c", "import hello; from gevent.pywsgi import WSGIServer as S\n"
         "S(('127.0.0.1', {port}), hello.application, log=None).serve_forever()"],
    ),
    "werkzeug": (
        "werkzeug",
        ["{bin}/python", "-c", "import hello, logging; from werkzeug.serving import run_simple\n"
         "logging.disable(); run_simple('127.0.0.1', {port}, hello.application, threaded=True)"],
    ),
    "bjoern": (
        "bjoern",
        ["{bin}/python", "-c", "import hello, bjoern; bjoern.run(hello.application, '127.0.0.1', {port})"],
    ),
}  # fmt: skip


@dataclass
class Server:
    """A running server, and what has to live as long as it does."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    keep: Any = None
    figures: dict[str, list[Load]] = field(default_factory=dict)

    def processes(self) -> list[psutil.Process]:
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """Processor time of all its processes so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes())

    def memory(self) -> int:
        """Resident bytes of all its processes."""
        return sum(process.memory_info().rss for process in self.processes())

    def stop(self) -> None:
        for process in reversed(self.processes()):
            process.kill()
        self.process.wait()


@dataclass
class Load:
    """What one run has shown; microseconds."""

    rate: float
    cost: float
    p50: float = 0.0
    p99: float = 0.0


# -- servers -----------------------------------------------------------------------------------------------------------


def start_procman(directory: Path, **policy: Any) -> Server:
    listener = bind(TcpAddress(host="127.0.0.1", port=0))
    port = listener.getsockname()[1]
    work = HttpWork(app="hello:application", binds=(TcpAddress(host="127.0.0.1", port=port),), **policy)
    limits = Limits(memory_soft=640 << 20, time_real=120.0, time_cpu=60.0, requests=1 << 40)
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
    return Server("procman", port, process, keep=(channel, listener, board))


def start_peer(name: str, command: list[str], programs: Path, directory: Path) -> Server:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    line = [part.replace("{bin}", str(programs)).replace("{port}", str(port)) for part in command]
    with open(directory / f"{name}.log", "wb") as log:
        process = subprocess.Popen(line, cwd=directory, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": "."})
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return Server(name, port, process)
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise RuntimeError(f"{name} does not run: {(directory / f'{name}.log').read_text()[-500:]}")


def start_peers(names: list[str], environment: Path, directory: Path) -> list[Server]:
    if not (environment / "bin").exists():
        venv.create(environment, with_pip=True)
    servers = []
    for name in names:
        package, command = PEERS[name]
        install = [environment / "bin" / "python", "-m", "pip", "install", "--quiet", package]
        try:
            subprocess.run(install, check=True, capture_output=True)
            servers.append(start_peer(name, command, environment / "bin", directory))
        except (subprocess.CalledProcessError, RuntimeError) as error:
            print(f"left out: {name}: {error}")
    return servers


# -- load --------------------------------------------------------------------------------------------------------------


def load(port: int, path: str, seconds: float, *, keep: bool) -> tuple[int, Load]:
    """Requests answered, and their rate and times."""
    if shutil.which("wrk"):
        return load_by_wrk(port, path, seconds, keep=keep)
    done, taken = load_by_python(port, path, seconds, keep=keep)
    return done, Load(rate=done / taken, cost=0.0)


def load_by_wrk(port: int, path: str, seconds: float, *, keep: bool) -> tuple[int, Load]:
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency"]
    command += [] if keep else ["-H", "Connection: close"]
    out = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{path}"], check=True, capture_output=True, text=True
    ).stdout
    done = re.search(r"(\d+) requests in", out)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    times = {share: _microseconds(value, unit) for share, value, unit in re.findall(r"(50|99)%\s+([\d.]+)(\w+)", out)}
    assert done is not None
    assert rate is not None
    return int(done[1]), Load(rate=float(rate[1]), cost=0.0, p50=times["50"], p99=times["99"])


def _microseconds(value: str, unit: str) -> float:
    return float(value) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]


def load_by_python(port: int, path: str, seconds: float, *, keep: bool) -> tuple[int, float]:
    """Requests answered and the time they took; a connection that was closed is opened again."""
    request = REQUEST % (path.encode(), b"" if keep else b"Connection: close\r\n")
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


def measure(server: Server, path: str, seconds: float, *, keep: bool) -> Load:
    before = server.cpu_seconds()
    done, found = load(server.port, path, seconds, keep=keep)
    found.cost = (server.cpu_seconds() - before) / max(1, done) * 1e6
    return found


# -- comparisons -------------------------------------------------------------------------------------------------------

SCENES = {
    "keep-alive": ("/hello", True),
    "new connections": ("/hello", False),
    "1 ms of work, keep-alive": ("/work", True),
}


def compare(servers: list[Server], rounds: int, seconds: float) -> None:
    for _ in range(rounds):
        for scene, (path, keep) in SCENES.items():
            for server in servers:
                server.figures.setdefault(scene, []).append(measure(server, path, seconds, keep=keep))
    for scene in SCENES:
        print(f"\n{scene:25} {'req/s':>9} {'ratio':>6} {'us of CPU':>10} {'ratio':>6} {'p50 us':>8} {'p99 us':>8}")
        ours = middle(servers[0].figures[scene])
        for server in servers:
            found = middle(server.figures[scene])
            print(
                f"  {server.name:23} {found.rate:9,.0f} {ours.rate / found.rate:6.2f} {found.cost:10.1f} "
                f"{found.cost / ours.cost:6.2f} {found.p50:8,.0f} {found.p99:8,.0f}"
            )
    print("\nratio: procman's requests per second by theirs; their processor time by procman's")


def judge(servers: list[Server]) -> None:
    """The targets, as far as those they are about were there."""
    shown = {server.name: {scene: middle(loads) for scene, loads in server.figures.items()} for server in servers}
    ours = shown["procman"]["keep-alive"]
    held = [("us of CPU per request, at most 16", ours.cost, ours.cost <= 16)]
    if ours.p50:  # wrk tells, the loop in Python does not
        held.append(("p99 by p50, at most 2", ours.p99 / ours.p50, ours.p99 <= 2 * ours.p50))
    for name, least in (("gunicorn sync", 12.0), ("bjoern", 0.7)):
        if name in shown:
            ratio = ours.rate / shown[name]["keep-alive"].rate
            held.append((f"requests per second by those of {name}, at least {least:g}", ratio, ratio >= least))
    for name in shown:
        if name.startswith(("granian", "uwsgi")):
            for scene in ("keep-alive", "new connections"):
                ratio = shown["procman"][scene].rate / shown[name][scene].rate
                held.append((f"{scene}: requests per second by those of {name}, above 1", ratio, ratio > 1))
    print("\ntargets")
    for text, figure, good in held:
        print(f"  {'held  ' if good else 'missed'} {figure:8.2f}  {text}")


def middle(loads: list[Load]) -> Load:
    return Load(*(statistics.median(getattr(one, name) for one in loads) for name in ("rate", "cost", "p50", "p99")))


def memory_of_connections(servers: list[Server], number: int = 1000) -> None:
    print(f"\nmemory of {number:,} idle kept connections, each")
    for server in servers:
        if server.name.startswith("uwsgi http-socket") or "sync" in server.name:
            continue  # they keep none
        try:
            socks = idle(server.port, 200)  # the first ones fill what the allocator has got anyway
            before = server.memory()
            socks += idle(server.port, number)
        except OSError:
            print(f"  {server.name:23} does not keep so many")
            continue
        print(f"  {server.name:23} {(server.memory() - before) / number / 1024:6.1f} KiB")
        for sock in socks:
            sock.close()


def idle(port: int, number: int) -> list[socket.socket]:
    socks = []
    for _ in range(number):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.settimeout(5)
        sock.sendall(REQUEST % (b"/hello", b""))
        while not sock.recv(65536).endswith(b"Hello, world!"):
            pass
        socks.append(sock)
    return socks


def beside_slow_ones(server: Server, seconds: float) -> None:
    """Times of one normal client: alone, and beside 1,000 idle connections and 500 that send a byte now and then."""
    alone = times_of_one_client(server.port, seconds, [])
    connections = idle(server.port, 1000)
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(500)]
    for sock in slow:
        sock.sendall(b"GET /hello HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    beside = times_of_one_client(server.port, seconds, slow)
    print(f"{'one client, every 2 ms':25} {'p50 us':>8} {'p99 us':>8}")
    for name, times in (("alone", alone), ("beside 1,500 others", beside)):
        cuts = statistics.quantiles(times, n=100)
        print(f"  {name:23} {cuts[49] * 1e6:8,.0f} {cuts[98] * 1e6:8,.0f}")
    print(f"  target {'held' if cuts[98] < 0.02 else 'missed'}: p99 below 20 ms")
    for sock in (*connections, *slow):
        sock.close()


def times_of_one_client(port: int, seconds: float, slow: list[socket.socket]) -> list[float]:
    times = []
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < end:
            sock.sendall(REQUEST % (b"/hello", b""))
            while not sock.recv(65536).endswith(b"Hello, world!"):
                pass
            times.append(time.perf_counter() - begun)
            for one in slow[len(times) % 10 :: 10]:  # each of them a byte every 20 ms
                one.send(b"x")
            time.sleep(0.002)
    return times


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=int, default=2)
    options.add_argument("--only", default=",".join(PEERS), help="the others to compare with")
    options.add_argument("--environment", type=lambda text: Path(text).resolve(), help="a virtual environment to keep")
    options.add_argument("--slow", action="store_true", help="only a client beside slow ones")
    chosen = options.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192) if hard > 0 else 8192, hard))
    print("load:", "wrk" if shutil.which("wrk") else "an epoll loop in Python")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "hello.py").write_text(APPLICATION)
        servers = [start_procman(directory, keepalive=60.0, header_timeout=60.0)]
        try:
            if chosen.slow:
                beside_slow_ones(servers[0], 5 * chosen.seconds)
                return
            names = [name for name in chosen.only.split(",") if name]
            servers += start_peers(names, chosen.environment or directory / "venv", directory)
            compare(servers, chosen.rounds, chosen.seconds)
            memory_of_connections(servers)
            judge(servers)
        finally:
            for server in servers:
                server.stop()


if __name__ == "__main__":
    main()
