"""The service manager's side of sd_notify(3) and sd_listen_fds(3), on real sockets: stores descriptors, passes them on.

What systemd does between a service's end and its next start, as far as the protocol goes: no unit, no cgroup.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from array import array
from typing import TYPE_CHECKING

from tests.support.daemon import PATIENCE, program, wait_until

if TYPE_CHECKING:
    from pathlib import Path

FIRST = 3


class Manager:
    """Starts the daemon again and again; ``keeps`` is whether it has a store. ``stored`` is what is in it, by name."""

    def __init__(self, directory: Path, *, keeps: bool = True, sockets: dict[str, socket.socket] | None = None):
        self.directory = directory
        self.keeps = keeps
        self.said: list[str] = []
        self.stored: dict[str, int] = {}
        self.sockets = sockets or {}
        self.process: subprocess.Popen[bytes] | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(directory / "manager.sock"))
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(65536, socket.CMSG_SPACE(16 * 4))
            fds = array("i")
            for level, kind, payload in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.frombytes(payload)
            lines = data.decode().splitlines()
            self._heed(dict(line.partition("=")[::2] for line in lines), list(fds))
            self.said += lines
            if "END=1" in lines:
                return

    def _heed(self, message: dict[str, str], fds: list[int]) -> None:
        name = message.get("FDNAME", "stored")
        if "FDSTOREREMOVE" in message and name in self.stored:
            os.close(self.stored.pop(name))
        for fd in fds:
            if "FDSTORE" in message and self.keeps and name not in self.stored:
                self.stored[name] = fd
            else:
                os.close(fd)

    def start(self, environ: dict[str, str]) -> None:
        """Start the daemon, with what is stored and what it is activated with."""
        names = [*self.sockets, *self.stored]
        fds = [*(sock.fileno() for sock in self.sockets.values()), *self.stored.values()]
        moves = "".join(f"exec {FIRST + i}<&{100 + i} {100 + i}<&-; " for i in range(len(fds)))
        high = [os.dup2(fd, 100 + i) for i, fd in enumerate(fds)]
        command = f'{moves}export LISTEN_PID=$$; exec "$@"'
        env = {k: v for k, v in os.environ.items() if not k.startswith("PROCMAN")}
        env |= {
            "NOTIFY_SOCKET": str(self.directory / "manager.sock"),
            "LISTEN_FDS": str(len(fds)),
            "LISTEN_FDNAMES": ":".join(names),
            "PM_TEST_DIR": str(self.directory),
            **environ,
        }
        self.said.clear()
        with open(self.directory / "procmand.log", "ab") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", command, "bash", program("procmand"), "-c", str(self.directory / "procman.toml")],
                env=env,
                stderr=log,
                pass_fds=high,
                cwd=self.directory,
            )
        for fd in high:
            os.close(fd)

    def wait_ready(self) -> None:
        wait_until(lambda: "READY=1" in self.said or self.process.poll() is not None, "the daemon to be ready")
        assert self.process.poll() is None, (self.directory / "procmand.log").read_text()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(PATIENCE)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"END=1", str(self.directory / "manager.sock"))
        self._thread.join()
        self._socket.close()
        for fd in self.stored.values():
            os.close(fd)
