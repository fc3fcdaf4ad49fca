"""A real procmand under test: started from a file, waited for by its own READY=1, steered over its own socket."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from procman.control.client import Client

PATIENCE = 60.0  # seconds until a test that waits for an event gives up


class Procmand:
    """Use as a context manager: it is stopped, and checked to have left nothing behind, at the end."""

    def __init__(
        self,
        directory: Path,
        configuration: str,
        *,
        env: dict[str, str] | None = None,
        modules=(),
        ready=True,
        prefix=(),
        log_to=None,
    ):
        self.directory = directory
        self.file = directory / "procman.toml"
        self.file.write_text(configuration)
        for name, text in dict(modules).items():
            (directory / name).write_text(text)
        self.log_path = directory / "procmand.log"
        self._env = {"FDSTORE": "0", "PYTHONDONTWRITEBYTECODE": "1", "PM_TEST_DIR": str(directory), **(env or {})}
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(directory / "notify.sock"))
        self.said: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None
        self._ready = ready
        self.control = ""  # where it is reached, if not where it says
        self._prefix = prefix  # a command that runs procmand, as unshare(1) does
        self._log_to = log_to  # where its output goes instead of the log

    # -- life ---------------------------------------------------------------------------------------------

    def start(self) -> Procmand:
        environ = {key: value for key, value in os.environ.items() if not key.startswith("PROCMAN")}
        environ |= {"NOTIFY_SOCKET": str(self.directory / "notify.sock"), **self._env}
        with open(self._log_to or self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*self._prefix, program("procmand"), "-c", str(self.file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ,
                cwd=self.directory,
            )
        return self

    def __enter__(self) -> Procmand:
        self.start()
        if self._ready:
            try:
                self.wait_said("READY=1")
            except AssertionError:
                self._end_everything()
                raise
        return self

    def __exit__(self, kind, value, traceback) -> None:
        try:
            if self.process is not None and self.process.poll() is None:
                self.stop(signal.SIGTERM)
            if kind is None:
                self.assert_nothing_left()
        finally:
            self._end_everything()
        if kind is not None:
            print(self.log)

    def stop(self, signum: int = signal.SIGINT) -> int:
        """Tell it to stop; its exit status."""
        self.process.send_signal(signum)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """kill -9 of the daemon alone."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def assert_nothing_left(self) -> None:
        self.wait_gone(0.0)
        left = [str(p) for p in self.directory.rglob("*") if p.is_socket() and p.name != "notify.sock"]
        assert left == [], "a socket file is left"
        assert not list(self.directory.rglob("*.lock")), "a lock is left"

    def wait_gone(self, timeout: float = PATIENCE) -> None:
        """Wait until no process of this daemon is left."""
        try:
            wait_until(lambda: not processes_in(self.directory), "the processes to go", timeout)
        except AssertionError as error:
            left = [describe_process(pid) for pid in processes_in(self.directory)]
            raise AssertionError(f"{error}; left are {left}\n{self.log}") from None

    def _end_everything(self) -> None:
        self._notify.close()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        for pid in processes_in(self.directory):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        wait_until(lambda: not processes_in(self.directory), "leftover processes to die")

    # -- listening and asking -----------------------------------------------------------------------------

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def wait_said(self, what: str, timeout: float = PATIENCE) -> None:
        """Wait until the daemon says this to its service manager, counting from the last wait."""
        deadline = time.monotonic() + timeout
        while True:
            for index, line in enumerate(self.said):
                if line == what:
                    del self.said[: index + 1]
                    return
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not select.select([self._notify], [], [], min(remaining, 0.5))[0]:
                if self.process.poll() is not None:
                    raise AssertionError(f"procmand ended with {self.process.returncode}:\n{self.log}")
                if remaining <= 0:
                    raise AssertionError(f"procmand never said {what}:\n{self.log}")
                continue
            self.said += self._notify.recv(65536).decode().splitlines()

    def ctl(self, command: str, timeout: float = PATIENCE, **properties):
        """Send a command to the control socket; the reply. Raises what the client raises."""
        with Client(self.endpoint, timeout=timeout) as client:
            return client.call(command, **properties)

    def procmanctl(self, *arguments: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """Run the real command line."""
        return subprocess.run(
            [program("procmanctl"), "-c", str(self.file), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    @property
    def endpoint(self) -> str:
        return self.control or f"ipc://{self.directory}/var/control.sock"

    def pool(self, name: str):
        return self.ctl("status")["pools"][name]

    def worker(self, name: str):
        """The ready worker of that name."""
        for worker in self.pool(name.rpartition(".")[0])["workers"]:
            if worker["name"] == name and worker["state"] == "ready":
                return worker
        raise LookupError(name)

    def wait(self, condition, what: str, timeout: float = PATIENCE):
        """Wait until the condition holds, asking ever so often; what it returned."""
        try:
            return wait_until(condition, what, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log}") from None

    def wait_replaced(self, name: str, pid: int) -> int:
        """Wait until the worker of that name is ready with another pid; the new pid."""

        def other():
            try:
                new = self.worker(name)["pid"]
            except LookupError:
                return None
            return new if new != pid else None

        return self.wait(other, f"{name} ({pid}) to be replaced")

    def address(self, pool: str = "http") -> str:
        return self.pool(pool)["listens"][0]

    def request(self, method: str, path: str, body: bytes | str | None = None, *, pool: str = "http", timeout=30.0):
        """One request on a connection of its own; (status, body)."""
        return self.request_at(self.address(pool), method, path, body, timeout=timeout)

    def request_at(self, address: str, method="GET", path="/", body=None, *, timeout=30.0):
        """The same, at an address that is known already."""
        connection = http.client.HTTPConnection(address, timeout=timeout)
        try:
            connection.request(method, path, body=body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def get_json(self, path: str, **more):
        status, body = self.request("GET", path, **more)
        assert status == 200, (status, body)
        return json.loads(body)


def program(name: str) -> str:
    """The console script that was installed with the interpreter of the tests."""
    return os.path.join(os.path.dirname(sys.executable), name)


def wait_until(condition, what: str, timeout: float = PATIENCE):
    """Poll a condition for which there is no event; the truthy value that it returned at last."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s in vain for {what}")
        select.select([], [], [], 0.02)


def describe_process(pid: int) -> str:
    """Command, state and kernel function of a process, for messages."""
    try:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()[:3]
        return " ".join(
            [str(pid), *status, Path(f"/proc/{pid}/wchan").read_text(), Path(f"/proc/{pid}/cmdline").read_text()]
        )
    except OSError:
        return f"{pid} (gone)"


def processes_in(directory: Path) -> list[int]:
    """The processes that belong to the daemon of this directory, told by their environment or command line."""
    mark = str(directory).encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                environ = file.read()
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                command = file.read()
            with open(f"/proc/{entry}/stat", "rb") as file:
                state = file.read().rpartition(b") ")[2][:1]
        except OSError:
            continue
        if state != b"Z" and (b"PM_TEST_DIR=" + mark in environ or mark in command):
            found.append(int(entry))
    return found
