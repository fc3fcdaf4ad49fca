"""Becomes the command of an ``exec`` pool: takes on the pool's policy, then replaces itself by the command.

The command keeps this process's pid, leads its own session, and is told to stop when the daemon dies. The channel
closes by itself when the command is executed: that is how the arbiter learns that it runs.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from typing import NoReturn

from procman.core.lifecycle import Failed
from procman.core.spec import ExecWork
from procman.observe import logs
from procman.unix.process import die_with_parent
from procman.workers import boot

COMMAND_NOT_RUN = 127  # as a shell says it


def main(channel_fd: int) -> NoReturn:
    """Execute the command, or tell the arbiter why not."""
    parent = os.getppid()
    message, channel, fds = boot.receive_boot(channel_fd)
    work, seat = message.pool.work, message.seat
    if not isinstance(work, ExecWork) or seat is None:
        raise ValueError(f"not a command: {message!r}")
    logs.configure(message.log_format, pool=message.pool.name, worker=seat.name)
    for fd in fds:
        os.close(fd)
    try:
        boot.adopt_policy(message.pool)
        # After a change of credentials, which clears it (prctl(2), PR_SET_PDEATHSIG).
        die_with_parent(signal.Signals[f"SIG{message.pool.stop_signal}"], parent)
        if channel.ended():
            os._exit(0)  # the daemon died before we asked who our parent was
        os.environ["PROCMAN_WORKER"] = seat.name
        command = [argument.replace("${slot}", str(seat.slot)) for argument in work.command]
        for signum in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(signum, signal.SIG_DFL)  # Python ignores these, and a command would inherit that
        os.execvp(command[0], command)
    except (OSError, KeyError, ValueError) as error:
        channel.send(Failed(traceback=f"{shlex.join(work.command)}: {type(error).__name__}: {error}"))
        os._exit(COMMAND_NOT_RUN)


if __name__ == "__main__":
    main(int(sys.argv[1]))
