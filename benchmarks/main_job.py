"""The main job in figures: start of all four kinds with an empty state directory, and what a user waits for then.

    python -P benchmarks/main_job.py [rounds]     (-P: or http.py beside it would hide the standard library's http)

Runs `procmand` with the repository's procman.toml on ports of its own, in a temporary directory. Medians; the
machine's noise is in all of them.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from procman.control.client import Client
from procman.errors import ControlError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
PROCMAND = Path(sys.executable).with_name("procmand")


class Demo:
    """A running demo."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def ask(self, command: str, **properties: Any) -> dict[str, Any]:
        with Client(self._endpoint, timeout=10) as client:
            return client.call(command, **properties)

    def request(self, pool: str, method: str, path: str, body: str | None = None) -> Any:
        address = self.ask("status")["pools"][pool]["listens"][0]
        connection = http.client.HTTPConnection(address, timeout=30)
        try:
            connection.request(method, path, body)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


@contextmanager
def running(directory: Path) -> Iterator[tuple[Demo, float]]:
    """The demo in that directory, and how long it took until every pool was ready."""
    file = directory / "procman.toml"
    file.write_text(
        (ROOT / "procman.toml").read_text().replace(":8069", ":0").replace(":8072", ":0").replace(":8079", ":0")
    )
    began = monotonic()
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen([PROCMAND, "-c", file], stdout=log, stderr=log)
    demo = Demo(f"ipc://{directory}/var/control.sock")
    try:
        wait_for(lambda: demo.ask("stats")["arbiter"]["state"] == "running")
        yield demo, monotonic() - began
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def wait_for(condition: Callable[[], Any], timeout: float = 60.0) -> Any:
    """Ask every few milliseconds; what the condition returned at last."""
    deadline = monotonic() + timeout
    while monotonic() < deadline:
        try:
            if value := condition():
                return value
        except (ControlError, OSError, http.client.HTTPException, ValueError):
            pass
        sleep(0.002)
    raise TimeoutError("waited in vain")


def poll_latency(demo: Demo, price: float) -> float:
    """Seconds from the answer to a PUT until a waiting poll has its message."""
    answered: list[float] = []
    last = demo.request("longpoll", "POST", "/longpolling/poll", _poll(0, peek=True))["result"]["last"]

    def wait() -> None:
        demo.request("longpoll", "POST", "/longpolling/poll", _poll(last))
        answered.append(monotonic())

    thread = threading.Thread(target=wait)
    thread.start()
    sleep(0.1)  # for the poll to be waiting
    demo.request("http", "PUT", "/prices/1", f'"{price}"')
    changed = monotonic()
    thread.join()
    return max(0.0, answered[0] - changed)


def _poll(last: int, *, peek: bool = False) -> str:
    params = {"channels": ["prices"], "last": last, "options": {"peek": peek}}
    return json.dumps({"jsonrpc": "2.0", "method": "call", "id": 1, "params": params})


def jobs_duration(demo: Demo, number: int) -> float:
    """Seconds from enqueueing until so many jobs are done."""
    before = demo.request("http", "GET", "/jobs")["done"]
    began = monotonic()
    demo.request("http", "POST", f"/jobs?n={number}")
    wait_for(lambda: demo.request("http", "GET", "/jobs")["done"] >= before + number)
    return monotonic() - began


def replacement(demo: Demo, name: str) -> float:
    """Seconds from kill -9 of a worker until its successor is ready."""
    pool = name.rpartition(".")[0]

    def pid() -> int | None:
        for worker in demo.ask("stats", name=pool)["pools"][pool]["workers"]:
            if worker["name"] == name and worker["state"] == "ready":
                return int(worker["pid"])
        return None

    victim = wait_for(pid)
    began = monotonic()
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: pid() not in (None, victim))
    return monotonic() - began


def main(rounds: int) -> None:
    figures: dict[str, list[float]] = {}
    for _ in range(rounds):
        directory = Path(tempfile.mkdtemp(prefix="pm"))
        try:
            with running(directory) as (demo, seconds):
                figures.setdefault("start, database made anew", []).append(seconds)
                for number in range(10):
                    figures.setdefault("PUT answered → poll answered", []).append(poll_latency(demo, 10 + number))
                figures.setdefault("200 jobs enqueued → done", []).append(jobs_duration(demo, 200))
                for name in ("http.1", "cron.1", "jobrunner.1", "longpoll.1", "postgres.1"):
                    figures.setdefault(f"kill -9 {name} → ready", []).append(replacement(demo, name))
                began = monotonic()
                demo.ask("reload", waiting=True, name=["http"])
                figures.setdefault("reload http", []).append(monotonic() - began)
            with running(directory) as (_, seconds):
                figures.setdefault("start, database there", []).append(seconds)
        finally:
            shutil.rmtree(directory)
    for name, values in figures.items():
        print(
            f"{name:34} {1000 * statistics.median(values):8.1f} ms   (worst {1000 * max(values):.1f}, n={len(values)})"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
