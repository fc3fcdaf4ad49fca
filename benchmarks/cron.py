"""What cron costs: 10,000 entries in one database, four workers.

    python -m benchmarks.cron [--entries N] [--workers N] [--seconds S] [--peers DIRECTORY]

from the root of the repository. Each function does nothing; PostgreSQL is on this machine, and commits reach the disk.
Lateness is that of the history: from the moment at which an entry was due until its function was about to be called.
Statements are messages to PostgreSQL, counted in its log. ``--peers`` is a virtual environment, which is made if it is
not there, for procrastinate: its periodic tasks, as many and with as many workers, at the next full minute. CPU time
is of the machine as it is; compare what was measured in one run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg2

from benchmarks.processes import Procmand, children, cpu_seconds, directory_with, program
from tests.support.server import Server

CONFIGURATION = """
[database]
url = "{url}"
[pools.cron]
kind = "cron"
app = "app"
workers = {workers}
"""

APPLICATION = """
import procman

def entry(number):
    @procman.cron({schedule}, name=f"entry {{number}}")
    def run():
        pass

for number in range({entries}):
    entry(number)

@procman.cron("never", name="triggered")
def triggered():
    pass
"""

DURABLE = {"shared_buffers": "128MB", "max_connections": "50"}


class Bench:
    """A server and a daemon on it, with these entries."""

    def __init__(
        self, server: Server, directory: Path, options: argparse.Namespace, schedule: str, entries: int
    ) -> None:
        self.server, self.directory = server, directory
        self.database = f"cron_{os.urandom(4).hex()}"
        server.execute(f"CREATE DATABASE {self.database}")
        self.connection = psycopg2.connect(server.url(self.database))
        self.connection.autocommit = True
        (directory / "app.py").write_text(APPLICATION.format(schedule=schedule, entries=entries))
        configuration = CONFIGURATION.format(url=server.url(self.database), workers=options.workers)
        self.daemon = Procmand(directory, configuration, command=program("procmand"), env={})
        self.daemon.wait_serving("cron", options.workers)

    def ask(self, statement: str, *values: Any) -> list[Any]:
        with self.connection.cursor() as cr:
            cr.execute(statement, values)
            return cr.fetchall() if cr.description else []

    def cpu(self) -> tuple[float, float]:
        """Seconds of CPU so far: of the workers, and of PostgreSQL with all its processes."""
        workers = [worker["pid"] for worker in self.daemon.pool("cron")["workers"]]
        postgres = self.server.process.pid
        return sum(map(cpu_seconds, workers)), sum(map(cpu_seconds, [postgres, *children(postgres)]))

    def statements(self) -> int:
        """Messages in the server's log so far."""
        return self.server.log().count("LOG:  statement:")

    def log_statements(self, what: str) -> None:
        self.server.execute(f"ALTER SYSTEM SET log_statement = '{what}'")
        self.server.execute("SELECT pg_reload_conf()")
        time.sleep(0.5)

    def lateness(self, since: Any) -> tuple[float, float, float, int]:
        """p50, p99 and the worst in milliseconds, and how many runs there were."""
        late = "SELECT 1000 * extract(epoch FROM began - due)::float AS late"
        quantiles = ", ".join(f"percentile_cont({share}) WITHIN GROUP (ORDER BY late)" for share in (0.5, 0.99, 1))
        runs = f"{late} FROM procman.cron_run WHERE began > %s AND outcome = 'done'"
        return self.ask(f"SELECT {quantiles}, count(*) FROM ({runs}) AS runs", since)[0]

    def now(self) -> Any:
        return self.ask("SELECT clock_timestamp()")[0][0]

    def stop(self) -> None:
        self.daemon.stop()
        self.connection.close()
        self.server.execute(f"DROP DATABASE {self.database} WITH (FORCE)")


def say(title: str, **figures: Any) -> None:
    print(
        f"{title:<34}" + "   ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items()), flush=True
    )


def spread(server: Server, options: argparse.Namespace) -> None:
    """Every entry once a minute, at its own second."""
    with directory_with() as directory:
        bench = Bench(server, directory, options, 'every="60s", jitter="60s"', options.entries)
        time.sleep(10)
        since, (workers, postgres) = bench.now(), bench.cpu()
        time.sleep(options.seconds)
        p50, p99, worst, runs = bench.lateness(since)
        after = bench.cpu()
        milli = [1000 * (b - a) / runs for a, b in zip((workers, postgres), after, strict=True)]
        say(
            f"once a minute, {runs / options.seconds:.0f} runs/s",
            p50=f"{p50:.1f} ms",
            p99=f"{p99:.1f} ms",
            worst=f"{worst:.0f} ms",
            CPU_of_workers=f"{milli[0]:.2f} ms/run",
            of_PostgreSQL=f"{milli[1]:.2f} ms/run",
        )
        bench.log_statements("all")
        since, before = bench.now(), bench.statements()
        time.sleep(10)
        counted, runs = bench.statements() - before, bench.lateness(since)[3]
        bench.log_statements("none")
        say("", statements_per_run=f"{counted / runs:.2f}")
        bench.stop()


