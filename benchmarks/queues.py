"""The job queues that benchmarks/jobs.py compares: procman, OCA's queue_job, procrastinate and pgqueuer.

Each one has a database of its own on one server, a producer - a process that enqueues through the queue's own API, or
by SQL where that is an Odoo - and workers whose job notes the moment at which it is begun. The runner of queue_job is
the published one; what Odoo would be beside it is as little as it can be: a configuration, and four processes that do
what Odoo's workers do to the row of a job (tests/support/odoo.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg2

from benchmarks.processes import children, command_line, tree
from tests.support.oca import LAYOUTS

if TYPE_CHECKING:
    from tests.support.server import Server

PEERS = ("procrastinate", "psycopg[binary]", "pgqueuer[asyncpg]", "requests")
OCA_RUNNER = "odoo-addon-queue-job==18.0.*"
REPOSITORY = Path(__file__).parents[1]
LAYOUT = LAYOUTS["18.0"]
WORKERS = 4

URGENT, NORMAL = True, False

PRODUCER = """
import json, os, sys, time
URL = os.environ["BENCHMARK_URL"]
PRODUCE
print("ready", flush=True)
for line in sys.stdin:
    produce(**json.loads(line))
    print(time.time(), flush=True)
"""

MARK = """
import os, time
FD = os.open(os.environ["BENCHMARK_MARKS"], os.O_WRONLY | os.O_APPEND)
def note(key):
    os.write(FD, b"s %d %d %.6f\\n" % (key, os.getpid(), time.time()))
"""


class Mark(NamedTuple):
    """Something that a worker noted: ``s``, a job is begun; ``r``, a job is asked for."""

    kind: str
    key: int
    pid: int
    at: float


def environment(directory: Path) -> Path:
    """The virtual environment in ``directory``, made if it is not there; procman is installed anew each time."""
    python = directory / "bin/python"
    if not python.exists():
        venv.create(directory, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "-q"]
    if not (directory / "bin/pgq").exists() or not (directory / "bin/procrastinate").exists():
        subprocess.run([*pip, *PEERS], check=True)
    if not list(directory.glob("lib/python*/site-packages/odoo/addons/queue_job")):
        subprocess.run([*pip, "--no-deps", OCA_RUNNER], check=True)
    if not (directory / "bin/procmand").exists():
        subprocess.run([*pip, str(REPOSITORY)], check=True)
    else:
        subprocess.run([*pip, "--upgrade", "--force-reinstall", "--no-deps", str(REPOSITORY)], check=True)
    return directory


class Queue:
    """One queue with its workers and its producer."""

    name = ""
    producer = ""  # Python that defines produce(keys, urgent, seconds)

    def __init__(self, peers: Path, directory: Path, server: Server) -> None:
        self.peers, self.directory, self.server = peers, directory, server
        self.database = "".join(letter for letter in self.name if letter.isalnum()).lower() + str(time.monotonic_ns())
        server.execute(f"CREATE DATABASE {self.database}")
        self.url = server.url(self.database)
        self.marks_path = directory / "marks"
        self.marks_path.touch()
        self.marks: list[Mark] = []
        self._read_to = 0
        self._processes: list[subprocess.Popen[str]] = []
        self._next_key = 0
        self._producing: subprocess.Popen[str] | None = None
        self.prepare()

    def prepare(self) -> None:
        """Write the files, and make the tables."""

    def start(self, processes: int = 1) -> None:
        """Start what runs the jobs; several ``processes`` where all four workers are one."""
        raise NotImplementedError

    def runner(self) -> int | None:
        """The pid of the process that has the others work, if there is such a one."""
        return None

    def fill(self, count: int) -> None:
        """Let so many jobs wait, by SQL, before anything is started."""
        raise NotImplementedError

    # -- jobs ----------------------------------------------------------------------------------------------

    def produce(self, count: int = 1, *, urgent: bool = NORMAL, seconds: float = 0) -> tuple[range, float]:
        """Commit so many jobs at once; returns their keys and when the commit had returned."""
        if self._producing is None:
            (self.directory / "producer.py").write_text(PRODUCER.replace("PRODUCE", self.producer))
            self._producing = self.run("producer.py", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._answer()
        keys = range(self._next_key, self._next_key + count)
        self._next_key += count
        assert self._producing.stdin is not None
        order = {"first": keys.start, "count": count, "urgent": urgent, "seconds": seconds}
        print(json.dumps(order), file=self._producing.stdin, flush=True)
        return keys, float(self._answer())

    def wait_begun(self, count: int, *, seconds: float = 600, every: float = 0.001) -> list[Mark]:
        """The next so many jobs that are begun; fewer if it takes too long."""
        deadline = time.monotonic() + seconds
        while sum(mark.kind == "s" for mark in self.marks) < count and time.monotonic() < deadline:
            self._check()
            time.sleep(every)
            self._read()
        found, self.marks = self.marks, []
        return found

    def _read(self) -> None:
        with self.marks_path.open("rb") as file:
            file.seek(self._read_to)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.decode().splitlines():
            kind, key, pid, at = line.split()
            self.marks.append(Mark(kind, int(key), int(pid), float(at)))

    def _answer(self) -> str:
        assert self._producing is not None
        assert self._producing.stdout is not None
        line = self._producing.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: the producer has ended\n{self.log()}")
        return line

    # -- processes -----------------------------------------------------------------------------------------

    def run(self, *command: str, python: Path | None = None, **options: Any) -> subprocess.Popen[str]:
        """Start a program of this queue; it is ended by `stop`."""
        env = {
            **os.environ,
            "BENCHMARK_MARKS": str(self.marks_path),
            "BENCHMARK_URL": self.url,
            "PYTHONPATH": str(self.directory),
            **options.pop("env", {}),
        }
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                [str(python or self.peers / "bin/python"), *command],
                cwd=options.pop("cwd", self.directory),
                env=env,
                stderr=log,
                text=True,
                **{"stdin": subprocess.DEVNULL, "stdout": log, **options},
            )
        self._processes.append(process)
        return process

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        """End everything, jobs that sleep for long too."""
        below = []
        for pid in (pid for process in self._processes for pid in tree(process.pid)[1:]):
            with contextlib.suppress(ProcessLookupError):
                below.append(os.pidfd_open(pid))
        for process in self._processes:
            if process is self._producing:
                process.kill()
            else:
                process.send_signal(signal.SIGTERM)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            process.wait()
        for pidfd in below:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        self._processes.clear()

    def drop(self) -> None:
        """Let go of the database."""
        self.server.execute(f"DROP DATABASE {self.database} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        """SQL, committed."""
        connection = psycopg2.connect(self.url)
        with connection, connection.cursor() as cr:
            cr.execute(statement)
        connection.close()

    def _check(self) -> None:
        for process in self._processes:
            if process.poll() is not None and process.returncode != -signal.SIGKILL:
                raise RuntimeError(f"{self.name}: ended with {process.returncode}\n{self.log()}")


def runner_of(daemon: int) -> int | None:
    """The job runner of a procmand."""
    found = [pid for pid in children(daemon) if "workers.jobrunner" in command_line(pid)]
    return found[0] if found else None


class Procman(Queue):
    """procmand with an http pool and a jobrunner pool."""

    name = "procman"
    producer = """
