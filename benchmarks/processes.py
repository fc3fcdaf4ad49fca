"""What the benchmarks know of processes: how to start a procmand, and what one costs (proc(5))."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from procman.control.client import Client
from procman.errors import ControlError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def program(name: str) -> str:
    """The console script that was installed beside this interpreter."""
    return os.path.join(os.path.dirname(sys.executable), name)


class Procmand:
    """A procmand in a directory of its own."""

    def __init__(self, directory: Path, configuration: str, *, command: str, env: Mapping[str, str]) -> None:
        self.directory = directory
        (directory / "procman.toml").write_text(configuration)
        with (directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [command, "-c", str(directory / "procman.toml")], stdout=log, stderr=log, env={**os.environ, **env}
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def endpoint(self) -> str:
        return f"ipc://{self.directory}/var/control.sock"

    def ask(self, command: str, timeout: float = 60.0, **properties: Any) -> dict[str, Any]:
        """One command on a connection of its own."""
        with Client(self.endpoint, timeout=timeout) as client:
            return dict(client.call(command, **properties))

    def pool(self, name: str) -> dict[str, Any]:
        return dict(self.ask("stats", infos=False)["pools"][name])

    def wait_serving(self, pool: str, workers: int) -> None:
        """Until that many workers are ready and nobody else is there."""
        while True:
            with contextlib.suppress(ControlError):
                found = self.pool(pool)
                if found["ready"] == len(found["workers"]) == workers:
                    return
            if self.process.poll() is not None:
                raise RuntimeError((self.directory / "log").read_text())
            time.sleep(0.02)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


@contextlib.contextmanager
def directory_with(**files: str) -> Iterator[Path]:
    """A temporary directory whose path is short enough for sockets, with these files (``app`` is app.py)."""
    directory = Path(tempfile.mkdtemp(prefix="pm", dir="/tmp"))
    try:
        for name, text in files.items():
            (directory / f"{name}.py").write_text(text)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def procmand(
    configuration: str, *, app: str = "", command: str | None = None, env: Mapping[str, str] | None = None
) -> Iterator[Procmand]:
    """A daemon for one measure; nothing is left of it afterwards."""
    with directory_with(app=app) as directory:
        running = Procmand(directory, configuration, command=command or program("procmand"), env=env or {})
        try:
            yield running
        finally:
            running.stop()


def cpu_seconds(pid: int) -> float:
    """Processor time of all its threads, to the nanosecond (schedstat)."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in _tasks(pid)) / 1e9


def cpu_ticks(pid: int) -> float:
    """Processor time of the process, also of threads that have ended, to a hundredth of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wakeups(pid: int) -> int:
    """How often its threads have gone to sleep by themselves, which is how often they were woken."""
    return sum(_field(task / "status", "voluntary_ctxt_switches") for task in _tasks(pid))


def pss(pid: int) -> float:
    """MiB, shared pages counted by their share."""
    return _field(Path(f"/proc/{pid}/smaps_rollup"), "Pss") / 1024


def private_memory(pid: int) -> float:
    """MiB of anonymous memory."""
    return _field(Path(f"/proc/{pid}/status"), "RssAnon") / 1024


def descriptors(pid: int) -> int:
    """How many it has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def children(pid: int) -> list[int]:
    """None when it is gone."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def tree(pid: int) -> list[int]:
    """The process and all below it."""
    return [pid, *(found for child in children(pid) for found in tree(child))]


def command_line(pid: int) -> str:
    """Empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _tasks(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/task").iterdir())


def _field(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0
