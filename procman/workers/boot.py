"""How a process that procmand has started becomes a template or a worker."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from procman.core.command import MARK
from procman.core.lifecycle import Boot, Dumped, ToChild, cut
from procman.errors import ChannelClosed
from procman.observe import logs
from procman.observe.scoreboard import Scoreboard
from procman.observe.stacks import format_stacks
from procman.unix.channel import Channel
from procman.unix.process import limit_descriptors
from procman.workers import policy
from procman.workers.application import make_importable
from procman.workers.child import Child

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from procman.core.lifecycle import Seat
    from procman.core.spec import DatabaseSpec, PoolSpec

log = logging.getLogger("procman.worker")

# What a registry is reckoned to take with its caches, as in Odoo.
REGISTRY_SIZE = 15 * 1024 * 1024

BOOT_FAILED = 3  # exit status of a template or worker that could not start


def receive_boot(channel_fd: int) -> tuple[Boot, Channel, list[int]]:
    """The first message of the arbiter. Exits quietly when the arbiter is gone before it has sent it."""
    os.set_inheritable(channel_fd, False)
    channel = Channel.from_fd(channel_fd, ToChild)
    try:
        received = channel.receive(wait=True)
    except ChannelClosed:
        sys.exit(0)
    if received is None or not isinstance(received[0], Boot):
        raise ValueError(f"expected Boot as the first message, got {received!r}")
    if received[0].open_files:
        limit_descriptors(received[0].open_files)
    return received[0], channel, received[1]


def adopt_policy(spec: PoolSpec) -> None:
    """Take on what the pool's configuration says of its processes; raises what `procman.workers.policy.adopt` does."""
    for warning in policy.adopt(spec):
        log.warning("%s", warning)


def redirect(spec: PoolSpec) -> None:
    """Have the pool's standard output and error from now on, for the log as well; raises OSError."""
    policy.redirect(spec)
    logs.follow_stderr()


def executed(channel_fd: int) -> Child:
    """This process as the one worker it was executed to be."""
    boot, channel, fds = receive_boot(channel_fd)
    if boot.seat is None:
        raise ValueError("an executed worker needs a seat")
    logs.configure(boot.log_format, pool=boot.pool.name, worker=boot.seat.name)
    scoreboard, dump_fd, *listener_fds = fds
    show_stacks(dump_fd, channel)
    child = seat_child(boot, boot.seat, channel, Scoreboard(scoreboard), dump_fd, adopt_listeners(listener_fds))
    try:
        redirect(boot.pool)
        adopt_policy(boot.pool)
        settle(child)
    except Exception:  # reported to the arbiter, then fatal
        fail(child)
    return child


def show_stacks(dump_fd: int, channel: Channel) -> None:
    """Show at SIGQUIT what this process is doing, as a worker does: from below, and then by Python."""

    def on_quit(signum: int, frame: FrameType | None) -> None:
        try:
            channel.send(Dumped(text=cut(format_stacks(frame))))
        except ChannelClosed:
            pass  # the arbiter is gone, and with it whoever wanted to know

    signal.signal(signal.SIGQUIT, on_quit)
    faulthandler.register(signal.SIGQUIT, file=dump_fd, all_threads=True, chain=True)


def adopt_listeners(fds: list[int]) -> list[socket.socket]:
    """The listening sockets that came with the boot message."""
    return [socket.socket(fileno=fd) for fd in fds]


def seat_child(
    boot: Boot, seat: Seat, channel: Channel, board: Scoreboard, dump_fd: int, listeners: list[socket.socket]
) -> Child:
    """The view that the worker in this seat has of itself."""
    return Child(
        seat=seat,
        spec=boot.pool,
        channel=channel,
        record=board.writer(seat.record),
        board=board,
        dump_fd=dump_fd,
        listeners=listeners,
        database=boot.database,
        state_dir=boot.state_dir,
        arbiter=boot.arbiter,
        kept=boot.kept,
    )


def settle(child: Child) -> None:
    """Everything between being a process and being a worker."""
    os.environ["PROCMAN_WORKER"] = child.name
    os.environ[MARK] = child.seat.mark
    make_importable(child.spec.working_dir)
    child.settle_in()
    if child.database is not None:
        # Imported late: the long-polling worker has to patch sockets before anything imports them.
        from procman import signaling

        signaling.configure(
            fitting(child.database, child.spec.limits.memory_soft),
            application_name=f"procman {child.name}",
            meter=child.record,
            relaxed=child.spec.relaxed,
            hints=child.state_dir,
        )


def fitting(database: DatabaseSpec, memory_soft: int | None) -> DatabaseSpec:
    """With no more registries than have room below the limit: beyond it the worker would be replaced for them."""
    if memory_soft is None:
        return database
    return replace(database, registries=max(1, min(database.registries, memory_soft // REGISTRY_SIZE)))


def run(child: Child, serve: Callable[[], None]) -> NoReturn:
    """Serve until it is time to go, then exit. A failure is told to the arbiter, with its traceback."""
    try:
        serve()
    except Exception:  # whatever a worker dies of has to reach the arbiter
        fail(child)
    log.debug("Worker %s (%d) leaves: %s", child.name, os.getpid(), child.retiring)
    leave(0)


def fail(child: Child) -> NoReturn:
    """Tell the arbiter what went wrong (being called from an except clause), and exit."""
    child.failed(traceback.format_exc())
    leave(BOOT_FAILED)


def leave(status: int) -> NoReturn:
    """End this process without running what the template's interpreter had registered to run at its exit."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(signum, signal.SIG_IGN)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def freeze() -> None:
    """Before forking: move all there is out of the collector's sight, so that no collection dirties shared pages."""
    gc.collect()
    gc.freeze()