import app
from procman import signaling
from procman.core.spec import DatabaseSpec
signaling.configure(DatabaseSpec(url=URL))
def produce(first, count, urgent, seconds):
    job = app.mark.options(priority=0 if urgent else 10)
    if count == 1:
        job.delay(first, seconds)
    else:
        job.delay_many([(key, seconds) for key in range(first, first + count)])
"""
    app = f"""{MARK}
import procman
from procman.jobs import execute

def noting(database, uuid, *, run=execute.run, **options):
    os.write(FD, b"r 0 %d %.6f\\n" % (os.getpid(), time.time()))
    return run(database, uuid, **options)
execute.run = noting

@procman.job
def mark(key, seconds):
    note(key)
    if seconds:
        time.sleep(seconds)

def application(environ, start_response):
    start_response("200 OK", [])
    return []
"""
    configuration = """
[database]
url = "{url}"
[pools.http]
kind = "http"
app = "app:application"
bind = "unix:web.sock"
workers = {workers}
max_restarts = 1000000
[pools.jobrunner]
kind = "jobrunner"
channels = "root:{workers}"
target = "http"
"""

    def prepare(self) -> None:
        (self.directory / "app.py").write_text(self.app)
        self.configure(WORKERS)
        # Once through the producer, which installs the tables.
        process = self.run(
            "-c",
            "import os\nfrom procman import signaling\nfrom procman.core.spec import DatabaseSpec\n"
            "signaling.configure(DatabaseSpec(url=os.environ['BENCHMARK_URL']))\n"
            f"signaling.connect('{self.database}')",
        )
        process.wait()
        self._processes.remove(process)

    def configure(self, workers: int) -> None:
        (self.directory / "procman.toml").write_text(self.configuration.format(url=self.url, workers=workers))

    def start(self, processes: int = 1) -> None:
        self._daemon = self.run(str(self.peers / "bin/procmand"), "-c", "procman.toml")
        while self.runner() is None:
            self._check()
            time.sleep(0.05)

    def runner(self) -> int | None:
        return runner_of(self._daemon.pid)

    def fill(self, count: int) -> None:
        self.execute(
            "INSERT INTO procman.job (function, args, channel) "
            f"SELECT 'app:mark', jsonb_build_array(n, 1000), 'root' FROM generate_series(1, {count}) n"
        )


class ProcmanBatches(Procman):
    """Jobs that share a transaction, twenty at a time."""

    name = "procman, batches"
    app = Procman.app.replace("@procman.job\n", "@procman.job(batch=20)\n")


class Oca(Queue):
    """The runner of queue_job as published, beside four processes that do what Odoo's workers do to a job's row."""

    name = "queue_job (OCA)"
    producer = """
