"""A PostgreSQL for tests: an embedded cluster that trades safety for speed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import psycopg2

from procman.db.binaries import find_binaries
from procman.unix.process import die_with_parent
from procman.workers.postgres import embedded_cluster

if TYPE_CHECKING:
    from collections.abc import Mapping

    from procman.db.embedded import Cluster

FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "shared_buffers": "32MB"}


class Server:
    """A running server in ``directory``; ``stop`` it."""

    def __init__(self, directory: str, settings: Mapping[str, str] = FAST) -> None:
        self.directory = directory
        self._settings = settings
        self._tests = os.getpid()
        major = os.environ.get("PROCMAN_TEST_POSTGRES")  # a version to test with, when several are there
        binaries = find_binaries(int(major) if major else None)
        self.cluster: Cluster = embedded_cluster(
            os.path.join(directory, "data"), os.path.join(directory, "s"), binaries
        )
        self.start()

    def start(self) -> None:
        """Start it (again) and wait until it accepts connections."""
        occupancy = self.cluster.prepare()
        self._log = open(os.path.join(self.directory, "log"), "ab")  # noqa: SIM115
        self.process = subprocess.Popen(
            self.cluster.command(self._settings),
            env=self.cluster.environment(),
            cwd="/",
            preexec_fn=self._enter,
            pass_fds=(occupancy.fd,),
            stdin=subprocess.DEVNULL,
            stderr=self._log,
        )
        occupancy.release()
        self._wait()

    def url(self, database: str) -> str:
        return self.cluster.url(database)

    def execute(self, statement: str) -> None:
        """Run one statement in the database ``postgres``, outside of any transaction."""
        connection = psycopg2.connect(self.url("postgres"))
        try:
            connection.autocommit = True
            connection.cursor().execute(statement)
        finally:
            connection.close()

    def log(self) -> str:
        with open(os.path.join(self.directory, "log"), encoding="utf-8", errors="replace") as file:
            return file.read()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        self.process.send_signal(how)
        self.process.wait(30)
        self._log.close()

    def _enter(self) -> None:
        if self.cluster.owner.enter is not None:
            self.cluster.owner.enter()
        die_with_parent(signal.SIGQUIT, self._tests)

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            assert self.process.poll() is None, self.log()
            try:
                psycopg2.connect(self.url("postgres")).close()
                return
            except psycopg2.OperationalError:
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.02)
