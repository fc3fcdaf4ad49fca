"""The process managers that the benchmarks compare, each configured as its documentation recommends.

All of them come from the package index into one virtual environment, procman from this repository into the same: then
all commands start under the same conditions.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import TYPE_CHECKING

from processes import children, command_line

if TYPE_CHECKING:
    from collections.abc import Callable

PEERS = ("circus", "gunicorn", "supervisor", "uwsgi")
REPOSITORY = Path(__file__).parents[1]

# Tells of each fork, and serves. What it is given as PREAMBLE comes first.
APPLICATION = """
import os
PREAMBLE
def forked(*_):
    fd = os.open(os.path.join(os.environ["BENCHMARK"], "started"), os.O_WRONLY | os.O_NONBLOCK)
    os.write(fd, b"%d\\n" % os.getpid())
    os.close(fd)

if os.environ["BENCHMARK_FORKS"] == "python":
    os.register_at_fork(after_in_child=forked)
elif os.environ["BENCHMARK_FORKS"] == "uwsgi":
    import uwsgi
    uwsgi.post_fork_hook = forked

def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
# Half a second of importing, and 40 MiB of small objects.
HEAVY = "import time\ntime.sleep(0.5)\nBALLAST = [{str(n): [n, str(n)]} for n in range(95_000)]\n"
BUDGET = 10.0  # seconds
COMMAND = "echo $$ > started; exec sleep 100000"


def environment(directory: Path) -> Path:
    """The virtual environment in ``directory``, made if it is not there; procman is installed anew each time."""
    python = directory / "bin/python"
    if not python.exists():
        venv.create(directory, with_pip=True)
    if not (directory / "bin/uwsgi").exists():
        subprocess.run([python, "-m", "pip", "install", "-q", *PEERS], check=True)
    install = [python, "-m", "pip", "install", "-q", "--upgrade", "--force-reinstall", "--no-deps", str(REPOSITORY)]
    if not (directory / "bin/procmand").exists():
        subprocess.run([python, "-m", "pip", "install", "-q", str(REPOSITORY)], check=True)
    else:
        subprocess.run(install, check=True)
    return directory


