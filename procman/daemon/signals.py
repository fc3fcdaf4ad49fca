"""The signals of the daemon: noted when they come, heeded in the loop's turn. docs/signals.md says what each means.

A handler does nothing but note; so whatever a signal asks for happens between two turns, and never within one.
"""

from __future__ import annotations

import logging
import signal
import socket
from collections import deque
from typing import TYPE_CHECKING

from procman.config.rules import is_dashboard
from procman.core import event as ev
from procman.core.spec import Kind
from procman.daemon.caches import log_caches
from procman.unix.process import has_terminal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from procman.core.pool import Pool
    from procman.daemon.loop import Loop
    from procman.daemon.main import Daemon

log = logging.getLogger("procman.arbiter")

SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGCHLD,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGALRM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
    signal.SIGWINCH,
)


class Signals:
    def __init__(self, daemon: Daemon, loop: Loop) -> None:
        self._daemon = daemon
        self._loop = loop
        self._noted: deque[int] = deque()

    def catch(self, noted: Sequence[int] = ()) -> None:
        """From now on note them, and wake the loop; ``noted`` have come before, to another image of the daemon."""
        self._noted.extend(noted)
        self._wake_reader, self._wake_writer = socket.socketpair()
        for end in (self._wake_reader, self._wake_writer):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake_writer.fileno(), warn_on_full_buffer=False)
        self._loop.add_reader(self._wake_reader.fileno(), self._drain_wakeup)
        for signum in SIGNALS:
            signal.signal(signum, self._note)

    def close(self) -> None:
        """Wake the loop no more."""
        signal.set_wakeup_fd(-1)

    def pending(self) -> tuple[int, ...]:
        """Those that have come and were not heeded yet."""
        return tuple(self._noted)

    def told_to_stop(self) -> bool:
        """One of those that wait to be heeded will stop the daemon."""
        return signal.SIGINT in self._noted or signal.SIGTERM in self._noted

    def heed(self) -> None:
        """Do what those that have come ask for."""
        while self._noted:
            self._on_signal(self._noted.popleft())

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if signum not in self._noted:
            self._noted.append(signum)

    def _drain_wakeup(self) -> None:
        try:
            while self._wake_reader.recv(512):
                pass
        except BlockingIOError:
            pass

    def _on_signal(self, signum: int) -> None:
        match signum:
            case signal.SIGCHLD:
                self._daemon.children.reaper.reap()
            case signal.SIGINT | signal.SIGTERM:
                self._shut_down(signum)
            case signal.SIGHUP:
                self._hang_up()
            case signal.SIGQUIT:
                self._dump_all()
            case signal.SIGUSR1:
                self._daemon.caches.ask(list(self._daemon.children.workers.values()), log_caches)
            case signal.SIGWINCH:
                self._drain_machine()
            case signal.SIGXCPU:
                log.warning("SIGXCPU: the daemon has reached a limit of its own CPU time, and goes on")
            case signal.SIGUSR2:
                self._upgrade()
            case signal.SIGTTIN | signal.SIGTTOU:
                self._scale_http(1 if signum == signal.SIGTTIN else -1)
            case _:
                log.warning("%s means nothing to this version, and is survived", signal.Signals(signum).name)

    def _shut_down(self, signum: int) -> None:
        if self._daemon.arbiter.stopping:
            log.warning("%s again: stopping now", signal.Signals(signum).name)
            self._daemon.emit(ev.ShutdownAsked(ev.Haste.NOW))
            return
        self._daemon.emit(ev.ShutdownAsked(ev.Haste.GRACEFUL if signum == signal.SIGINT else ev.Haste.BOUNDED))

    def _hang_up(self) -> None:
        problem = self._daemon.reload_configuration(None, code=True)
        if problem:
            log.error("The configuration is wrong, nothing was changed:\n%s", problem)

    def _upgrade(self) -> None:
        problem = "the daemon is stopping" if self._daemon.arbiter.stopping else self._daemon.upgrade.begin(None)
        if problem:
            log.error("No upgrade: %s", problem)

    def _dump_all(self) -> None:
        for worker in list(self._daemon.children.workers.values()):
            self._daemon.dumper.dump(
                worker, lambda stacks: log.info("Stacks, as asked by SIGQUIT:\n%s", stacks.describe())
            )

    def _drain_machine(self) -> None:
        """Have the workers of all http pools finish what they do and go, until `start` brings them back."""
        if has_terminal():
            log.debug("SIGWINCH ignored: the daemon has a terminal, which sends it whenever its size changes")
            return
        names = tuple(pool.name for pool in self._http_pools())
        log.info("SIGWINCH: all http workers retire; `procmanctl start` brings them back")
        self._daemon.emit(ev.StopAsked(self._daemon.commands.begin("stop", names, None), names))

    def _scale_http(self, by: int) -> None:
        for pool in self._http_pools():
            wanted = max(0, min(pool.target + by, self._daemon.room_for(pool.name)))
            operation = self._daemon.commands.begin("scale", (pool.name,), None)
            self._daemon.emit(ev.ScaleAsked(operation, pool.name, wanted))

    def _http_pools(self) -> list[Pool]:
        """Those of the applications."""
        pools = self._daemon.arbiter.pools.values()
        return [
            pool for pool in pools if pool.spec.kind is Kind.HTTP and not is_dashboard(pool.spec, self._daemon.spec)
        ]
