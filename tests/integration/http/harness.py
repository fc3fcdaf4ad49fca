"""A real http worker without an arbiter: its channel, its scoreboard and its listening socket are made here."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from procman.core.lifecycle import Boot, FromChild, Ready, Retire, Retiring, Seat
from procman.core.reason import Reason
from procman.core.spec import DatabaseSpec, HttpWork, Kind, Limits, PoolSpec, TcpAddress, UnixAddress
from procman.observe.scoreboard import Scoreboard
from procman.unix.channel import Channel, pair
from procman.unix.sockets import bind, unbind

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
PATIENCE = 20.0  # seconds until a test gives up; nothing waits this long when all is well

# What an executed worker does, for the one kind that is otherwise forked from a template.
_MAIN = """
import sys
from procman.workers.application import load
from procman.workers.boot import executed, run
from procman.workers.http import serve
child = executed(int(sys.argv[1]))
run(child, lambda: serve(child, load(child.spec.work.app)))
"""


class Worker:
    """One worker process and the arbiter's end of what connects it."""

    def __init__(self, directory: Path, spec: PoolSpec, listeners: list[socket.socket], **boot: Any) -> None:
        self.name = f"{spec.name}.{boot.pop('slot', 1)}"
        self.board = Scoreboard.create(str(directory / f"{self.name}.board"), 1)
        self.log = directory / f"{self.name}.log"
        ours, theirs = pair()
        self.channel: Channel | None = Channel(ours, FromChild)
        with open(self.log, "wb") as log, open(directory / f"{self.name}.dump", "wb") as dump:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _MAIN, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            theirs.close()
            seat = Seat(name=self.name, slot=1, generation=1, record=0)
            message = Boot(
                pool=spec,
                generation=1,
                seat=seat,
                database=boot.pop("database", None),
                log_format="text",
                state_dir=str(directory),
            )
            self.channel.send(message, self.board.fd, dump.fileno(), *[sock.fileno() for sock in listeners])

    @property
    def pid(self) -> int:
        return self.process.pid

    def await_message(self, kind: type[Any]) -> Any:
        """The next message of this type; others are dropped."""
        assert self.channel is not None
        while True:
            readable, _, _ = select.select([self.channel], [], [], PATIENCE)
            assert readable, f"no {kind.__name__} from the worker:\n{self.log.read_text()}"
            received = self.channel.receive()
            if received is not None and isinstance(received[0], kind):
                return received[0]

    def retire(self, reason: Reason = Reason.RELOAD) -> None:
        """Ask the worker to go and wait until it has understood."""
        assert self.channel is not None
        self.channel.send(Retire(reason=reason))
        assert self.await_message(Retiring).reason == reason

    def hang_up(self) -> None:
        """Be gone, as a killed arbiter is."""
        assert self.channel is not None
        self.channel.close()
        self.channel = None

    def wait(self) -> int:
        """Until the process has ended; its exit status."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.kill(self.pid, signal.SIGQUIT)
            self.process.wait(1)
            raise AssertionError(self.log.read_text()) from None

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.channel is not None:
            self.channel.close()
        os.close(self.board.fd)


class Service:
    """A listening socket and the workers that serve it."""

    def __init__(
        self, directory: Path, app: str, *, unix: bool = False, bound: TcpAddress | None = None, **policy: Any
    ) -> None:
        limits = policy.pop("limits", Limits())
        working_dir = policy.pop("working_dir", str(HERE))
        self.directory = directory
        tcp = bound or TcpAddress(host="127.0.0.1", port=0)
        self.bound = UnixAddress(path=str(directory / "s")) if unix else tcp
        self.listener = bind(self.bound)
        self.address: Any = self.listener.getsockname()
        self.workers: list[Worker] = []
        self._spec = PoolSpec(
            name="http",
            kind=Kind.HTTP,
            work=HttpWork(app=app, binds=(self.bound,), **policy),
            workers=2,
            limits=limits,
            working_dir=working_dir,
        )

    def start(self, *, ready: bool = True, database: str | None = None, databases: tuple[str, ...] = ()) -> Worker:
        """One worker more."""
        worker = Worker(
            self.directory,
            self._spec,
            [self.listener],
            slot=len(self.workers) + 1,
            database=DatabaseSpec(url=database, databases=databases) if database else None,
        )
        self.workers.append(worker)
        if ready:
            worker.await_message(Ready)
        return worker

    def connect(self) -> Client:
        return Client(self.address)

    def get(self, path: str, **headers: str) -> Response:
        """One request on a connection of its own."""
        with self.connect() as client:
            return client.request("GET", path, b"", **headers)

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        unbind(self.bound, self.listener)


@contextmanager
def service(directory: Path, app: str = "applications:application", **work: Any) -> Iterator[Service]:
    made = Service(directory, app, **work)
    try:
        yield made
    finally:
        made.close()


class Response:
    """One response as it came: ``status``, ``headers`` (names in lower case), ``body``."""

    def __init__(self, head: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.version, status, self.reason = first.split(" ", 2)
        self.status = int(status)
        pairs = [line.split(": ", 1) for line in lines]
        self.headers = {name.lower(): value for name, value in pairs}
        self.body = b""
        self.complete = True

    @property
    def text(self) -> str:
        return self.body.decode()


class Client:
    """A client that sees exactly what is on the wire."""

    def __init__(self, address: Any) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(address)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> Response:
        self.send(head(method, path, body, **headers) + body)
        return self.read(method)

    def read(self, method: str = "GET") -> Response:
        """The next response; ``complete`` is false when the connection ended within its body."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                raise EOFError(f"closed before a response, after {self._buffer!r}")
        data, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        response = Response(data)
        if method == "HEAD" or response.status in (100, 204, 304):
            return response
        if "content-length" in response.headers:
            response.body, response.complete = self._take(int(response.headers["content-length"]))
        elif response.headers.get("transfer-encoding") == "chunked":
            self._read_chunks(response)
        else:
            while self._more():
                pass
            response.body, self._buffer = self._buffer, b""
        return response

    def _read_chunks(self, response: Response) -> None:
        while response.complete:
            while b"\r\n" not in self._buffer:
                if not self._more():
                    response.complete = False
                    return
            size, self._buffer = self._buffer.split(b"\r\n", 1)
            data, response.complete = self._take(int(size, 16) + 2)
            response.body += data[:-2]
            if size == b"0":
                return

    def _take(self, count: int) -> tuple[bytes, bool]:
        pieces, size = [self._buffer], len(self._buffer)
        while size < count:
            data = self._receive()
            if not data:
                break
            pieces.append(data)
            size += len(data)
        whole = b"".join(pieces)
        self._buffer = whole[count:]
        return whole[:count], size >= count

    def _more(self) -> bool:
        data = self._receive()
        self._buffer += data
        return bool(data)

    def _receive(self) -> bytes:
        try:
            return self.sock.recv(1 << 20)
        except ConnectionResetError:
            return b""

    def closed(self) -> bool:
        """Wait for the end of the connection; false when data comes instead."""
        return not self._buffer and not self._more()


def head(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """The bytes of a request's head; header names have underscores for dashes here."""
    lines = [f"{method} {path} HTTP/1.1", "Host: test"]
    if body and "Transfer_Encoding" not in headers:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
