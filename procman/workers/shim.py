"""Becomes the command of an ``exec`` pool: takes on the pool's policy, then replaces itself by the command.

The command keeps this process's pid, leads its own session, and is told to stop when the daemon dies. The channel
closes by itself when the command is executed: that is how the arbiter learns that it runs.

This is part of the nursery, which has to stay small: nothing is imported here that it does not need.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

from procman.core.command import LOG, MARK, in_slot
from procman.unix.process import await_adoption, die_with_parent, limit_descriptors
from procman.workers import policy

if TYPE_CHECKING:
    # A `procman.core.lifecycle.Boot` as it came, and its descriptors, of which the first is the channel.
    Order = tuple[bytes, list[int]]

COMMAND_NOT_RUN = 127  # as a shell says it
MOST_SHOWN = 1000  # characters of a command in a message that it can't be executed
FIRST_PASSED = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)
OUT_OF_THE_WAY = 64  # no descriptor below this one is used by what is only needed until the command is executed

_SOCKET = re.compile(r"\$\{fd:([^}]*)\}")


def main(order: Order, between: int) -> NoReturn:
    """Execute the command, or tell the arbiter why not. ``between`` has forked this process, and is about to end."""
    try:
        data, fds = order
        # It may stand where a socket of the command is going to be.
        channel = socket.socket(fileno=fcntl.fcntl(fds[0], fcntl.F_DUPFD_CLOEXEC, OUT_OF_THE_WAY))
        os.close(fds[0])
        if not tell(channel, {"is": "Forked", "pid": os.getpid()}):
            os._exit(0)
        try:
            _become(json.loads(data, object_hook=_object), channel, fds[1:], between)
        except Exception as error:  # whatever it is, nobody else would ever hear of it
            tell(channel, {"is": "Failed", "traceback": f"{_shown(data)}: {type(error).__name__}: {error}"})
    finally:
        os._exit(COMMAND_NOT_RUN)  # whatever happened: nothing here may run what the nursery goes on with


def _become(message: Any, channel: socket.socket, fds: list[int], between: int) -> None:
    """``message`` is a `Boot`, by the names of its fields; what is an enum or a tuple there is text or a list here."""
    pool, seat = message.pool, message.seat
    names = [name for name, _ in pool.work.sockets]
    sockets, output = fds[: len(names)], fds[len(names) :]
    if message.open_files:
        limit_descriptors(message.open_files)
    policy.redirect(pool, slot=seat.slot, log_fd=output[0] if LOG in (pool.stdout, pool.stderr) else None)
    for warning in policy.adopt(pool):
        _warn(message, warning)
    await_adoption(between)
    # After a change of credentials, which clears it (prctl(2), PR_SET_PDEATHSIG).
    die_with_parent(signal.Signals[f"SIG{pool.stop_signal}"], message.arbiter)
    if ended(channel):
        os._exit(0)  # the daemon died before we asked who our parent was
    os.environ.update(pool.env)
    if message.notify:
        os.environ["NOTIFY_SOCKET"] = message.notify
    os.environ[MARK] = seat.mark
    if seat.name:
        os.environ["PROCMAN_WORKER"] = seat.name
    command = _command(pool.work.command, names, seat.slot)
    pass_sockets(names, sockets)
    os.execvp(command[0], command)


def _command(command: list[str], sockets: list[str], slot: int) -> list[str]:
    """The program and its arguments, with the number of the slot and those of the sockets in them."""
    numbers = {name: str(FIRST_PASSED + index) for index, name in enumerate(sockets)}
    return [_SOCKET.sub(lambda match: numbers.get(match[1], match[0]), in_slot(one, slot)) for one in command]


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


def refuse(order: Order, error: OSError) -> None:
    """Tell the arbiter that there can be no process for this order; its descriptors are closed."""
    _, fds = order
    for fd in fds[1:]:
        os.close(fd)
    with socket.socket(fileno=fds[0]) as channel:
        tell(channel, {"is": "Failed", "traceback": f"cannot fork: {error}"})


def tell(channel: socket.socket, message: dict[str, object]) -> bool:
    """Send a message in the form of `procman.core.codec`; False when the arbiter is not there any more."""
    try:
        channel.send(json.dumps(message).encode(), socket.MSG_NOSIGNAL)
    except OSError:
        return False
    return True


def ended(channel: socket.socket) -> bool:
    """Whether the arbiter has closed its end."""
    try:
        return not channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _object(fields: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(**fields)


def _warn(message: Any, warning: str) -> None:
    # Imported late: hardly any command needs it, and the nursery none at all.
    import logging

    from procman.observe import logs

    logs.configure(message.log_format, pool=message.pool.name, worker=message.seat.name)
    logging.getLogger("procman.worker").warning("%s", warning)


def _shown(data: bytes) -> str:
    import shlex  # late, for the same reason

    return shlex.join(json.loads(data)["pool"]["work"]["command"])[:MOST_SHOWN]