import psycopg2
connection = psycopg2.connect(URL)
def produce(first, count, urgent, seconds):
    with connection, connection.cursor() as cr:
        cr.execute(INSERT, {"first": first, "last": first + count - 1, "seconds": seconds,
            "priority": 0 if urgent else 10})
"""
    insert = """
INSERT INTO queue_job (uuid, name, model_name, method_name, args, kwargs, state, priority, date_created, retry,
    max_retries, channel, func_string, user_id, company_id, channel_method_name)
SELECT gen_random_uuid()::text, 'mark', 'test.queue', 'mark', jsonb_build_array(n, %(seconds)s), '{}', 'pending',
    %(priority)s, clock_timestamp() AT TIME ZONE 'UTC', 0, 5, 'root', 'test.queue().mark', 1, 1, '<test.queue>.mark'
FROM generate_series(%(first)s, %(last)s) n
"""
    beside = """
import logging, os, sys, types
import psycopg2

def module(name, **members):
    made = sys.modules[name] = types.ModuleType(name)
    made.__dict__.update(members)
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, made)
    return made

class Config(dict):
    misc = {}

url = os.environ["BENCHMARK_URL"]
config = Config(db_name=sys.argv[1], http_interface="127.0.0.1", http_port=int(sys.argv[2]), limit_time_cpu=60)
addons = next(path for path in (os.path.join(each, "odoo/addons") for each in sys.path) if os.path.isdir(path))
module("odoo", __path__=[])
module("odoo.tools", config=config)
module("odoo.models", BaseModel=object)
module("odoo.sql_db", connection_info_for=lambda name: (name, {"dsn": url}))
module("odoo.service", __path__=[])
server = module("odoo.service.server", Worker=type("Worker", (), {}))
patched = {"PreforkServer": ("__init__", "process_spawn", "worker_pop"), "ThreadedServer": ("start", "stop")}
for kind, members in patched.items():
    setattr(server, kind, type(kind, (), dict.fromkeys(members, lambda *_: None)))
module("odoo.service.db", list_dbs=lambda force: [])
module("odoo.addons", __path__=[addons])
module("odoo.addons.queue_job", __path__=[os.path.join(addons, "queue_job")])
floats = psycopg2.extensions.new_type((1700,), "float", lambda value, cr: float(value) if value is not None else None)
psycopg2.extensions.register_type(floats)
logging.basicConfig(level=logging.INFO)
from odoo.addons.queue_job.jobrunner.runner import QueueJobRunner
QueueJobRunner.from_environ_or_config().run()
"""

    def prepare(self) -> None:
        self.execute(LAYOUT.ddl)
        self.producer = f"INSERT = '''{self.insert}'''\n{self.producer}"
        (self.directory / "oca_runner.py").write_text(self.beside)

    def start(self, processes: int = 1) -> None:
        self.start_workers()
        port = str(self.listener.getsockname()[1])
        env = {"ODOO_QUEUE_JOB_CHANNELS": f"root:{WORKERS}"}
        self._runner = self.run("oca_runner.py", self.database, port, env=env)
        time.sleep(1)

    def start_workers(self) -> None:
        """On a port of the loopback."""
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(128)
        fd = self.listener.fileno()
        for _ in range(WORKERS):
            self.run(
                *("-m", "tests.support.odoo", LAYOUT.name, self.url, str(fd)),
                cwd=REPOSITORY,
                python=Path(sys.executable),
                pass_fds=(fd,),
            )

    def runner(self) -> int | None:
        return self._runner.pid

    def fill(self, count: int) -> None:
        self.execute("ALTER TABLE queue_job DISABLE TRIGGER queue_job_notify")
        statement = self.insert % {"first": 1, "last": count, "seconds": 1000, "priority": 10}
        self.execute(statement)
        self.execute("ALTER TABLE queue_job ENABLE TRIGGER queue_job_notify")

    def stop(self) -> None:
        super().stop()
        self.listener.close()


class ProcmanOca(Oca):
    """procman's runner in place of queue_job's, with the same tables and the same workers."""

    name = "queue_job (procman)"
    configuration = """
