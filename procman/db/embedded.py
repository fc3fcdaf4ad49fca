"""The embedded server: a private PostgreSQL cluster that listens on a unix socket and nowhere else.

This module prepares the cluster and knows the command line. It does not run the server: that is the pool
process `procman.workers.postgres`, and the tests' fixture.

Authentication is *trust*, so the socket's directory is the wall: mode 0700, owned by the server's account.
PostgreSQL 18, chapters 18 (server setup) and 19 (configuration).
"""

from __future__ import annotations

import locale
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from procman.db.binaries import Binaries, find_binaries
from procman.db.occupancy import Occupancy
from procman.errors import DatabaseSetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SUPERUSER = "procman"
PORT = 5432  # names the socket file; there is no TCP

_LONGEST_SOCKET_PATH = 107  # sun_path holds 108 bytes with the final NUL (unix(7))
_INITDB_SECONDS = 300.0

_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0777",  # the directory's mode decides
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "client_connection_check_interval": "200ms",  # the query of a killed worker ends soon
    "cluster_name": "procman",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "log_line_prefix": "[%p] ",
    "lc_messages": "C",  # the log is read by a program: procman.workers.postgres
}


@dataclass(frozen=True, slots=True)
class Owner:
    """The account of the server: its files belong to it, and a child calls ``enter`` to become it.

    ``enter`` is None when the present account serves.
    """

    uid: int
    gid: int
    enter: Callable[[], None] | None = None


