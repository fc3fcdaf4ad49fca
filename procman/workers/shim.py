"""Becomes the command of an ``exec`` pool: takes on the pool's policy, then replaces itself by the command.

The command keeps this process's pid, leads its own session, and is told to stop when the daemon dies. The channel
closes by itself when the command is executed: that is how the arbiter learns that it runs.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import signal
import socket
import sys
from typing import TYPE_CHECKING, NoReturn

from procman.core.lifecycle import Failed
from procman.core.spec import LOG, ExecWork
from procman.core.target import in_slot
from procman.observe import logs
from procman.unix.process import die_with_parent
from procman.workers import boot

if TYPE_CHECKING:
    from procman.core.lifecycle import Boot, Seat

COMMAND_NOT_RUN = 127  # as a shell says it
FIRST_PASSED = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)
OUT_OF_THE_WAY = 64  # no descriptor below this one is used by what is only needed until the command is executed

_SOCKET = re.compile(r"\$\{fd:([^}]*)\}")


def main(channel_fd: int) -> NoReturn:
    """Execute the command, or tell the arbiter why not."""
    parent = os.getppid()
    # It stands where the first socket of the command is going to be.
    moved = fcntl.fcntl(channel_fd, fcntl.F_DUPFD_CLOEXEC, OUT_OF_THE_WAY)
    os.close(channel_fd)
    message, channel, fds = boot.receive_boot(moved)
    work, seat = message.pool.work, message.seat
    if not isinstance(work, ExecWork) or seat is None:
        raise ValueError(f"not a command: {message!r}")
    logs.configure(message.log_format, pool=message.pool.name, worker=seat.name)
    sockets, output = fds[: len(work.sockets)], fds[len(work.sockets) :]
    try:
        boot.redirect(message.pool, slot=seat.slot, log_fd=output[0] if LOG in _outputs(message) else None)
        boot.adopt_policy(message.pool)
        # After a change of credentials, which clears it (prctl(2), PR_SET_PDEATHSIG).
        die_with_parent(signal.Signals[f"SIG{message.pool.stop_signal}"], parent)
        if channel.ended():
            os._exit(0)  # the daemon died before we asked who our parent was
        if seat.name:
            os.environ["PROCMAN_WORKER"] = seat.name
        command = _command(work, seat)
        pass_sockets([name for name, _ in work.sockets], sockets)
        for signum in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(signum, signal.SIG_DFL)  # Python ignores these, and a command would inherit that
        os.execvp(command[0], command)
    except (OSError, KeyError, ValueError) as error:
        channel.send(Failed(traceback=f"{shlex.join(work.command)}: {type(error).__name__}: {error}"))
        os._exit(COMMAND_NOT_RUN)


def _outputs(message: Boot) -> tuple[str, str]:
    return message.pool.stdout, message.pool.stderr


def _command(work: ExecWork, seat: Seat) -> list[str]:
    """The program and its arguments, with the number of the slot and those of the sockets in them."""
    numbers = {name: str(FIRST_PASSED + index) for index, (name, _) in enumerate(work.sockets)}
    return [
        _SOCKET.sub(lambda match: numbers.get(match[1], match[0]), in_slot(argument, seat.slot))
        for argument in work.command
    ]


def pass_sockets(names: list[str], fds: list[int]) -> None:
    """Put the sockets where sd_listen_fds(3) says, and say so; the next exec hands them on."""
    for name in ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"):
        os.environ.pop(name, None)
    if not names:
        return
    # First out of the way, each of them: one may have the number that another one is to get.
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_PASSED + len(fds)) for fd in fds]
    for number, fd in enumerate(moved, FIRST_PASSED):
        os.dup2(fd, number)
        # The arbiter's, of which this is a duplicate, never accepts: programs expect that accept(2) waits.
        with socket.socket(fileno=os.dup(number)) as sock:
            sock.setblocking(True)
    os.environ["LISTEN_FDS"] = str(len(names))
    os.environ["LISTEN_FDNAMES"] = ":".join(names)
    os.environ["LISTEN_PID"] = str(os.getpid())


if __name__ == "__main__":
    main(int(sys.argv[1]))
