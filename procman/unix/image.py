"""The image of this process, execve(2): which program it would be again, and how to become it without losing anything.

What an exec keeps: the pid, the children and who their parent is, the descriptors that are not close-on-exec, the mask
of blocked signals and those that are pending, PR_SET_CHILD_SUBREAPER, limits, the working directory. What it ends is
every other thread; it is the main thread that must call it, because a child's PR_SET_PDEATHSIG is about the *thread*
that has started it (prctl(2)).
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping, Sequence

# "<pid>:<descriptor>:<purpose>" of what the image before has left. With the pid, as in LISTEN_PID: a child
# that inherits the variable by accident is not meant.
VARIABLE = "PROCMAN_HANDOVER"
GO_ON = "go-on"  # where the image before was
SALVAGE = "salvage"  # only the sockets


def command() -> list[str]:
    """The command line that starts this program anew, as it is installed now.

    A script that says itself which interpreter it wants is run as it was called. So a link in its path, such as that
    of a virtual environment which has been replaced, leads to the new one, with the new one's interpreter.
    """
    if _is_script(sys.argv[0]):
        return list(sys.argv)
    return [sys.executable, *sys.orig_argv[1:]]


def _is_script(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return os.access(path, os.X_OK) and file.read(2) == b"#!"
    except OSError:
        return False


def write_memory(name: str, data: bytes) -> int:
    """A memory file (memfd_create(2)) with these bytes, at its begin, close-on-exec. Raises OSError."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:
        os.close(fd)
        raise
    return fd


def read_memory(fd: int) -> bytes:
    """All that is in a file. Raises OSError."""
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()


def inherited(environ: MutableMapping[str, str]) -> tuple[int, str] | None:
    """What the image before this one has left: a descriptor, and what to do with it. It is told once only.

    None when there was no such image.
    """
    pid, _, rest = environ.pop(VARIABLE, "").partition(":")
    fd, _, purpose = rest.partition(":")
    if pid != str(os.getpid()) or not (fd.isascii() and fd.isdigit()):
        return None
    return int(fd), purpose


def become(
    argv: Sequence[str], environ: Mapping[str, str], remains: int, descriptors: Iterable[int], *, purpose: str = GO_ON
) -> NoReturn:
    """Execute this command in place of the running one, with these descriptors and no others above 2.

    To be called by the only thread there is, with signals blocked by `hold_signals`: what comes meanwhile waits for
    the next image. Raises OSError when the program can't be executed; then nothing has changed.
    """
    kept = [remains, *descriptors]
    try:
        for fd in kept:
            os.set_inheritable(fd, True)
        os.execvpe(argv[0], list(argv), {**environ, VARIABLE: f"{os.getpid()}:{remains}:{purpose}"})
    finally:
        for fd in kept:
            os.set_inheritable(fd, False)


def hold_signals() -> None:
    """Block every signal: it stays pending, also across execve(2), until `let_signals_through`."""
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())


def let_signals_through() -> None:
    """Deliver signals, also those that have come since they were held."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