def burst(server: Server, options: argparse.Namespace) -> None:
    """All of them at one instant."""
    with directory_with() as directory:
        bench = Bench(server, directory, options, '"0 0 1 1 *"', options.entries)
        bench.ask("ANALYZE procman.cron")
        for _ in range(2):
            since = bench.now()
            bench.ask(
                "UPDATE procman.cron SET next_call = clock_timestamp() + interval '3 s',"
                " planned = clock_timestamp() + interval '3 s' WHERE name <> 'triggered'"
            )
            began = time.monotonic()
            while bench.ask("SELECT count(*) FROM procman.cron_run WHERE began > %s", since)[0][0] < options.entries:
                time.sleep(0.2)
            took = time.monotonic() - began - 3
            p50, p99, _, runs = bench.lateness(since)
            say(
                f"all at once, {runs:,}",
                done_in=f"{took:.1f} s",
                runs_per_second=f"{runs / took:.0f}",
                p50=f"{p50 / 1000:.1f} s",
                p99=f"{p99 / 1000:.1f} s",
            )
        bench.stop()


def triggers(server: Server, options: argparse.Namespace) -> None:
    """One trigger at a time, among entries that are not due."""
    with directory_with() as directory:
        bench = Bench(server, directory, options, '"0 0 1 1 *"', options.entries)
        bench.ask("ANALYZE procman.cron")
        time.sleep(2)
        for number in range(300):
            bench.ask("INSERT INTO procman.cron_trigger (name, at) VALUES ('triggered', clock_timestamp())")
            while bench.ask("SELECT runs FROM procman.cron WHERE name = 'triggered'")[0][0] <= number:
                time.sleep(0.005)
        p50, p99, worst, runs = bench.lateness(bench.ask("SELECT '-infinity'::timestamptz::text")[0][0])
        say(f"a trigger, {runs} times", p50=f"{p50:.1f} ms", p99=f"{p99:.1f} ms", worst=f"{worst:.1f} ms")
        workers, postgres = bench.cpu()
        time.sleep(options.seconds)
        after = bench.cpu()
        say(
            "nothing is due",
            CPU_of_workers=f"{60 * (after[0] - workers) / options.seconds:.3f} s/min",
            of_PostgreSQL=f"{60 * (after[1] - postgres) / options.seconds:.3f} s/min",
        )
        bench.stop()


PROCRASTINATE = """
import os, time
import procrastinate

FD = os.open(os.environ["MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["URL"]))

def entry(number):
    @app.periodic(cron="* * * * *", periodic_id=str(number))
    @app.task(name=f"entry {number}", pass_context=False)
    async def run(timestamp):
        os.write(FD, b"%d %.6f\\n" % (timestamp, time.time()))

for number in range(ENTRIES):
    entry(number)
"""


def procrastinate(server: Server, options: argparse.Namespace) -> None:
    """Its periodic tasks at the next two full minutes: each worker defers each of them, and the queue keeps one."""
    peers = Path(options.peers)
    if not (peers / "bin/procrastinate").exists():
        subprocess.run([sys.executable, "-m", "venv", str(peers)], check=True)
        subprocess.run([str(peers / "bin/pip"), "install", "-q", "procrastinate"], check=True)
    database = f"cron_{os.urandom(4).hex()}"
    server.execute(f"CREATE DATABASE {database}")
    with directory_with() as directory:
        (directory / "tasks.py").write_text(PROCRASTINATE.replace("ENTRIES", str(options.entries)))
        marks = directory / "marks"
        env = {**os.environ, "URL": server.url(database), "MARKS": str(marks), "PYTHONPATH": str(directory)}
        command = [str(peers / "bin/procrastinate"), "--app=tasks.app"]
        subprocess.run([*command, "schema", "--apply"], env=env, check=True, stdout=subprocess.DEVNULL)
        with (directory / "log").open("wb") as log:
            workers = [
                subprocess.Popen(
                    [*command, "worker", "--concurrency=1"], env=env, cwd=directory, stdout=log, stderr=log
                )
                for _ in range(options.workers)
            ]
        try:
            time.sleep(60 - time.time() % 60)
            first = int(time.time() // 60 * 60)
            time.sleep(119)
            late = sorted(
                float(at) - int(of)
                for of, at in (line.split() for line in marks.read_text().splitlines())
                if int(of) == first
            )
            say(
                f"procrastinate, {len(late):,} of {options.entries:,} done",
                done_in=f"{late[-1]:.1f} s",
                runs_per_second=f"{len(late) / late[-1]:.0f}",
                p50=f"{late[len(late) // 2]:.1f} s",
                p99=f"{late[len(late) * 99 // 100]:.1f} s",
            )
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
    server.execute(f"DROP DATABASE {database} WITH (FORCE)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--peers", default="")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pm", dir="/tmp", ignore_cleanup_errors=True) as directory:
        server = Server(directory, DURABLE)
        try:
            for measure in (spread, burst, triggers, *((procrastinate,) if options.peers else ())):
                if not options.only or measure.__name__ in options.only.split(","):
                    measure(server, options)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
