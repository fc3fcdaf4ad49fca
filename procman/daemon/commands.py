"""What each command on the control socket does: read figures, or give the arbiter an event and wait for its end.

Those that only read are in `procman.daemon.reading`.
"""

from __future__ import annotations

import json
import logging
import signal
from typing import TYPE_CHECKING, Any

from procman.core import event as ev
from procman.core.effect import Outcome
from procman.daemon import finding
from procman.daemon.handover import CommandsLeft, OperationLeft
from procman.daemon.operations import Operation, Operations
from procman.daemon.reading import Reading
from procman.unix import family

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from procman.control.server import Call
    from procman.core.effect import Concluded
    from procman.core.snapshot import WorkerSnapshot
    from procman.daemon.main import Daemon
    from procman.daemon.stacks import Stacks

log = logging.getLogger("procman.arbiter")

DONE = {"outcome": Outcome.DONE.value}

NOT_WHILE_STOPPING = frozenset({"reload", "reloadconfig", "restart", "scale", "set", "start", "stop", "upgrade"})


class Commands:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._operations = Operations(self._progress)
        self._kills: list[tuple[int, str, str]] = []  # worker id, its name, operation
        self._shutdowns: list[str] = []
        self._handlers: Mapping[str, Callable[[Call], None]] = {
            **Reading(daemon, self._operations).handlers,
            "cachestats": self._cachestats,
            "dumpstacks": self._dumpstacks,
            "kill": self._kill,
            "reload": self._reload,
            "reloadconfig": self._reloadconfig,
            "restart": self._restart,
            "scale": self._scale,
            "set": self._set,
            "shutdown": self._shutdown,
            "signal": self._signal,
            "start": self._start,
            "stop": self._stop,
            "upgrade": self._upgrade,
        }

    def handle(self, call: Call) -> None:
        """Answer the call, now or when what it asked for has ended."""
        handler = self._handlers.get(call.command)
        if handler is None:
            call.fail(f"command {call.command!r} is not supported by this version")
            return
        if call.command in NOT_WHILE_STOPPING and self._daemon.arbiter.stopping:
            call.refuse("the daemon is stopping")
            return
        if call.request.again and self._operations.join(call):
            return
        try:
            handler(call)
        except Exception as error:
            # The boundary "control handler": a mistake in an answer must not end the supervision of every pool.
            log.exception("Command %s failed", call.command)
            call.fail(f"internal error: {type(error).__name__}: {error}")

    # -- operations ---------------------------------------------------------------------------------------

    @property
    def reloading(self) -> bool:
        """A reload is under way."""
        return self._operations.under_way("reload")

    def begin(self, command: str, pools: tuple[str, ...], call: Call | None, **extra: Any) -> str:
        """Note a new operation on these pools; its id. ``extra`` goes into the answer."""
        return self._operations.begin(command, pools, call, **extra)

    def concluded(self, effect: Concluded) -> None:
        """One pool's part of an operation has ended; when it was the last, the caller gets the answer."""
        pool = self._daemon.arbiter.pools.get(effect.pool)
        self._operations.part_ended(
            effect.operation,
            effect.pool,
            {
                "outcome": effect.outcome.value,
                "generation": pool.generation if pool else None,
                "ready": pool.ready if pool else None,
                "reason": effect.reason,
                "traceback": effect.traceback,
                **({"change": effect.change.value} if effect.change else {}),
            },
        )

    def leave(self) -> CommandsLeft:
        """What there is of operations, for the next image of the daemon."""
        return CommandsLeft(
            last_number=self._operations.last_number,
            operations=tuple(map(_left, self._operations.everything())),
            kills=tuple(self._kills),
            shutdowns=tuple(self._shutdowns),
        )

    def adopt(self, left: CommandsLeft) -> None:
        """Go on with what the image before this one has left."""
        self._operations.adopt(map(_found, left.operations), left.last_number)
        self._kills, self._shutdowns = list(left.kills), list(left.shutdowns)

    def send_away(self, reason: str) -> None:
        """Tell all who wait for an operation that their connection is about to be lost."""
        self._operations.send_away(reason)

    def ended(self, operation: str, problem: str = "", traceback: str = "") -> None:
        """The daemon's own part of an operation has ended, well unless there was a problem."""
        failed = {"outcome": Outcome.FAILED.value, "reason": problem, "traceback": traceback}
        self._operations.part_ended(operation, "arbiter", failed if problem else DONE)

    def exited(self) -> None:
        """Some worker is gone: those who wait for the end of one hear of it."""
        for kill in [kill for kill in self._kills if kill[0] not in self._daemon.children.workers]:
            self._kills.remove(kill)
            self._operations.part_ended(kill[2], kill[1], DONE)

    def leaving(self) -> None:
        """Everything has stopped: answer those who asked for it."""
        for operation in self._shutdowns:
            self._operations.part_ended(operation, "arbiter", DONE)

    def _progress(self, operation: Operation, part: str) -> dict[str, Any]:
        """How far a part is: of the workers that are wanted, so many of the right generation serve."""
        pool = self._daemon.arbiter.pools.get(part)
        if pool is None:
            return {}
        of_goal = sum(worker.state.value == "ready" for worker in pool.of(pool.goal))
        return {
            "generation": pool.goal,
            "ready": of_goal if operation.command == "reload" else pool.ready,
            "target": pool.target if pool.wanted else 0,
            "left": len(pool.workers),
        }

    # -- pools --------------------------------------------------------------------------------------------

    def _reload(self, call: Call) -> None:
        if call.properties.get("graceful") is False:
            self._restart(call)
            return
        names = finding.pool_names(call, self._daemon.arbiter)
        if names is None:
            return
        if not call.request.names:
            self._configure(call, code=True)
            return
        self._daemon.emit(ev.ReloadAsked(self.begin("reload", names, call), names))

    def _reloadconfig(self, call: Call) -> None:
        self._configure(call, code=False)

    def _configure(self, call: Call, *, code: bool) -> None:
        problem = self._daemon.reload_configuration(call, code=code)
        if problem:
            call.fail(f"the configuration is wrong, nothing was changed:\n{problem}")

    def _start(self, call: Call) -> None:
        names = finding.pool_names(call, self._daemon.arbiter)
        if names is not None:
            self._daemon.emit(ev.StartAsked(self.begin("start", names, call), names))

    def _stop(self, call: Call) -> None:
        names = finding.pool_names(call, self._daemon.arbiter)
        if names is not None:
            self._daemon.emit(ev.StopAsked(self.begin("stop", names, call), names))

    def _restart(self, call: Call) -> None:
        names = finding.pool_names(call, self._daemon.arbiter)
        if names is not None:
            self._daemon.emit(ev.RestartAsked(self.begin("restart", names, call), names))

    def _scale(self, call: Call) -> None:
        pool = finding.pool(call, self._daemon.arbiter)
        if pool is not None:
            target = self._daemon.arbiter.pools[pool.name].target
            by = call.properties.get("by", 0)
            self._have(call, pool.name, call.properties.get("count", target + by))

    def _set(self, call: Call) -> None:
        pool = finding.pool(call, self._daemon.arbiter)
        if pool is None:
            return
        options: Mapping[str, Any] = call.properties["options"]
        fixed = [name for name in options if name not in ("numprocesses", "workers")]
        if fixed:
            call.refuse(
                f"{fixed[0][:64]!r} can't be set in a running daemon, only 'numprocesses' can: "
                f"change {self._daemon.spec.source}, then reload"
            )
        elif len(options) != 1 or type(count := next(iter(options.values()))) is not int:
            call.fail("expected one option, 'numprocesses', and a whole number")
        else:
            self._have(call, pool.name, count)

    def _have(self, call: Call, name: str, wanted: int) -> None:
        """Scale the pool."""
        scaling = self._daemon.arbiter.pools[name].spec.scaling
        if scaling is not None and scaling.clamp(wanted) != wanted:
            call.refuse(
                f"{name} scales itself between {scaling.least} and {scaling.most} workers; "
                f"change that in {self._daemon.spec.source}, then reload"
            )
        elif wanted < 0:
            call.fail(f"{name} has {self._daemon.arbiter.pools[name].target} workers, it can't have {wanted}")
        elif wanted > (most := self._daemon.room_for(name)):
            call.refuse(f"{name} can have {most} worker{'s' if most != 1 else ''} at the most")
        else:
            operation = self.begin("scale", (name,), call, numprocesses=wanted)
            self._daemon.emit(ev.ScaleAsked(operation, name, wanted))

    # -- workers ------------------------------------------------------------------------------------------

    def _dumpstacks(self, call: Call) -> None:
        workers = finding.workers(call, self._daemon.arbiter)
        if workers is None:
            return
        collected: list[Stacks] = []

        def collect(stacks: Stacks) -> None:
            collected.append(stacks)
            if len(collected) == len(processes):
                collected.sort(key=lambda one: (one.worker, one.generation))
                call.reply({"stacks": [one.as_dict() for one in collected]})

        processes = [self._daemon.children.workers[w.id] for w in workers if w.id in self._daemon.children.workers]
        for process in processes:
            self._daemon.dumper.dump(process, collect)
        if not processes:
            call.reply({"stacks": []})

    def _cachestats(self, call: Call) -> None:
        workers = finding.workers(call, self._daemon.arbiter)
        if workers is None:
            return
        processes = [self._daemon.children.workers[w.id] for w in workers if w.id in self._daemon.children.workers]
        self._daemon.caches.ask(
            processes, lambda answers: call.reply({"workers": [answer.as_dict() for answer in answers]})
        )

    def _kill(self, call: Call) -> None:
        workers = finding.workers(call, self._daemon.arbiter)
        if workers is None:
            return
        parts = {worker.id: f"{worker.name} ({worker.pid or f'#{worker.id}'})" for worker in workers}
        names = [worker.name for worker in workers]
        operation = self._operations.begin("kill", parts.values(), call, workers=names)
        for worker in workers:
            self._kills.append((worker.id, parts[worker.id], operation))
            self._end(worker, call)

    def _end(self, worker: WorkerSnapshot, call: Call) -> None:
        process = self._daemon.children.workers.get(worker.id)
        signum = call.properties.get("signum")
        whole_pool = worker.name not in call.request.names
        if process is None or signum == signal.SIGKILL or (signum is None and not whole_pool):
            self._daemon.emit(ev.KillAsked(worker.id))
        else:
            grace = call.properties.get("graceful_timeout", process.spec.stop_timeout)
            self._daemon.emit(ev.RetireAsked(worker.id, grace, signum))

    def _signal(self, call: Call) -> None:
        workers = finding.workers(call, self._daemon.arbiter)
        if workers is None:
            return
        children, recursive = call.properties.get("children", False), call.properties.get("recursive", False)
        child, signum = call.properties.get("childpid"), call.properties["signum"]
        sent, others = [], []
        for worker in workers:
            process = self._daemon.children.workers.get(worker.id)
            if process is None or process.pid is None:
                continue
            # The youngest first: the worker's own end would make its children somebody else's.
            relatives = family.descendants(process.pid) if recursive else family.children(process.pid)
            if recursive or children or child is not None:
                chosen = [pid for pid in reversed(relatives) if child in (None, pid)]
                others += [pid for pid in chosen if family.signal_descendant(pid, signum, of=process.pid)]
            if not children and child is None and self._daemon.children.send_signal(process, signum):
                sent.append(worker.name)
        call.reply({"workers": sent, "children": others, "signal": signal.Signals(signum).name})

    # -- the daemon ---------------------------------------------------------------------------------------

    def _upgrade(self, call: Call) -> None:
        problem = self._daemon.upgrade.begin(call)
        if problem:
            call.refuse(problem)

    def _shutdown(self, call: Call) -> None:
        self._shutdowns.append(self._operations.begin("shutdown", ("arbiter",), call))
        self._daemon.emit(ev.ShutdownAsked(ev.Haste.BOUNDED))


# -- an upgrade -------------------------------------------------------------------------------------------


def _left(operation: Operation) -> OperationLeft:
    return OperationLeft(
        id=operation.id,
        command=operation.command,
        parts=operation.parts,
        began=operation.began,
        deadline=operation.deadline,
        by=operation.by,
        ended=operation.ended,
        ends=json.dumps(operation.ends),
        extra=json.dumps(operation.extra),
        asked=operation.asked,
    )


def _found(left: OperationLeft) -> Operation:
    return Operation(
        id=left.id,
        command=left.command,
        parts=left.parts,
        began=left.began,
        deadline=left.deadline,
        by=left.by,
        ended=left.ended,
        ends=json.loads(left.ends),
        extra=json.loads(left.extra),
        asked=left.asked,
    )