class Cluster:
    """One data directory and the directory of its socket; absolute paths."""

    def __init__(self, data_dir: str, socket_dir: str, owner: Owner, binaries: Binaries | None = None) -> None:
        self.data_dir = data_dir
        self.socket_dir = socket_dir
        self.owner = owner
        self.binaries = binaries or binaries_for(data_dir)

    @property
    def socket_path(self) -> str:
        return os.path.join(self.socket_dir, f".s.PGSQL.{PORT}")

    def url(self, database: str) -> str:
        """libpq's URI of a database of this cluster."""
        return f"postgresql:///{database}?host={self.socket_dir}&port={PORT}&user={SUPERUSER}"

    def prepare(self, settle: Callable[[], None] | None = None) -> Occupancy:
        """Make the directories and, at the first time, the cluster; end a server an earlier daemon left.

        The returned hold on the data directory is to be kept by the server: it tells the next one when the last
        process of this one has gone. ``settle`` is called in each child of the preparation, after it has become
        the server's account. Raises DatabaseSetupError.
        """
        if len(os.fsencode(self.socket_path)) > _LONGEST_SOCKET_PATH:
            raise DatabaseSetupError(
                f"the path of PostgreSQL's socket is longer than {_LONGEST_SOCKET_PATH} bytes: {self.socket_path}: "
                "choose a shorter state_dir"
            )
        try:
            self._make_socket_dir()
            os.makedirs(os.path.dirname(self.data_dir), exist_ok=True)
            if not os.path.exists(os.path.join(self.data_dir, "PG_VERSION")):
                self._initialise(settle)
            occupancy = Occupancy.take(self.data_dir)
            self._give(self.data_dir)
            occupancy.clear(self.socket_path)
        except OSError as error:
            raise DatabaseSetupError(f"cannot prepare PostgreSQL's directories: {error}") from error
        return occupancy

    def command(self, settings: Mapping[str, str] | None = None) -> list[str]:
        """The server's command line; ``settings`` override procman's own."""
        chosen = {**_SETTINGS, "unix_socket_directories": self.socket_dir, **(settings or {})}
        options = [part for name, value in chosen.items() for part in ("-c", f"{name}={value}")]
        return [self.binaries["postgres"], "-D", self.data_dir, *options]

    @staticmethod
    def environment() -> dict[str, str]:
        """The server's environment: nothing of ours, for PGPORT or PGDATA would change what it does."""
        kept = {name: os.environ[name] for name in ("PATH", "TZ") if name in os.environ}
        return {**kept, "LC_ALL": "C"}

    def _make_socket_dir(self) -> None:
        parent = os.path.dirname(self.socket_dir)
        os.makedirs(parent, exist_ok=True)
        # Below /tmp somebody else may have been faster, and would then own the way to our socket.
        if os.stat(parent).st_uid not in (0, os.geteuid()):
            raise DatabaseSetupError(f"{parent}, where PostgreSQL's socket is to be, belongs to another user")
        os.makedirs(self.socket_dir, mode=0o700, exist_ok=True)
        os.chmod(self.socket_dir, 0o700)
        self._give(self.socket_dir)

    def _initialise(self, settle: Callable[[], None] | None) -> None:
        """Make the cluster beside its place and rename it there, so that a kill never leaves half of one."""
        parent, name = os.path.split(self.data_dir)
        _sweep(parent, f"{name}.new-")
        fresh = tempfile.mkdtemp(prefix=f"{name}.new-", dir=parent)
        occupancy = Occupancy.take(fresh)
        try:
            self._give(fresh)
            self._run_initdb(fresh, settle)
            if os.path.isdir(self.data_dir):
                os.rmdir(self.data_dir)  # fails unless it is empty: then it holds what is not ours
            os.rename(fresh, self.data_dir)
            _sync(parent)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        finally:
            occupancy.release()

    def _run_initdb(self, directory: str, settle: Callable[[], None] | None) -> None:
        def enter() -> None:
            for step in (self.owner.enter, settle):
                if step is not None:
                    step()

        command = [self.binaries["initdb"], "-D", directory, "-U", SUPERUSER, "-E", "UTF8", "--data-checksums"]
        command += ["--auth-local=trust", "--auth-host=reject", "--no-instructions", *_locale(self.binaries.major)]
        ended = subprocess.run(
            command,
            cwd="/",
            env=self.environment(),
            preexec_fn=enter,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_INITDB_SECONDS,
            check=False,
        )
        if ended.returncode != 0:
            raise DatabaseSetupError(f"initdb failed ({ended.returncode}): {_complaints(ended.stdout)}")

    def _give(self, path: str) -> None:
        """Give a directory to the server's account: all of it if it is not the account's already."""
        if os.stat(path).st_uid == self.owner.uid:
            return
        for directory, _, files in os.walk(path):
            os.chown(directory, self.owner.uid, self.owner.gid)
            for file in files:
                os.chown(os.path.join(directory, file), self.owner.uid, self.owner.gid, follow_symlinks=False)


def _complaints(output: str) -> str:
    """What initdb complains of, without its progress; the last line is what `procmanctl status` shows."""
    wrong = [line for line in output.splitlines() if re.search(r"\b(FATAL|PANIC|error|HINT|hint):", line)]
    return "\n".join(wrong) or output.strip()


def binaries_for(data_dir: str) -> Binaries:
    """Server programs that fit the cluster in ``data_dir``, or the best there are if there is none yet."""
    try:
        with open(os.path.join(data_dir, "PG_VERSION"), encoding="ascii") as file:
            return find_binaries(int(file.read()))
    except (FileNotFoundError, NotADirectoryError):
        return find_binaries()
    except PermissionError as error:
        raise DatabaseSetupError(f"the data directory belongs to another user: {error}") from error


def _locale(major: int) -> list[str]:
    # The builtin provider sorts alike on every machine and in every year; the C library's order changes with it.
    if major >= 17:
        return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    except locale.Error:
        return ["--locale=C"]
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    return ["--locale=C", "--lc-ctype=C.UTF-8"]


def _sweep(parent: str, prefix: str) -> None:
    """Remove what a killed initdb left behind, unless one is still at it."""
    for entry in os.scandir(parent):
        if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False) and Occupancy.is_free(entry.path):
            shutil.rmtree(entry.path, ignore_errors=True)


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
