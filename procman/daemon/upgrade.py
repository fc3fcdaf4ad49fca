"""Upgrade in place: the daemon becomes its own next version, and no worker, socket or number is lost by it.

First the rehearsal: the program as it is installed now is started beside this one, checks the configuration, and
restores a copy of this daemon's state. Whatever goes wrong there is an answer to whoever asked, and nothing else has
happened. Then the state is written down as it is by then, and execve(2) does the rest: workers serve on, and what they
and the kernel have to say waits in channels, pidfds and queues for `procman.daemon.takeover`.

Rules: nothing that can fail is left for after the exec; an exec that fails leaves this image as it was; and between the
two no signal, no death and no connection is lost.
"""

from __future__ import annotations

import logging
import os
import signal
from time import monotonic
from typing import TYPE_CHECKING

from procman.core.effect import Level, Report
from procman.core.pool import describe_status
from procman.daemon import handover
from procman.observe import logs
from procman.unix import image, process
from procman.version import __version__

if TYPE_CHECKING:
    from procman.control.server import Call
    from procman.daemon.loop import Loop
    from procman.daemon.main import Daemon

log = logging.getLogger("procman.arbiter")

REHEARSAL = "--rehearse"  # the option of procmand, with the descriptor of the copy
REHEARSAL_FD = 3
PATIENCE = 60.0  # seconds for the rehearsal, which takes less than one
EVIDENCE = 2.0  # seconds to wait for stacks that have been asked for: the next image would have to ask again
LINGER = 0.2  # seconds for the last answers to leave
MOST_OUTPUT = 20_000  # bytes of what a rehearsal said


class Upgrade:
    """At most one at a time. ``due``: the loop is to call `hand_over` at the end of its turn."""

    def __init__(self, daemon: Daemon, loop: Loop) -> None:
        self._daemon = daemon
        self._loop = loop
        self._operation = ""
        self._rehearsal: _Rehearsal | None = None
        self._impatient_at: float | None = None

    def begin(self, call: Call | None) -> str:
        """Start with the rehearsal; why not, if there can be none."""
        if self._operation:
            return f"an upgrade is under way already: {self._operation}"
        self._operation = self._daemon.commands.begin("upgrade", ("arbiter",), call)
        argv = image.command()
        log.info("Upgrade of procmand %d (%s): rehearsing with %s", os.getpid(), __version__, " ".join(argv))
        document, _ = handover.collect(self._daemon, self._operation)
        try:
            self._rehearsal = _Rehearsal(argv, document)
        except OSError as error:
            self._failed(f"the new image can't be started: {argv[0]}: {error.strerror}")
            return ""
        self._daemon.children.reaper.others[self._rehearsal.pid] = self._on_rehearsed
        if self._rehearsal.pidfd is not None:
            self._loop.add_reader(self._rehearsal.pidfd, self._on_rehearsed)
        self._loop.call_later(PATIENCE, self._rehearsal.give_up)
        return ""

    @property
    def due(self) -> bool:
        """The rehearsal went well, and neither stacks nor forks are on their way."""
        if self._impatient_at is None:
            return False
        busy = self._daemon.dumper.busy or self._daemon.children.table.unborn
        return not busy or monotonic() >= self._impatient_at

    def _on_rehearsed(self) -> None:
        rehearsal, self._rehearsal = self._rehearsal, None
        if rehearsal is None or rehearsal.pidfd is None:
            return
        self._loop.remove_reader(rehearsal.pidfd)
        status, said = rehearsal.end()
        del self._daemon.children.reaper.others[rehearsal.pid]
        if status != 0:
            self._failed(f"the new image can't take over ({describe_status(status)})", said)
        elif self._daemon.arbiter.stopping:
            self._failed("the daemon is stopping")
        else:
            log.info("Upgrade of procmand %d: the rehearsal went well: %s", os.getpid(), said.strip())
            self._impatient_at = monotonic() + EVIDENCE
            self._loop.call_at(self._impatient_at, lambda: None)

    def _failed(self, why: str, said: str = "") -> None:
        operation, self._operation, self._impatient_at = self._operation, "", None
        text = f"Upgrade failed, procmand {os.getpid()} goes on as it is: {why}"
        self._daemon.effects.report(Report(event="upgrade_failed", text=f"{text}\n{said}".rstrip(), level=Level.ERROR))
        last = said.strip().rpartition("\n")[2]
        self._daemon.commands.ended(operation, f"{why}: {last}" if last else why, said)

    def hand_over(self) -> None:
        """Become the next image. Returns only if that fails; then everything is as before."""
        self._impatient_at = None
        if self._daemon.arbiter.stopping:
            self._failed("the daemon is stopping")
            return
        self._daemon.effects.report(
            Report(event="upgrading", text=f"procmand {os.getpid()} ({__version__}) executes itself")
        )
        self._daemon.herald.hand_over()
        self._daemon.commands.send_away("the daemon executes itself anew")
        self._daemon.errands.end_probes()
        self._daemon.work_off_events()
        self._daemon.children.part()
        image.hold_signals()
        detached: handover.DaemonLeft | None = None
        try:
            document, left = handover.collect(self._daemon, self._operation)
            remains = image.write_memory("what procmand leaves", document)
            self._daemon.reception.detach(LINGER)
            detached = left
            logs.keep_backlog(None)  # what a slow reader has not taken yet would be lost
            environ = {**os.environ, **self._daemon.herald.environment}
            image.become(image.command(), environ, remains, handover.descriptors(left))
        except OSError as error:
            logs.keep_backlog(self._loop.when_writable)
            image.let_signals_through()
            if detached is not None:
                self._daemon.connect(detached.control, detached.sequence, detached.events)
            self._daemon.herald.taken_over(serving=self._daemon.herald.is_serving, stopping=False)
            self._failed(f"it can't be executed: {error}")


class _Rehearsal:
    """The new image, trying to understand a copy of the state. Raises OSError."""

    def __init__(self, argv: list[str], document: bytes) -> None:
        state = image.write_memory("a copy of procmand's state", document)
        self._output = image.write_memory("what the rehearsal says", b"")
        try:
            self.pid = process.execute(
                [*argv, REHEARSAL, str(REHEARSAL_FD)],
                env=dict(os.environ),
                descriptors={1: self._output, 2: self._output, REHEARSAL_FD: state},
            )
        except OSError:
            os.close(self._output)
            raise
        finally:
            os.close(state)
        self.pidfd: int | None = os.pidfd_open(self.pid)

    def give_up(self) -> None:
        """It has had all the time it gets."""
        if self.pidfd is not None:
            process.send_signal(self.pidfd, signal.SIGKILL)

    def end(self) -> tuple[int, str]:
        """Its exit status, -N for signal N, and what it said."""
        status = process.exit_status(self.pidfd, self.pid)
        said = os.pread(self._output, MOST_OUTPUT, 0).decode("utf-8", "replace")
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None
        os.close(self._output)
        return -1 if status is None else status, said
