"""Commands that the daemon runs for a pool and that come to an end: hooks, and probes that are commands.

Each runs as the pool's own processes do, by the same shim, with its output in the log. When it is over, by itself or
by force, so is everything that it has started.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from procman.core import event as ev
from procman.core.command import LOG
from procman.core.lifecycle import Seat
from procman.core.pool import describe_status
from procman.core.spec import ExecWork, Hooks, KillMode, Kind, Probe, ProbeKind
from procman.core.target import target
from procman.daemon.asking import Question
from procman.daemon.processes import Errand

if TYPE_CHECKING:
    from collections.abc import Callable

    from procman.core.effect import RunHook
    from procman.core.event import Event
    from procman.core.spec import PoolSpec
    from procman.daemon.children import Children
    from procman.daemon.loop import Loop
    from procman.daemon.output import Outputs, Stream


@dataclass(eq=False)
class Running:
    """An errand under way; `done` is called once, with why it has failed, or an empty text."""

    errand: Errand
    stream: Stream
    done: Callable[[str], None] | None

    def finish(self, complaint: str) -> None:
        """It is over, as far as anybody waits for it."""
        done, self.done = self.done, None
        if done is not None:
            done(complaint)


class Errands:
    """Performs the effects RunHook, EndHook and Ask."""

    def __init__(self, loop: Loop, children: Children, outputs: Outputs, emit: Callable[[Event], None]) -> None:
        self._loop = loop
        self._children = children
        self._outputs = outputs
        self._emit = emit
        self._hooks: dict[int, Running] = {}
        self._all: set[Running] = set()

    # -- hooks --------------------------------------------------------------------------------------------

    def run_hook(self, effect: RunHook) -> None:
        told: dict[str, object] = {
            "PROCMAN_POOL": effect.spec.name,
            "PROCMAN_HOOK": effect.hook.value,
            "PROCMAN_GENERATION": effect.generation,
            "PROCMAN_SLOT": effect.slot,
            "PROCMAN_PID": effect.pid,
            "PROCMAN_REASON": effect.reason,
        }
        env = tuple((name, str(value)) for name, value in told.items() if value is not None)

        name = f"{effect.worker or effect.spec.name}.{effect.hook}"
        seat = Seat(
            name=effect.worker or "",
            slot=effect.slot or 0,
            generation=effect.generation,
            record=0,
            mark=f"{os.getpid()}.{effect.id}",  # no worker has the number of a hook
        )
        done = self._hook_done(effect.spec.name, effect.id)
        running = self._run(_errand_spec(effect.spec, effect.spec.hooks.command(effect.hook), env), name, seat, done)
        if running is not None:
            self._hooks[effect.id] = running

    def _hook_done(self, pool: str, number: int) -> Callable[[str], None]:
        def done(complaint: str) -> None:
            self._hooks.pop(number, None)
            self._emit(ev.HookEnded(pool, number, complaint, random.random()))

        return done

    def end_hook(self, number: int) -> None:
        running = self._hooks.pop(number, None)
        if running is not None:
            self._kill(running)
            running.finish("killed")

    # -- an upgrade ---------------------------------------------------------------------------------------

    def hooks(self) -> list[tuple[int, Running]]:
        """Those that run, by number, for `adopt_hook`."""
        return list(self._hooks.items())

    def adopt_hook(self, number: int, errand: Errand, stream: Stream) -> None:
        """Go on waiting for a hook that the image of the daemon before this one has run."""
        running = Running(errand, stream, self._hook_done(errand.spec.name, number))
        self._hooks[number] = running
        errand.on_end = lambda status: self._ended(running, status)
        self._children.adopt(errand)

    def end_probes(self) -> None:
        """Kill the probes that run: whoever waits for their answers will not be there any more."""
        hooks = {running.errand for running in self._hooks.values()}
        for errand in self._children.errands - hooks:
            self._children.give_up(errand)

    # -- probes -------------------------------------------------------------------------------------------

    def ask(self, worker_id: int) -> None:
        worker = self._children.workers.get(worker_id)
        if worker is None or not isinstance(worker.spec.work, ExecWork):
            return
        probe = worker.spec.work.ready
        if not isinstance(probe, Probe):
            return

        def answer(complaint: str) -> None:
            self._emit(ev.Probed(worker_id, complaint))

        if probe.kind is not ProbeKind.COMMAND:
            Question(self._loop, target(probe, worker.slot), probe.timeout, answer)
            return
        env = (("PROCMAN_POOL", worker.spec.name), ("PROCMAN_SLOT", str(worker.slot)), ("PROCMAN_PID", str(worker.pid)))
        mark = os.urandom(8).hex()  # `secrets` would load OpenSSL
        seat = Seat(name=worker.name, slot=worker.slot, generation=worker.generation, record=0, mark=mark)
        running = self._run(_errand_spec(worker.spec, probe.target, env), f"{worker.name}.probe", seat, answer)
        if running is not None:
            self._loop.call_later(probe.timeout, lambda: self._too_late(running, probe.timeout))

    def _too_late(self, running: Running, timeout: float) -> None:
        if running.done is not None:
            self._kill(running)
            running.finish(f"no answer within {timeout:g} s")

    # -- running ------------------------------------------------------------------------------------------

    def _run(self, spec: PoolSpec, name: str, seat: Seat, done: Callable[[str], None]) -> Running | None:
        try:
            stream = self._outputs.open(spec.name, name)
        except OSError as error:
            done(f"it can't be run: {error}")
            return None
        errand = Errand(name=name, spec=spec, channel=None, generation=seat.generation, seat=seat)
        errand.output, stream.writer = stream.writer, -1
        running = Running(errand, stream, done)
        self._all.add(running)
        errand.on_end = lambda status: self._ended(running, status)
        self._children.run(errand)
        return running

    def _kill(self, running: Running) -> None:
        self._children.give_up(running.errand)

    def close(self) -> None:
        """Kill all that run; nobody waits for them any more."""
        for running in list(self._all):
            self._kill(running)

    def _ended(self, running: Running, status: int | None) -> None:
        self._all.discard(running)
        running.stream.finish()
        if status == 0:
            running.finish("")
            return
        last = running.errand.failure or running.stream.last
        running.finish(f"{describe_status(status)}, {last}" if last else describe_status(status))


def _errand_spec(spec: PoolSpec, command: tuple[str, ...], env: tuple[tuple[str, str], ...]) -> PoolSpec:
    """The pool as its errand sees it: one command, under the same policy."""
    return replace(
        spec,
        kind=Kind.EXEC,
        work=ExecWork(command=command),
        env=(*spec.env, *env),
        stdout=LOG,
        stderr=LOG,
        stop_signal="KILL",
        kill_mode=KillMode.TREE,
        hooks=Hooks(),
    )
