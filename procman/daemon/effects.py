"""Gives each effect of the core to whoever performs it, and tells people and programs what is to be told.

It knows who that is and nothing else: not when, not why, not what comes of it.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING

from procman.core import effect as do
from procman.core import event as ev
from procman.core.spec import Kind
from procman.daemon.looking import with_cpu_of_unit

if TYPE_CHECKING:
    from procman.core.effect import Effect
    from procman.daemon.main import Daemon

log = logging.getLogger("procman.arbiter")

LEVELS = {
    do.Level.DEBUG: logging.DEBUG,
    do.Level.INFO: logging.INFO,
    do.Level.WARNING: logging.WARNING,
    do.Level.ERROR: logging.ERROR,
    do.Level.CRITICAL: logging.CRITICAL,
}


class Effects:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def perform(self, effect: Effect) -> None:
        match effect:
            case do.Report():
                self.report(effect)
            case do.Concluded():
                self._daemon.commands.concluded(effect)
                self._close_unwanted_listeners()
            case do.Forget(pool):
                self._daemon.gauge.forget(pool)
                self._close_unwanted_listeners()
            case do.Serving():
                self._on_serving()
            case do.Leave(status):
                self._daemon.leave(status)
            case _:
                self._perform_on_child(effect)

    def _perform_on_child(self, effect: Effect) -> None:
        children, evidence = self._daemon.children, self._daemon.evidence
        match effect:
            case do.StartTemplate():
                children.start_template(effect)
            case do.StopTemplate(pool, generation, wants_evidence):
                (evidence.of_template if wants_evidence else children.stop_template)(pool, generation)
            case do.Spawn():
                children.spawn(effect)
            case do.Retire():
                children.retire(effect)
            case do.Interrupt(worker, reason):
                children.interrupt(worker, reason)
            case do.Kill(worker):
                evidence.of_command(worker)
                children.kill(worker)
            case do.Dump(worker, reason):
                evidence.of_worker(worker, reason)
            case do.Ping(worker):
                children.ping(worker)
            case do.Adjust():
                children.adjust(effect)
            case _:
                self._perform_for_pool(effect)

    def _perform_for_pool(self, effect: Effect) -> None:
        match effect:
            case do.Look(pool, workers):
                self._look(pool, workers)
            case do.Measure(pool):
                sockets = self._daemon.listeners.sockets(self._daemon.arbiter.pools[pool].spec)
                self._daemon.emit(ev.Measured(pool, self._daemon.gauge.measure(effect, sockets)))
            case do.RunHook():
                self._daemon.errands.run_hook(effect)
            case do.EndHook(number):
                self._daemon.errands.end_hook(number)
            case do.Ask(worker):
                self._daemon.errands.ask(worker)

    def _look(self, pool: str, workers: tuple[int, ...]) -> None:
        now, known, board = monotonic(), self._daemon.children.workers, self._daemon.board
        processes = [process for worker in workers if (process := known.get(worker)) is not None]
        samples = [
            (process.id, with_cpu_of_unit(process, board.read(process.record), now))
            for process in processes
            if process.record is not None
        ]
        self._daemon.emit(ev.Sampled(pool, tuple(samples)))

    def report(self, report: do.Report) -> None:
        """Tell people, by the log, and programs, by an event."""
        log.log(
            LEVELS[report.level],
            "%s",
            report.text,
            extra={"event": report.event, "pool": report.pool, "worker": report.worker, "reason": report.reason},
        )
        self._daemon.publisher.publish(
            report.event,
            pool=report.pool,
            slot=report.worker,
            gen=report.generation,
            pid=report.pid,
            reason=report.reason,
            **report.details,
        )
        if report.event == "exited":
            self._daemon.runners.ended(report)
            self._daemon.commands.exited()
            if self._is_cron(report.pool):
                self._daemon.evidence.exited(report)
        elif report.event == "ready":
            self._daemon.evidence.ready(report)

    def _is_cron(self, name: str | None) -> bool:
        pool = self._daemon.arbiter.pools.get(name or "")
        return pool is not None and pool.spec.kind is Kind.CRON

    def _close_unwanted_listeners(self) -> None:
        """After a reload: those of what has been replaced, or, if it was rejected, of what never came to be."""
        self._daemon.listeners.close_unwanted(
            spec for pool in self._daemon.arbiter.pools.values() for spec in pool.specs()
        )

    def _on_serving(self) -> None:
        for pool in self._daemon.spec.pools:
            for address in self._daemon.listens(pool.name):
                log.info("Pool %s listens on %s", pool.name, address)
        self._daemon.herald.serving()