[database]
url = "{url}"
[pools.jobrunner]
kind = "jobrunner"
channels = "root:{workers}"
url = "http://127.0.0.1:{port}"
"""

    def start(self, processes: int = 1) -> None:
        self.start_workers()
        values = {"url": self.url, "workers": WORKERS, "port": self.listener.getsockname()[1]}
        (self.directory / "procman.toml").write_text(self.configuration.format(**values))
        self._daemon = self.run(str(self.peers / "bin/procmand"), "-c", "procman.toml")
        while self.runner() is None:
            self._check()
            time.sleep(0.05)

    def runner(self) -> int | None:
        return runner_of(self._daemon.pid)


class Procrastinate(Queue):
    name = "procrastinate"
    producer = """
import asyncio, app
loop = asyncio.new_event_loop()
loop.run_until_complete(app.app.open_async())
def produce(first, count, urgent, seconds):
    deferrer = app.mark.configure(priority=10 if urgent else 0)
    if count == 1:
        loop.run_until_complete(deferrer.defer_async(key=first, seconds=seconds))
    else:
        calls = [{"key": key, "seconds": seconds} for key in range(first, first + count)]
        loop.run_until_complete(deferrer.batch_defer_async(*calls))
"""
    app = f"""{MARK}
import asyncio, sys
from procrastinate import App, PsycopgConnector
app = App(connector=PsycopgConnector(conninfo=os.environ["BENCHMARK_URL"]))

@app.task(name="mark")
async def mark(key, seconds):
    note(key)
    if seconds:
        await asyncio.sleep(seconds)

async def main():
    async with app.open_async():
        if sys.argv[1] == "install":
            await app.schema_manager.apply_schema_async()
        else:
            await app.run_worker_async(concurrency={WORKERS})

if __name__ == "__main__":
    asyncio.run(main())
"""
    arguments: tuple[str, ...] = ("work",)

    def prepare(self) -> None:
        (self.directory / "app.py").write_text(self.app)
        installing = self.run("app.py", "install")
        if installing.wait():
            raise RuntimeError(self.log())
        self._processes.remove(installing)

    def start(self, processes: int = 1) -> None:
        for _ in range(processes):
            self.run("app.py", *self.arguments)
        time.sleep(1.5)


class Pgqueuer(Procrastinate):
    """At most four jobs at once, as the others."""

    name = "pgqueuer"
    producer = """
import asyncio, app
loop = asyncio.new_event_loop()
queries = loop.run_until_complete(app.queries())
def produce(first, count, urgent, seconds):
    payloads = [b"%d %f" % (key, seconds) for key in range(first, first + count)]
    priorities = [10 if urgent else 0] * count
    loop.run_until_complete(queries.enqueue(["mark"] * count, payloads, priorities))
"""
    app = f"""{MARK}
import asyncio, sys, asyncpg
from pgqueuer import AsyncpgDriver, PgQueuer, Queries

async def driver():
    return AsyncpgDriver(await asyncpg.connect(os.environ["BENCHMARK_URL"]))

async def queries():
    return Queries(await driver())

async def main():
    if sys.argv[1] == "install":
        await (await queries()).install()
        return
    pgq = PgQueuer(await driver())

    @pgq.entrypoint("mark")
    async def mark(job):
        key, seconds = job.payload.split()
        note(int(key))
        if float(seconds):
            await asyncio.sleep(float(seconds))

    await pgq.run(batch_size=int(sys.argv[2]), max_concurrent_tasks=int(sys.argv[3]))

if __name__ == "__main__":
    asyncio.run(main())
"""
    arguments = ("work", "2", "4")


class PgqueuerBatches(Pgqueuer):
    """As it comes: ten jobs fetched and settled at once."""

    name = "pgqueuer, batches"
    arguments = ("work", "10", "20")
