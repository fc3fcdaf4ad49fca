"""The embedded PostgreSQL as its pool process, started the way the arbiter does."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psycopg2

from procman.core import lifecycle as say
from procman.core.spec import Kind, PoolSpec, PostgresWork
from procman.observe.scoreboard import Scoreboard
from procman.unix.channel import Channel, pair

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType


class PostgresWorker:
    """``state`` is the state directory. As a context manager it is killed at the end, and waited for."""

    def __init__(
        self,
        state: Path,
        *,
        enter: Callable[[], None] | None = None,
        executable: str = sys.executable,
        program: tuple[str, ...] = ("-m", "procman.workers.postgres"),
    ) -> None:
        self.state = state
        self.data = state / "postgres"
        self.sockets = state / "s"
        self.log_path = state / "stderr"
        state.mkdir(exist_ok=True)
        ours, theirs = pair()
        self.channel = Channel(ours, say.FromChild)
        self.board = Scoreboard.create(str(state / "board"), 1)
        memfd = os.memfd_create("dump")
        spec = PoolSpec(
            name="postgres",
            kind=Kind.POSTGRES,
            work=PostgresWork(data_dir=str(self.data), socket_dir=str(self.sockets)),
        )
        seat = say.Seat(name="postgres.1", slot=1, generation=1, record=0)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [executable, *program, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stderr=log,
                preexec_fn=enter,
            )
        theirs.close()
        boot = say.Boot(pool=spec, generation=1, seat=seat, database=None, log_format="text", state_dir=str(state))
        self.channel.send(boot, self.board.fd, memfd)
        os.close(memfd)

    def __enter__(self) -> PostgresWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)
        self.wait_until_left()
        self.channel.close()
        os.close(self.board.fd)

    def wait_until_left(self) -> None:
        """Until nobody, backends and companion included, holds the far end of the channel."""
        while self.next_message() is not None:
            pass

    def next_message(self, seconds: float = 60) -> Any:
        """The next message, None at the end of the channel."""
        from procman.errors import ChannelClosed

        assert select.select([self.channel], [], [], seconds)[0], self.log()
        try:
            received = self.channel.receive()
        except ChannelClosed:
            return None
        assert received is not None
        return received[0]

    def wait_until_ready(self) -> None:
        message = self.next_message()
        assert message == say.Ready(), f"{message}\n{self.log()}"

    def connect(self, database: str = "procman") -> Any:
        connection = psycopg2.connect(host=str(self.sockets), port=5432, user="procman", dbname=database)
        connection.autocommit = True
        return connection

    def log(self) -> str:
        return self.log_path.read_text("utf-8", "replace")
