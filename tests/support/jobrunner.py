"""The job runner as its worker process, and workers that run jobs, all started and ended by a test."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from procman.core import lifecycle as say
from procman.core.channels import parse
from procman.core.reason import Reason
from procman.core.spec import DatabaseSpec, JobQueue, JobrunnerWork, Kind, PoolSpec, TcpAddress, UnixAddress
from procman.errors import ChannelClosed
from procman.observe.scoreboard import Scoreboard
from procman.unix.channel import Channel, pair

if TYPE_CHECKING:
    from procman.core.spec import Address

ROOT = Path(__file__).parents[2]
JOB_SERVER = ("-m", "tests.support.jobserver")


class Workers:
    """Processes that accept on one listener, as those of an http pool do."""

    def __init__(
        self,
        url: str,
        path: Path | None = None,
        program: tuple[str, ...] = JOB_SERVER,
        *,
        databases: tuple[str, ...] = (),
    ) -> None:
        self._program = (*program, url)
        self._databases = databases
        self.listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self.listener.bind(str(path) if path else ("127.0.0.1", 0))
        self.listener.listen(128)
        self.address: Address
        if path:
            self.address = UnixAddress(path=str(path))
        else:
            self.address = TcpAddress(host="127.0.0.1", port=self.listener.getsockname()[1])
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, count: int = 1) -> None:
        for _ in range(count):
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, *self._program, str(self.listener.fileno()), *self._databases],
                    pass_fds=(self.listener.fileno(),),
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                )
            )

    def kill(self, pid: int) -> None:
        """Kill one of them, and wait for it."""
        for process in self.processes:
            if process.pid == pid:
                process.kill()
                process.wait(30)
                self.processes.remove(process)
                return
        raise AssertionError(f"{pid} is none of {self.processes}")

    def close(self) -> None:
        for process in list(self.processes):
            self.kill(process.pid)
        self.listener.close()


class JobRunner:
    """The worker ``jobrunner.1``."""

    def __init__(
        self,
        directory: Path,
        url: str,
        *addresses: Address,
        channels: str = "root:4",
        target_url: str | None = None,
        queues: tuple[JobQueue, ...] = (JobQueue.PROCMAN,),
    ) -> None:
        ours, theirs = pair()
        self.figures: dict[str, Any] = {}
        self.channel = Channel(ours, say.FromChild)
        self.log_path = directory / "runner.log"
        self.board = Scoreboard.create(str(directory / "board"), 1)
        memfd = os.memfd_create("dump")
        spec = PoolSpec(
            name="jobrunner",
            kind=Kind.JOBRUNNER,
            work=JobrunnerWork(
                channels=tuple(parse(channels).values()), queues=queues, addresses=addresses, url=target_url
            ),
        )
        seat = say.Seat(name="jobrunner.1", slot=1, generation=1, record=0)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "procman.workers.jobrunner", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        theirs.close()
        boot = say.Boot(
            pool=spec,
            generation=1,
            seat=seat,
            database=DatabaseSpec(url=url),
            log_format="text",
            state_dir=str(directory),
        )
        self.channel.send(boot, self.board.fd, memfd)
        os.close(memfd)

    def next_message(self, seconds: float = 30) -> Any:
        """The next message, None at the end of the channel; of its figures, the last ones are kept in ``figures``."""
        while True:
            assert select.select([self.channel], [], [], seconds)[0], self.log()
            try:
                received = self.channel.receive()
            except ChannelClosed:
                return None
            assert received is not None
            if not isinstance(received[0], say.Published):
                return received[0]
            self.figures = json.loads(received[0].text)

    def wait_until_ready(self) -> None:
        message = self.next_message()
        assert message == say.Ready(), f"{message}\n{self.log()}"

    def retire(self) -> None:
        """Ask it to go; it says that it will."""
        self.channel.send(say.Retire(reason=Reason.RELOAD))
        assert self.next_message() == say.Retiring(reason=Reason.RELOAD)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)

    def log(self) -> str:
        return self.log_path.read_text("utf-8", "replace")

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        self.channel.close()
        os.close(self.board.fd)
