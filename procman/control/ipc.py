"""``ipc://`` endpoints: where they are on disk, who listens there, and how to listen without a window.

The listening socket is made here and handed to ZeroMQ (ZMQ_USE_FD). libzmq's own bind removes whatever file is in the
way, also the socket of a daemon that lives, creates its file by the umask of the whole process, and unlinks it from
another thread some time after the socket was closed, when it may already be the successor's.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from dataclasses import dataclass

from procman.errors import AddressError

MOST_PATH = 107  # sun_path has 108 bytes with the closing NUL (unix(7))
BACKLOG = 128


def path_of(endpoint: str) -> str:
    """The path of an ``ipc://`` endpoint. Raises AddressError for every other one."""
    if not endpoint.startswith("ipc://"):
        raise AddressError(f"{endpoint}: expected an endpoint such as ipc:///run/procman/control.sock")
    path = endpoint.removeprefix("ipc://")
    # @ is an abstract socket: no file, so no file mode, and everybody in the network namespace could connect.
    if not path or path[0] in "@*" or "\0" in path:
        raise AddressError(f"{endpoint}: expected the path of a socket")
    if len(os.fsencode(path)) > MOST_PATH:
        raise AddressError(f"{endpoint}: the path is longer than {MOST_PATH} bytes, the most for a unix socket")
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A listening unix socket and which file is its own. ``fd`` stays ours: ZeroMQ closes the copy that it is given.

    So an upgrade can leave the socket to the next image, and who connects meanwhile waits in its queue.
    """

    path: str
    fd: int
    device: int
    inode: int

    def close(self) -> None:
        """Listen no more, and remove the file, unless it has been replaced by somebody else's or is gone."""
        os.close(self.fd)
        try:
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == (self.device, self.inode):
                os.unlink(self.path)
        except FileNotFoundError:
            pass


def listen(endpoint: str, group: int | None = None) -> Listener:
    """Listen at an ``ipc://`` endpoint: the socket is 0600; its directory is made 0700 if there is none.

    With a ``group`` (its number) they are 0660 and 0750, and the group's.

    The file of a daemon that has died is replaced. Raises AddressError when somebody listens there, when something
    else is in the way, or when anybody at all may put files into the directory.
    """
    path = path_of(endpoint)
    try:
        _directory(os.path.dirname(path) or ".", endpoint, group)
        _clear(path, endpoint)
        return _bind(path, group)
    except OSError as error:
        raise AddressError(f"{endpoint}: {error.strerror}") from error


def _bind(path: str, group: int | None) -> Listener:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        # Linux takes the mode of the file that bind makes from the socket's inode (net/unix/af_unix.c, unix_bind):
        # it is never wider than this, not for an instant, and the umask of the process need not be touched.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(path)
        if group is not None:
            # In this order: until it belongs to the group, nobody but us may connect.
            os.chown(path, -1, group, follow_symlinks=False)
            os.chmod(path, 0o660)
        made = os.lstat(path)
        sock.listen(BACKLOG)
        return Listener(path=path, fd=sock.detach(), device=made.st_dev, inode=made.st_ino)


def _directory(directory: str, endpoint: str, group: int | None) -> None:
    if group is not None and not os.path.isdir(directory):
        os.makedirs(directory, mode=0o700)
        os.chown(directory, -1, group)
        os.chmod(directory, 0o750)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    found = os.stat(directory)
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise AddressError(f"{endpoint}: everybody may write to {directory}, and so replace the socket")
    # Below a directory such as /tmp, somebody else may have been there first and made one with our name.
    above = os.stat(os.path.join(directory, ".."))
    if above.st_mode & stat.S_IWOTH and found.st_uid not in (0, os.geteuid()):
        raise AddressError(f"{endpoint}: {directory} belongs to somebody else (uid {found.st_uid})")


def _clear(path: str, endpoint: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise AddressError(f"{endpoint}: there is a file which is no socket")
    try:
        pid = peer(path)
    except (ConnectionRefusedError, FileNotFoundError):
        pass  # the file of a process that is gone
    else:
        raise AddressError(f"{endpoint}: process {pid or '?'} listens there already")
    os.unlink(path)


def peer(path: str) -> int:
    """The pid of the process that listens at ``path``; 0 when it can't be known (it is in another pid namespace).

    Asks the kernel, not the process, so the answer comes at once also from one that hangs. Raises OSError as
    connect(2) does: FileNotFoundError, ConnectionRefusedError when nobody listens any more, PermissionError.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except BlockingIOError:
            return 0  # its backlog is full: it lives, and has not accepted for a while
        # unix(7): the credentials are those of the process that called listen(2).
        pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)
