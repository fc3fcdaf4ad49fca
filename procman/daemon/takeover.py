"""The other half of an upgrade: this image of the daemon finds what the one before it has left, and goes on.

The workers never noticed. What they said meanwhile waits in their channels, and who has died shows by its pidfd: all
of it is found by the first turn of the loop, as always.

Should the document be beyond understanding, although the rehearsal has understood a copy, then at least the listening
sockets are kept: no connection is refused while the daemon starts as if it were new, and the processes of before are
told to finish what they do and to go.
"""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING

from procman.core import event as ev
from procman.core.effect import Report
from procman.core.lifecycle import FromChild
from procman.core.pool import TemplateState
from procman.core.reason import Reason
from procman.core.worker import State
from procman.daemon import handover
from procman.daemon.processes import Errand, TemplateProcess, WorkerProcess
from procman.observe.scoreboard import Scoreboard
from procman.unix import family
from procman.unix.channel import Channel
from procman.unix.sockets import passed
from procman.version import __version__

if TYPE_CHECKING:
    from procman.daemon.handover import Handover, HookLeft, SocketLeft, TemplateLeft, WorkerLeft
    from procman.daemon.main import Daemon

log = logging.getLogger("procman.arbiter")

RELOADED = "reload"  # the operation that replaces workers of another version


def rehearse(data: bytes) -> str:
    """Restore a copy of a daemon's state as far as this can be done beside that daemon; a word about it.

    Raises `procman.core.handover.Unreadable`.
    """
    found = handover.understand(data)
    found.arbiter.handle(ev.Tick(), found.arbiter.deadline() or 0.0)
    count = len(found.daemon.workers)
    pools = "its pools will be reloaded" if found.foreign else "no pool has to be reloaded"
    return f"procmand {__version__} can take over {count} workers from {found.told_by}, {pools}"


def adopt_processes(daemon: Daemon, found: Handover) -> None:
    """Take up every worker, template and hook, and what they write."""
    children = daemon.children
    for left in found.daemon.sockets:
        daemon.listeners.adopt(left.pool, left.address, left.fd)
    streams = {
        left.reader: daemon.outputs.adopt(left.pool, left.worker, left.reader, left.rest.encode("latin-1"), left.last)
        for left in found.daemon.streams
    }
    for hook in found.daemon.hooks:
        stream = streams.get(hook.reader) or daemon.outputs.adopt("", hook.name, -1, b"", "")
        daemon.errands.adopt_hook(hook.id, _errand(hook, found), stream)
    for worker in found.daemon.workers:
        children.adopt(_worker(worker, found))
    for template in found.daemon.templates:
        children.adopt(_template(template, found))
    if found.daemon.readiness is not None:
        children.launcher.adopt_readiness(found.daemon.readiness)
    if found.daemon.open_files:
        children.launcher.open_files = found.daemon.open_files


def _worker(left: WorkerLeft, found: Handover) -> WorkerProcess:
    spec = found.specs[left.spec]
    return WorkerProcess(
        name=f"{spec.name}.{left.slot}",
        spec=spec,
        channel=_channel(left.channel),
        pid=left.pid,
        pidfd=left.pidfd,
        id=left.id,
        slot=left.slot,
        generation=left.generation,
        record=left.record,
        killed=left.killed,
        relatives=dict(left.relatives),
        dump_fd=left.dump_fd,
    )


def _errand(left: HookLeft, found: Handover) -> Errand:
    return Errand(
        name=left.name,
        spec=found.specs[left.spec],
        channel=_channel(left.channel),
        pid=left.pid,
        pidfd=left.pidfd,
        generation=left.generation,
        relatives=dict(left.relatives),
        seat=left.seat,
        output=-1 if left.output is None else left.output,
        failure=left.failure,
    )


def _template(left: TemplateLeft, found: Handover) -> TemplateProcess:
    spec = found.specs[left.spec]
    return TemplateProcess(
        name=f"{spec.name}@{left.generation}",
        spec=spec,
        channel=_channel(left.channel),
        pid=left.pid,
        pidfd=left.pidfd,
        generation=left.generation,
        dump_fd=left.dump_fd,
        traceback=left.traceback,
    )


def _channel(fd: int | None) -> Channel | None:
    return None if fd is None else Channel.from_fd(fd, FromChild)


def board(found: Handover, path: str) -> Scoreboard:
    """The scoreboard, with what the workers have written.

    Workers of another layout go on writing to theirs, of which this daemon can't read a word; a new one of the same
    size, because their templates number records in the old way.
    """
    if not found.foreign:
        return Scoreboard(found.daemon.board)
    os.close(found.daemon.board)
    return Scoreboard.create(path, found.daemon.records)


def go_on(daemon: Daemon, found: Handover) -> None:
    """All is taken up: look at what has happened meanwhile, and answer who has waited."""
    daemon.herald.taken_over(serving=found.daemon.serving, stopping=daemon.arbiter.stopping)
    text = f"procmand {os.getpid()} goes on as {__version__}, taken over from {found.told_by}"
    daemon.effects.report(Report(event="upgraded", text=text, details={"from": found.told_by, "to": __version__}))
    if found.daemon.operation:
        daemon.commands.ended(found.daemon.operation)
    for pool in daemon.arbiter.pools.values():
        for worker in pool.workers.values():
            if worker.state is State.DUMPING:
                # Whoever was asked has told the image before.
                daemon.evidence.of_worker(worker.id, worker.reason or Reason.KILLED_BY_USER)
            daemon.emit(
                ev.Probed(worker.id, "the daemon was upgraded meanwhile")
            )  # heeded by whom a probe was asked of
        for generation, template in pool.templates.items():
            if template.state is TemplateState.STOPPING:
                daemon.children.stop_template(pool.name, generation)
    daemon.emit(ev.Tick())
    daemon.children.reaper.reap()
    if found.foreign and not daemon.arbiter.stopping:
        names = tuple(daemon.arbiter.pools)
        log.info("The workers are of another version, and are replaced")
        daemon.emit(ev.ReloadAsked(daemon.commands.begin(RELOADED, names, None), names))


# -- when all else fails ----------------------------------------------------------------------------------


def salvage(data: bytes) -> list[SocketLeft]:
    """The listening sockets, for a daemon that starts as if it were new; all else is released, or told to go."""
    sockets = handover.sockets_of(data)
    kept = {left.fd for left in sockets} | {fd for fd, _ in passed(os.environ)}
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and fd not in kept:
            _close(fd)
    for pid in family.children(os.getpid()):
        # Workers finish their unit, commands stop as they do; their channels have ended as well.
        family.signal_descendant(pid, signal.SIGTERM, of=os.getpid())
    return sockets


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass  # the one by which the directory was read
