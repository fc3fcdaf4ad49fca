"""Listening sockets for the addresses of the configuration.

Bound once by the arbiter and inherited by every worker, so that a connection waits in the kernel's queue while
workers come and go. Sockets passed by systemd are taken as sd_listen_fds(3) describes.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import TYPE_CHECKING

from procman.core.spec import PassedSocket, TcpAddress, UnixAddress
from procman.errors import AddressError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from procman.core.spec import Address

# listen(2) cuts it to net.core.somaxconn (4096 since Linux 5.4).
BACKLOG = 2048
_FIRST_PASSED = 3  # SD_LISTEN_FDS_START
_LONGEST_PATH = 107  # unix(7): sun_path has 108 bytes, the last one is 0


def bind(address: Address, backlog: int = BACKLOG, *, mode: int | None = None) -> socket.socket:
    """A socket that listens on ``address``: non-blocking, close-on-exec.

    Port 0 lets the kernel choose. Raises AddressError, whose text names the address, the reason and, if it can
    be found out, the process that is in the way. ``mode``: permissions of the file of a unix socket.
    """
    match address:
        case TcpAddress():
            return _bind_tcp(address, backlog)
        case UnixAddress():
            return _bind_unix(address, backlog, mode)
        case PassedSocket():
            return _take_passed(address, os.environ)


def unbind(address: Address, sock: socket.socket) -> None:
    """Close the socket; the file of a unix socket is removed unless somebody still listens on it."""
    sock.close()
    if isinstance(address, UnixAddress):
        try:
            if _nobody_listens(address.path):
                os.unlink(address.path)
        except OSError:
            pass  # gone already, or not ours to remove: the next bind() tells if it is in the way


# -- TCP -----------------------------------------------------------------------------------------------------


def _bind_tcp(address: TcpAddress, backlog: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise AddressError(f"cannot bind {address}: {error.strerror}") from error
    family, kind, protocol, _, where = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # tcp(7) has accepted sockets inherit it: no response waits for the acknowledgement of the one before.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            # Else "[::]:80" would take the port of "0.0.0.0:80" as well, or be refused after it.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise AddressError(f"cannot bind {address}: {_why_not(error, address.port)}") from error
    sock.setblocking(False)
    return sock


def _why_not(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        holder = _who_listens(port)
        return f"port {port} is in use by {holder}" if holder else f"port {port} is in use"
    if error.errno == errno.EACCES:
        return f"port {port} needs the right to bind ports below 1024 (CAP_NET_BIND_SERVICE)"
    return os.strerror(error.errno or 0).lower()


def _who_listens(port: int) -> str | None:
    """The process that listens on the port, as far as we may know: others' descriptors need privileges."""
    import psutil  # two megabytes, which the daemon need not keep for a message that it hardly ever has to write

    try:
        for connection in psutil.net_connections("tcp"):
            here = connection.laddr
            if connection.status == psutil.CONN_LISTEN and here and here.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except (psutil.Error, OSError):
        pass  # the name only helps; the error itself is told in any case
    return None


# -- unix ----------------------------------------------------------------------------------------------------


def _bind_unix(address: UnixAddress, backlog: int, mode: int | None) -> socket.socket:
    if len(os.fsencode(address.path)) > _LONGEST_PATH:
        raise AddressError(f"cannot bind {address}: the path is longer than {_LONGEST_PATH} bytes")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear_the_way(address)
        # By the mask and not by chmod(2), which comes after the moment in which somebody could connect.
        before = None if mode is None else os.umask(0o777 & ~mode)
        try:
            sock.bind(address.path)
        finally:
            if before is not None:
                os.umask(before)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise AddressError(f"cannot bind {address}: {os.strerror(error.errno or 0).lower()}") from error
    except AddressError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _clear_the_way(address: UnixAddress) -> None:
    """Remove the socket file that a dead process has left; refuse to remove anything else."""
    try:
        mode = os.lstat(address.path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise AddressError(f"cannot bind {address}: there is a file that is not a socket")
    if not _nobody_listens(address.path):
        raise AddressError(f"cannot bind {address}: in use by a running process")
    os.unlink(address.path)


def _nobody_listens(path: str) -> bool:
    """The socket file is stale: unix(7), a connection is refused when no socket listens any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # Non-blocking: a live listener whose queue is full answers EAGAIN instead of letting us wait.
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED


# -- passed by systemd ---------------------------------------------------------------------------------------


def _take_passed(address: PassedSocket, environ: Mapping[str, str]) -> socket.socket:
    numbers = [number for number, name in passed(environ) if name == address.name]
    if not numbers:
        known = ", ".join(sorted({name for _, name in passed(environ)})) or "none"
        raise AddressError(f"{address}: no socket of this name was passed (passed: {known})")
    if len(numbers) > 1:
        raise AddressError(f"{address}: {len(numbers)} sockets have this name; give each its FileDescriptorName=")
    # A copy: the passed descriptor stays for the next time the configuration is read. Neither goes to children.
    os.set_inheritable(numbers[0], False)
    copy = os.dup(numbers[0])
    try:
        sock = socket.socket(fileno=copy)
    except OSError as error:  # not a socket at all
        os.close(copy)
        raise AddressError(f"{address}: {os.strerror(error.errno or 0).lower()}") from error
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise AddressError(f"{address}: the socket that was passed does not listen for connections")
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    return sock


def passed(environ: Mapping[str, str]) -> list[tuple[int, str]]:
    """The descriptors that were passed to this process and their names, sd_listen_fds_with_names(3)."""
    try:
        count = int(environ.get("LISTEN_FDS", "0"))
        if int(environ.get("LISTEN_PID", "0")) != os.getpid():
            return []
    except ValueError:
        return []
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    names += ["unknown"] * (count - len(names))
    return [(_FIRST_PASSED + index, names[index] or "unknown") for index in range(count)]
