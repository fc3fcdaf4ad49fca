"""The nursery: the process that the commands of ``exec`` pools are forked from.

A command needs a process that takes on the pool's policy before it is executed, and an interpreter for each of them
would take most of the time there is between the arbiter's decision and the command. So there is one for all: small,
without threads, and having imported what `procman.workers.shim` needs and nothing else. For that reason it reads its
orders as plain JSON; the dataclasses that they are made of would double its size.

Orders come one to a message. Whatever has come is carried out at once: a process in between is forked, which forks the
commands' processes and ends, so that they become children of the arbiter (prctl(2), PR_SET_CHILD_SUBREAPER). They say
so themselves, each over the channel that came with its order. An order that is not carried out, for whatever reason,
shows as the end of its channel.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from array import array
from typing import TYPE_CHECKING, NoReturn

from procman.unix.process import die_with_parent
from procman.workers import shim

if TYPE_CHECKING:
    from procman.workers.shim import Order

MOST_AT_ONCE = 16  # the first of them waits for the last one's fork
MOST_BYTES = 256 * 1024
_ANCILLARY = socket.CMSG_SPACE(64 * array("i").itemsize)


def main(channel_fd: int) -> NoReturn:
    """Carry out orders for as long as the arbiter lives."""
    parent = os.getppid()
    die_with_parent(signal.SIGKILL, parent)
    os.setsid()  # what is typed at the daemon's terminal is meant for the daemon
    for signum in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(signum, signal.SIG_DFL)  # Python's own ways with these are not for commands
    os.set_inheritable(channel_fd, False)
    channel = socket.socket(fileno=channel_fd)
    gc.collect()
    gc.freeze()
    while orders := _receive(channel):
        _carry_out(orders, channel)
    os._exit(0)


def _receive(channel: socket.socket) -> list[Order]:
    """What is to be done now, waiting for the first of it; nothing at the end of the file."""
    orders: list[Order] = []
    flags = socket.MSG_CMSG_CLOEXEC
    while len(orders) < MOST_AT_ONCE:
        try:
            data, ancillary, _, _ = channel.recvmsg(MOST_BYTES, _ANCILLARY, flags)  # recv_fds() forgets the flags
        except OSError:  # the arbiter is gone, or nothing more has come yet
            break
        if not data:
            break
        orders.append((data, _descriptors(ancillary)))
        flags |= socket.MSG_DONTWAIT
    return orders


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _carry_out(orders: list[Order], channel: socket.socket) -> None:
    try:
        between = os.fork()
    except OSError as error:
        for order in orders:
            shim.refuse(order, error)
        return
    if between == 0:
        channel.close()  # it has to end with the nursery, whatever a command's process may wait for
        _fork_each(orders)
    for order in orders:
        _close(order)
    os.waitpid(between, 0)


def _fork_each(orders: list[Order]) -> NoReturn:
    between = os.getpid()
    while orders:
        order = orders.pop(0)
        try:
            if os.fork() == 0:
                for other in orders:
                    _close(other)  # as long as we had it, nobody would see that this command's channel has ended
                shim.main(order, between)
        except OSError as error:
            shim.refuse(order, error)
        else:
            _close(order)
    os._exit(0)


def _close(order: Order) -> None:
    for fd in order[1]:
        os.close(fd)
