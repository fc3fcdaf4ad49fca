"""Real cron workers without an arbiter: their channels and scoreboards are made here."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2

from procman.core.lifecycle import Boot, Bounded, FromChild, Published, Ready, Retire, Retiring, Seat
from procman.core.reason import Reason
from procman.core.spec import CronWork, DatabaseSpec, Kind, Limits, PoolSpec
from procman.observe.scoreboard import Scoreboard
from procman.unix.channel import Channel, pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from procman.core.sample import Sample

APPS = Path(__file__).parent / "apps"
PATIENCE = 30.0  # seconds until a test gives up; nothing waits this long when all is well

# What an executed worker does, for a kind that is otherwise forked from a template.
_MAIN = """
import sys
from procman.workers.application import import_modules
from procman.workers.boot import executed, run
from procman.workers.cron import serve
child = executed(int(sys.argv[1]))
run(child, lambda: serve(child, import_modules(child.spec.work.modules)))
"""


class Worker:
    """One worker process and the arbiter's end of what connects it."""

    def __init__(
        self, directory: Path, spec: PoolSpec, slot: int, database: DatabaseSpec | None, environ: dict[str, str]
    ) -> None:
        self.name = f"cron.{slot}"
        self.board = Scoreboard.create(str(directory / f"{self.name}.board"), 1)
        self._log = directory / f"{self.name}.log"
        ours, theirs = pair()
        self.channel = Channel(ours, FromChild)
        with theirs, open(self._log, "wb") as log, open(directory / f"{self.name}.dump", "wb") as dump:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _MAIN, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            seat = Seat(name=self.name, slot=slot, generation=1, record=0)
            boot = Boot(
                pool=spec, generation=1, seat=seat, database=database, log_format="text", state_dir=str(directory)
            )
            self.channel.send(boot, self.board.fd, dump.fileno())

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def sample(self) -> Sample:
        """What it says on the scoreboard."""
        return self.board.read(0)

    def await_message(self, kind: type[Any]) -> Any:
        """The next message, which is to be of this type; figures are passed over."""
        while True:
            readable, _, _ = select.select([self.channel], [], [], PATIENCE)
            assert readable, f"no {kind.__name__} from the worker:\n{self.log()}"
            received = self.channel.receive()
            assert received is not None
            if not isinstance(received[0], Bounded | Published):
                assert isinstance(received[0], kind), f"{received[0]}\n{self.log()}"
                return received[0]

    def await_log(self, text: str) -> None:
        until(lambda: text in self.log(), self.log)

    def retire(self, reason: Reason = Reason.RELOAD) -> None:
        """Ask the worker to go after its unit."""
        self.channel.send(Retire(reason=reason))

    def leave(self) -> None:
        """Ask the worker to go, and wait until it has gone in good order."""
        self.retire()
        assert self.await_message(Retiring).reason == Reason.RELOAD
        assert self.wait() == 0, self.log()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def wait(self) -> int:
        """Until the process has ended; its exit status."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.kill(self.pid, signal.SIGQUIT)
            self.process.wait(1)
            raise AssertionError(self.log()) from None

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        self.channel.close()
        os.close(self.board.fd)


class Pool:
    """Cron workers on one database; a context for asking the database beside them."""

    def __init__(self, directory: Path, url: str) -> None:
        self.url = url
        self.workers: list[Worker] = []
        self._directory = directory

    def start(
        self,
        *modules: str,
        ready: bool = True,
        limits: Limits | None = None,
        databases: tuple[str, ...] = (),
        url: str | None = None,
        **environ: str,
    ) -> Worker:
        """One worker more, which imports these of the modules in ``apps``."""
        spec = PoolSpec(
            name="cron",
            kind=Kind.CRON,
            work=CronWork(modules=modules, history_runs=100_000),
            limits=limits or Limits(),
            working_dir=str(APPS),
        )
        database = DatabaseSpec(url=url or self.url, databases=databases)
        worker = Worker(self._directory, spec, len(self.workers) + 1, database, environ)
        self.workers.append(worker)
        if ready:
            worker.await_message(Ready)
        return worker

    def ask(self, statement: str, *values: Any, url: str | None = None) -> list[Any]:
        """What the database says; rows of one column as their values."""
        with closing(psycopg2.connect(url or self.url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, values)
                rows = cursor.fetchall() if cursor.description else []
        return [row[0] if len(row) == 1 else row for row in rows]

    def await_rows(self, statement: str, number: int = 1) -> list[Any]:
        """Until there are at least so many rows."""
        found: list[Any] = []

        def enough() -> bool:
            found[:] = self.ask(statement)
            return len(found) >= number

        until(enough, self.logs)
        return found

    def entry(self, name: str) -> dict[str, Any]:
        """Its row in the schedule, but for who has declared it last."""
        query = "SELECT to_jsonb(cron) - 'declared_at' - 'declared_by' FROM procman.cron WHERE name = %s"
        (row,) = self.ask(query, name)
        return dict(row)

    def logs(self) -> str:
        return "\n".join(f"{worker.name}:\n{worker.log()}" for worker in self.workers)

    def close(self) -> None:
        for worker in self.workers:
            worker.close()


class Gate:
    """Where functions wait: each run that comes is an accepted connection; closing it lets the run go on."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(PATIENCE)
        self._sock.bind(path)
        self._sock.listen()

    def held(self) -> Held:
        """Wait until a run has come."""
        return Held(self._sock.accept()[0])

    def close(self) -> None:
        self._sock.close()


class Held:
    """A run that waits; leaving the block lets it go on."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        self._sock = sock
        self.pid = int(sock.recv(20))

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *exc: object) -> None:
        self._sock.close()


def until(happened: Callable[[], bool], told: Callable[[], str]) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, told()
        time.sleep(0.01)
