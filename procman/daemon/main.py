"""The daemon: one thread, one loop. Wait, turn what happened into events, let the arbiter decide, do what it says.

It imports no application and opens no database connection, so that nothing of either can take it down.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

from procman import config
from procman.core import effect as do
from procman.core import event as ev
from procman.core.arbiter import Arbiter
from procman.core.spec import Kind
from procman.daemon import handover, takeover
from procman.daemon.caches import CacheAsker
from procman.daemon.children import Children
from procman.daemon.circus_top import CircusTop
from procman.daemon.commands import Commands
from procman.daemon.confinement import Confinement
from procman.daemon.effects import Effects
from procman.daemon.errands import Errands
from procman.daemon.evidence import Evidence
from procman.daemon.figures import Figures
from procman.daemon.gauge import Gauge
from procman.daemon.herald import Herald
from procman.daemon.listeners import Listeners
from procman.daemon.loop import Loop
from procman.daemon.output import Outputs
from procman.daemon.place import Place
from procman.daemon.questions import Questions
from procman.daemon.reception import Reception
from procman.daemon.runners import Runners
from procman.daemon.signals import Signals
from procman.daemon.stacks import StackDumper
from procman.daemon.store import Store
from procman.daemon.upgrade import Upgrade
from procman.errors import AddressError, ConfigurationError
from procman.observe import logs
from procman.unix import image
from procman.unix.backlog import waiting
from procman.unix.process import become_subreaper, keep_descriptors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from procman.control.door import Kept
    from procman.control.publisher import Publisher
    from procman.control.server import Call
    from procman.core.effect import Effect
    from procman.core.event import Event
    from procman.core.spec import DaemonSpec
    from procman.daemon.handover import Handover, SocketLeft

log = logging.getLogger("procman.arbiter")

SPARE_RECORDS = 64  # for workers beyond the configured number: surges, those still draining, scaling
MOST_RECORDS_PER_WORKER = 3
ORPHANS_PATIENCE = 10.0  # seconds to wait for addresses that workers of a killed daemon still hold
FIXED = (
    "control",
    "control_read_only",
    "events",
    "read_only_group",
    "dashboard_user",
    "state_dir",
    "log_format",
    "database",
)  # what only a restart can change
ERRANDS_PATIENCE = 1.0  # seconds for killed probes to be gone, in the end
SHUTDOWN_LINGER = 1.0  # seconds for the last answers on the control socket to leave


class Daemon:
    """Everything the loop works with. `run` is its life."""

    def __init__(self, spec: DaemonSpec, place: Place, found: Handover | None = None) -> None:
        self._confinement = Confinement()
        self.spec = spec = self._confinement.settle(spec)
        self.arbiter = Arbiter(spec.pools) if found is None else found.arbiter
        self.place = place
        self.started = monotonic() if found is None else found.daemon.started
        self._found = found
        self._events: deque[Event] = deque()
        self._leave: int | None = None
        self._loop = Loop()
        logs.keep_backlog(self._loop.when_writable)
        self.herald = Herald(self._loop)
        records = SPARE_RECORDS + MOST_RECORDS_PER_WORKER * sum(pool.most_workers for pool in spec.pools)
        self.board = place.make_scoreboard(records) if found is None else takeover.board(found, place.scoreboard)
        self.store = Store(self.herald.notifier, os.environ, active=None if found is None else found.daemon.stored)
        self.listeners = Listeners(self.store)
        self.outputs = Outputs(self._loop)
        self.children = Children(
            spec, self._loop, self.board, self.listeners, self.outputs, self._confinement, self.emit
        )
        self.errands = Errands(self._loop, self.children, self.outputs, self.emit)
        self.gauge = Gauge(self.children, self.board)
        self.figures = Figures(self.children, self.board, self.started, self._backlog)
        self.caches = CacheAsker(self._loop, self.children)
        self.questions = Questions(self._loop, self.children)
        self.runners = Runners(self.arbiter, self.children)
        self.dumper = StackDumper(self._loop, self.children, self.board)
        self.evidence = Evidence(self.dumper, self.children, lambda: self.publisher, self.emit)
        self.commands = Commands(self)
        self.signals = Signals(self, self._loop)
        self.effects = Effects(self)
        self.upgrade = Upgrade(self, self._loop)
        self._circus_top = CircusTop(self, self._loop)

    # -- life ---------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Supervise until told to stop; the exit status. Raises AddressError before anything was started."""
        become_subreaper()
        keep_descriptors()
        self.children.prepare()
        try:
            if self._found is None:
                self.signals.catch()
                self.listeners.open(self.spec.pools, patience=ORPHANS_PATIENCE, unless=self.signals.told_to_stop)
                self.listeners.forget_rest()
                self.reception = Reception(self.spec, self._loop)
                log.info("procmand %d starts %d pools from %s", os.getpid(), len(self.spec.pools), self.spec.source)
                self.emit(ev.Begin())
            while self._leave is None:
                self._turn()
            for call in self.reception.receive():  # what came in the last turn
                self.commands.handle(call)
            self.commands.leaving()
            log.info("procmand %d leaves with status %d", os.getpid(), self._leave)
            return self._leave
        finally:
            self._close()

    def take_over(self, found: Handover) -> None:
        """Go on where the image of this daemon before this one was. Whatever this raises, nothing is lost yet."""
        self.signals.catch(found.daemon.signals)
        takeover.adopt_processes(self, found)
        self.commands.adopt(found.daemon.commands)
        self.connect(found.daemon.control, found.daemon.sequence, found.daemon.events)
        takeover.go_on(self, found)
        image.let_signals_through()

    def connect(self, inherited: Sequence[Kept], sequence: int, events: Sequence[str]) -> None:
        """Be there again for clients, with these sockets, and with events from this number on."""
        self.reception = Reception(self.spec, self._loop, inherited)
        self.publisher.go_on(sequence, events)

    def _turn(self) -> None:
        self.work_off_events()
        if self._leave is not None:
            return
        if self.upgrade.due:
            self.upgrade.hand_over()
        deadline = self.arbiter.deadline()
        self._loop.turn(0.0 if self.reception.pending() or self.signals.pending() else deadline)
        for call in self.reception.receive():
            self.commands.handle(call)
        self._circus_top.attend()
        self.signals.heed()
        if deadline is not None and monotonic() >= deadline:
            self.emit(ev.Tick())
        self.herald.after_turn()

    def _close(self) -> None:
        self.signals.close()
        self.listeners.close_unwanted(())
        self._end_errands()
        self.children.close()
        self.outputs.close()
        if hasattr(self, "reception"):
            self.reception.close(SHUTDOWN_LINGER)
        self.herald.close()
        logs.keep_backlog(None)
        self._loop.close()

    def _end_errands(self) -> None:
        """Probes of workers that are gone; nothing of them, and of what they have started, is to be left."""
        self.errands.close()
        deadline = monotonic() + ERRANDS_PATIENCE
        while self.children.running_errands and monotonic() < deadline:
            self._loop.turn(deadline)

    def leave(self, status: int) -> None:
        """End with this exit status, after this turn."""
        self._leave = status

    @property
    def publisher(self) -> Publisher:
        """Where events go."""
        return self.reception.publisher

    def emit(self, event: Event) -> None:
        """Something has happened: the arbiter hears of it when the callbacks of this turn are through."""
        self._events.append(event)

    def work_off_events(self) -> None:
        """Let the arbiter decide about all that has happened, and perform what it wants done."""
        busy = bool(self._events)
        while self._events:
            effects = self.arbiter.handle(self._events.popleft(), monotonic())
            # Whoever has ended is replaced first, and told of then: a log may be slow.
            for effect in sorted(effects, key=_not_spawn):
                self.effects.perform(effect)
        if busy:
            self.runners.update()
            self.herald.update(self._describe(), reloading=self.commands.reloading)
            if self.arbiter.stopping:
                self.herald.stopping()
                self.listeners.stop()
                # A client is better told at once that nobody will answer than after the last pool has stopped.
                self.listeners.close_unwanted(p.spec for p in self.arbiter.pools.values() if not p.empty)

    def _describe(self) -> str:
        pools = self.arbiter.pools.values()
        return ", ".join(f"{pool.name} {pool.ready}/{pool.target}" for pool in pools)

    def _backlog(self, pool: str) -> int | None:
        """Connections that wait for a worker of the pool; None where nobody listens, or the kernel does not tell."""
        try:
            sockets = self.listeners.sockets(self.arbiter.pools[pool].spec)
            return sum(map(waiting, sockets)) if sockets else None
        except (KeyError, OSError):
            return None

    # -- for the commands ---------------------------------------------------------------------------------

    def listens(self, name: str) -> list[str]:
        """Where a pool listens."""
        return self.listeners.describe(self.arbiter.pools[name].spec)

    def listening_fds(self, name: str) -> list[int]:
        """The sockets on which a pool listens."""
        return self.listeners.fds(self.arbiter.pools[name].spec)

    def room_for(self, name: str) -> int:
        """How many workers a pool can have, so that a reload still finds room on the scoreboard."""
        if self.arbiter.pools[name].spec.kind is Kind.POSTGRES:
            return 1  # two would get into each other's way
        others = [pool for pool in self.arbiter.pools.values() if pool.name != name]
        taken = MOST_RECORDS_PER_WORKER * sum(max(pool.target, pool.spec.most_workers) for pool in others)
        return max(1, (self.board.size - taken) // MOST_RECORDS_PER_WORKER)

    def reload_configuration(self, call: Call | None, *, code: bool) -> str:
        """Read the file again and apply the difference; what is wrong with it.

        When there is none, and it may be about ``code``, every pool is reloaded. A file that is wrong, or that wants an
        address which can't be had, changes nothing.
        """
        # Whatever is still to be done concerns the sockets there are now; then the new ones are opened and taken over
        # in one go, or something in between would close them, because no pool wants them yet.
        self.work_off_events()
        try:
            spec = self._confinement.settle(config.read(self.spec.source, os.environ))
            self.listeners.open(spec.pools)
        except (ConfigurationError, AddressError) as error:
            return str(error)
        for fixed in FIXED:
            if getattr(spec, fixed) != getattr(self.spec, fixed):
                log.warning("%s has changed in %s: that takes a restart of the daemon", fixed, spec.source)
        # What needs a restart stays as it is, and is told again the next time.
        self.spec = replace(self.spec, pools=spec.pools, stop_timeout=spec.stop_timeout, auth=spec.auth)
        self.reception.allow(spec)
        before = {pool.name: pool.spec for pool in self.arbiter.pools.values() if not pool.removed}
        same = before == {pool.name: pool for pool in spec.pools}
        operation = self.commands.begin("reload", tuple(pool.name for pool in spec.pools), call)
        self.herald.update(self._describe(), reloading=True)
        # A file that says what it said before was not read for its own sake: there is new code.
        self.emit(ev.Configured(spec.pools, operation, unchanged=same and code))
        self.work_off_events()
        return ""


def _not_spawn(effect: Effect) -> bool:
    return not isinstance(effect, do.Spawn)


def run(spec: DaemonSpec, sockets: Sequence[SocketLeft] = ()) -> int:
    """Run the daemon with this configuration until it is told to stop; the exit status for the process.

    ``sockets`` listen already.
    """
    logs.configure(spec.log_format, pool="-", worker="arbiter")
    try:
        with Place(spec.state_dir) as place:
            daemon = Daemon(spec, place)
            for left in sockets:
                daemon.listeners.adopt(left.pool, left.address, left.fd)
            return daemon.run()
    except AddressError as error:
        print(f"procmand: {error}", file=sys.stderr)
        return 1


def go_on(remains: int) -> int:
    """Be the next image of a daemon that has left this descriptor; the exit status, as of `run`.

    If that can't be done, executes itself once more, to start anew with the sockets that the one before has left.
    """
    environ = dict(os.environ)  # as the service manager has it; a daemon takes out what is for it alone
    data = image.read_memory(remains)
    try:
        found = handover.understand(data)
        logs.configure(found.daemon.spec.log_format, pool="-", worker="arbiter")
        place = Place.inherited(found.daemon.spec.state_dir, found.daemon.lock)
        daemon = Daemon(found.daemon.spec, place, found)
        daemon.take_over(found)
    except Exception:
        # The boundary "upgrade": whatever is wrong with this version, the service is not to end for it.
        log.exception("procmand %d can't go on where it was: it starts anew, with the sockets there are", os.getpid())
        sockets = [left.fd for left in handover.sockets_of(data)]
        image.become(image.command(), environ, remains, sockets, purpose=image.SALVAGE)
    os.close(remains)
    with place:
        return daemon.run()
