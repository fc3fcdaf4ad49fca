"""A real gevent worker, with the test in the arbiter's place."""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from procman.core.lifecycle import Boot, FromChild, Ready, Retire, Seat
from procman.core.reason import Reason
from procman.core.spec import DatabaseSpec, Kind, Limits, LongpollingWork, PoolSpec, TcpAddress
from procman.observe.scoreboard import Scoreboard
from procman.unix.channel import Channel, pair

if TYPE_CHECKING:
    from pathlib import Path

APPS = os.path.join(os.path.dirname(__file__), "apps")


class Worker:
    """One worker in seat ``longpoll.1``; ``stop`` it."""

    def __init__(
        self,
        directory: Path,
        database_url: str | None,
        *,
        app: str | None = None,
        poll_timeout: float = 50.0,
        limits: Limits | None = None,
        listener: socket.socket | None = None,
    ) -> None:
        self.listener = listener or socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        address = TcpAddress(host="127.0.0.1", port=self.port)
        spec = PoolSpec(
            name="longpoll",
            kind=Kind.LONGPOLLING,
            work=LongpollingWork(app=app, binds=(address,), poll_timeout=poll_timeout),
            limits=limits or Limits(),
            working_dir=APPS,
        )
        self.log_path = directory / f"log.{self.port}.{time.monotonic_ns()}"
        self.board = Scoreboard.create(str(self.log_path) + ".board", 1)
        ours, theirs = pair()
        with theirs, open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "procman.workers.longpolling", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.channel = Channel(ours, FromChild)
        dump = os.open(str(self.log_path) + ".dump", os.O_RDWR | os.O_CREAT)
        boot = Boot(
            pool=spec,
            generation=1,
            seat=Seat(name="longpoll.1", slot=1, generation=1, record=0),
            database=DatabaseSpec(url=database_url) if database_url else None,
            log_format="text",
            state_dir=str(directory),
        )
        self.channel.send(boot, self.board.fd, dump, self.listener.fileno())
        os.close(dump)

    def ready(self) -> Worker:
        message = self.receive()
        assert isinstance(message, Ready), f"{message}\n{self.log()}"
        return self

    def receive(self, timeout: float = 60.0) -> Any:
        """The next message of the worker."""
        readable, _, _ = select.select([self.channel], [], [], timeout)
        assert readable, self.log()
        received = self.channel.receive()
        assert received is not None
        return received[0]

    def retire(self, reason: Reason = Reason.RELOAD) -> None:
        self.channel.send(Retire(reason=reason))

    def gone(self, timeout: float = 30.0) -> int:
        """Its exit status."""
        return self.process.wait(timeout)

    def log(self) -> str:
        return self.log_path.read_text("utf-8", "replace")

    def stop(self) -> None:
        self.channel.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.listener.close()
            os.close(self.board.fd)

    # -- as a client ---------------------------------------------------------------------------------------

    def connect(self, timeout: float = 60.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = self.connect()
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def waiting_polls(self) -> int:
        """How many polls wait in the worker; the test's own application tells."""
        return int(self.request("GET", "/waiting")[2])

    def wait_for_polls(self, number: int) -> None:
        deadline = time.monotonic() + 60
        while self.waiting_polls() != number:
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.005)


def poll_body(channels: list[str], last: int | None = 0, **options: object) -> bytes:
    params: dict[str, object] = {"channels": channels, "last": last, "options": options}
    return json.dumps({"jsonrpc": "2.0", "method": "call", "params": params, "id": 1}).encode()


class Poll:
    """A long poll in a thread."""

    def __init__(self, worker: Worker, channels: list[str], last: int | None = 0) -> None:
        self._worker = worker
        self._thread = threading.Thread(target=self._run, args=(poll_body(channels, last),), daemon=True)
        self.answered = 0.0
        self.response: tuple[int, http.client.HTTPMessage, bytes] | None = None
        self._thread.start()

    def _run(self, body: bytes) -> None:
        self.response = self._worker.request("POST", "/longpolling/poll", body)
        self.answered = time.monotonic()

    def join(self) -> tuple[int, http.client.HTTPMessage, bytes]:
        self._thread.join(60)
        assert self.response is not None, self._worker.log()
        return self.response

    def messages(self) -> list[Any]:
        status, _, body = self.join()
        assert status == 200, body
        return [item["message"] for item in json.loads(body)["result"]]