class Contender:
    """One manager with its workers, in a directory of its own."""

    name = ""
    serves = True  # HTTP, at web.sock
    forks = ""  # how the application gets to know of a fork

    def __init__(self, peers: Path, directory: Path, workers: int, *, preamble: str = "") -> None:
        self.peers, self.directory, self.workers = peers, directory, workers
        (directory / "app.py").write_text(APPLICATION.replace("PREAMBLE", preamble))
        os.mkfifo(directory / "started")
        self._started = os.open(directory / "started", os.O_RDWR | os.O_NONBLOCK)
        os.set_blocking(self._started, True)
        self._pending = b""
        self.prepare()

    def prepare(self) -> None:
        """Write the configuration."""

    def command(self) -> list[str]:
        """What starts the manager in the foreground."""
        raise NotImplementedError

    def start(self) -> None:
        env = {
            **os.environ,
            "BENCHMARK": str(self.directory),
            "BENCHMARK_FORKS": self.forks,
            "PATH": f"{self.peers}/bin:{os.environ['PATH']}",
        }
        with (self.directory / "log").open("ab") as log:
            self.began = time.monotonic()
            self.process = subprocess.Popen(
                self.command(), cwd=self.directory, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> None:
        pidfds = [os.pidfd_open(pid) for pid in children(self.pid)]
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pidfd in pidfds:  # not every manager takes its workers with it
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        os.close(self._started)

    # -- looking ------------------------------------------------------------------------------------------

    def manager(self) -> list[int]:
        """The processes of which the manager itself consists."""
        return [self.pid]

    def worker_pids(self) -> list[int]:
        return [pid for pid in children(self.pid) if pid not in self.manager()]

    def next_start(self, timeout: float | None = None) -> int | None:
        """The pid of the next worker that says that it has started; None: none has in time."""
        while b"\n" not in self._pending:
            if timeout is not None and not select.select([self._started], [], [], timeout)[0]:
                return None
            self._pending += os.read(self._started, 4096)
        line, _, self._pending = self._pending.partition(b"\n")
        return int(line)

    def forget_starts(self) -> None:
        """Nothing that was said before now counts."""
        os.set_blocking(self._started, False)
        try:
            while os.read(self._started, 65536):
                pass
        except BlockingIOError:
            pass
        os.set_blocking(self._started, True)
        self._pending = b""

    def wait_workers(self) -> None:
        """Until all workers are there and, if they serve, one of them answers."""
        deadline = time.monotonic() + 120
        while len(self.worker_pids()) < self.workers:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: {(self.directory / 'log').read_text()[-2000:]}")
            time.sleep(0.02)
        if self.serves:
            self.get(patiently=True)

    def get(self, *, patiently: bool = False) -> None:
        """One request, on a connection of its own."""
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.settimeout(60)
                    sock.connect(str(self.directory / "web.sock"))
                    sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    if b"200" in sock.recv(4096):
                        return
            except OSError:
                if not patiently:
                    raise
            time.sleep(0.01)

    # -- asking -------------------------------------------------------------------------------------------

    def ask_script(self) -> str:
        """Python that defines ``ask``, which gets the figures of all workers over the manager's socket; or nothing."""
        return ""

    def ask_command(self) -> list[str]:
        """What prints them; or nothing."""
        return []

    def reload(self) -> None:
        """Have all workers replaced by ones with new code; returns when they are, or at once where nobody can tell."""
        self.process.send_signal(signal.SIGHUP)
        time.sleep(3)


class Procman(Contender):
    name = "procman"
    forks = "python"
    pool = '[pools.http]\nkind = "http"\napp = "app:application"\nbind = "unix:web.sock"\n'

    def prepare(self) -> None:
        # No death counts as young: what is measured is the replacement, not the wait before it.
        patience = "max_restarts = 1000000\nbackoff = { first = 0.001, most = 0.001, lived = 0.001 }\n"
        (self.directory / "procman.toml").write_text(f"{self.pool}workers = {self.workers}\n{patience}")

    def command(self) -> list[str]:
        return [str(self.peers / "bin/procmand"), "-c", "procman.toml"]

    def manager(self) -> list[int]:
        return [self.pid, *(pid for pid in children(self.pid) if "workers.nursery" in command_line(pid))]

    def worker_pids(self) -> list[int]:
        # What it forks has the template's command line: the template is the first of them.
        inside = self.manager()
        rest = [pid for pid in children(self.pid) if pid not in inside]
        return rest[1:] if self.serves else rest

    def ask_script(self) -> str:
        return (
            "from procman.control.client import Client\n"
            f"client = Client('ipc://{self.directory}/var/control.sock', timeout=60)\n"
            "def ask(): client.call('stats')\n"
        )

    def ask_command(self) -> list[str]:
        return [str(self.peers / "bin/procmanctl"), "-c", str(self.directory / "procman.toml"), "stats"]

    def reload(self) -> None:
        command = [*self.ask_command()[:-1], "reload", "http"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class ProcmanExec(Procman):
    name = "procman exec"
    serves = False
    pool = f'[pools.x]\nkind = "exec"\ncommand = ["sh", "-c", "{COMMAND}"]\nstart_seconds = 0\n'


class Gunicorn(Contender):
    name = "gunicorn"
    preload = False

    def prepare(self) -> None:
        (self.directory / "gunicorn.conf.py").write_text(
            f"""
import os
bind = "unix:web.sock"
workers = {self.workers}
preload_app = {self.preload}
control_socket = {str(self.directory / "control.sock")!r}
def post_fork(server, worker):
    fd = os.open("started", os.O_WRONLY | os.O_NONBLOCK)
    os.write(fd, b"%d\\n" % os.getpid())
    os.close(fd)
"""
        )

    def command(self) -> list[str]:
        return [str(self.peers / "bin/gunicorn"), "app:application"]

    def ask_script(self) -> str:
        return (
            "from gunicorn.ctl.client import ControlClient\n"
            f"client = ControlClient({str(self.directory / 'control.sock')!r})\n"
            "client.connect()\n"
            "def ask(): client.send_command('show workers')\n"
        )

    def ask_command(self) -> list[str]:
        control = str(self.directory / "control.sock")
        return [str(self.peers / "bin/gunicornc"), "-s", control, "-c", "show workers"]


class GunicornPreload(Gunicorn):
    name = "gunicorn --preload"
    preload = True


class Uwsgi(Contender):
    name = "uWSGI"
    forks = "uwsgi"
    lazy = False

    def prepare(self) -> None:
        (self.directory / "uwsgi.ini").write_text(
            f"""[uwsgi]
strict = true
master = true
need-app = true
single-interpreter = true
vacuum = true
die-on-term = true
disable-logging = true
processes = {self.workers}
http-socket = web.sock
stats = stats.sock
module = app:application
"""
            + ("lazy-apps = true\n" if self.lazy else "")
        )

    def command(self) -> list[str]:
        return [str(self.peers / "bin/uwsgi"), "--ini", "uwsgi.ini", "--pythonpath", str(self.directory)]

    def ask_script(self) -> str:
        return f"""
import json, socket
def ask():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect({str(self.directory / "stats.sock")!r})
        data = b""
        while more := sock.recv(65536):
            data += more
    json.loads(data)
"""


class UwsgiLazy(Uwsgi):
    name = "uWSGI --lazy-apps"
    lazy = True


class Supervisor(Contender):
    name = "supervisor"
    serves = False
    shell = COMMAND

    def prepare(self) -> None:
        (self.directory / "supervisord.conf").write_text(
            f"""[unix_http_server]
file = supervisor.sock
[supervisord]
nodaemon = true
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl = unix://{self.directory}/supervisor.sock
[program:x]
command = sh -c "{self.shell}"
process_name = %(program_name)s%(process_num)d
numprocs = {self.workers}
autorestart = true
"""
        )

    def command(self) -> list[str]:
        return [str(self.peers / "bin/supervisord"), "-c", "supervisord.conf"]

    def ask_script(self) -> str:
        return (
            "import xmlrpc.client\nfrom supervisor.xmlrpc import SupervisorTransport\n"
            f"transport = SupervisorTransport(None, None, 'unix://{self.directory}/supervisor.sock')\n"
            "server = xmlrpc.client.ServerProxy('http://x', transport=transport)\n"
            "def ask(): server.supervisor.getAllProcessInfo()\n"
        )

    def ask_command(self) -> list[str]:
        return [str(self.peers / "bin/supervisorctl"), "-c", str(self.directory / "supervisord.conf"), "status"]


class Circus(Contender):
    name = "Circus"
    serves = False
    shell = COMMAND

    def prepare(self) -> None:
        (self.directory / "circus.ini").write_text(
            f"""[circus]
endpoint = ipc://{self.directory}/circus.sock
pubsub_endpoint = ipc://{self.directory}/pubsub.sock
[watcher:x]
cmd = sh -c "{self.shell}"
numprocesses = {self.workers}
working_dir = {self.directory}
"""
        )

    def command(self) -> list[str]:
        return [str(self.peers / "bin/circusd"), "circus.ini"]

    def ask_script(self) -> str:
        return (
            "from circus.client import CircusClient\n"
            f"client = CircusClient(endpoint='ipc://{self.directory}/circus.sock', timeout=60)\n"
            "def ask(): client.send_message('stats')\n"
        )

    def ask_command(self) -> list[str]:
        return [str(self.peers / "bin/circusctl"), "--endpoint", f"ipc://{self.directory}/circus.sock", "stats"]


def times_of(contender: Contender, rounds: int) -> list[float]:
    """Seconds that each of so many questions over the socket took, asked in a process of its own."""
    script = contender.ask_script() + (
        "import time\nask()\n"
        f"for _ in range({rounds}):\n"
        "    begun = time.perf_counter(); ask(); print(time.perf_counter() - begun)\n"
    )
    python = str(contender.peers / "bin/python")
    done = subprocess.run([python, "-c", script], check=True, capture_output=True, text=True)
    return [float(line) for line in done.stdout.split()]


def taking_turns(measures: list[tuple[str, Callable[[], float]]], rounds: int) -> dict[str, list[float]]:
    """Each measure in turn, so often: whatever else the machine does meets all of them.

    One that takes long is done less often, for about BUDGET seconds in all and three times at least.
    """
    found: dict[str, list[float]] = {name: [] for name, _ in measures}
    for _ in range(rounds):
        for name, measure in measures:
            if len(found[name]) < 3 or sum(found[name]) < BUDGET:
                found[name].append(measure())
    return found


if __name__ == "__main__":
    print(environment(Path(sys.argv[1])))
