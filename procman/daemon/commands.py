"""What each command on the control socket does: read figures, or give the arbiter an event and wait for its end."""

from __future__ import annotations

import itertools
import signal
import time
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

from procman.core import event as ev
from procman.core.effect import Outcome
from procman.core.pool import PoolState

if TYPE_CHECKING:
    from collections.abc import Callable

    from procman.control.server import Call
    from procman.core.effect import Concluded
    from procman.core.snapshot import PoolSnapshot, WorkerSnapshot
    from procman.daemon.main import Daemon
    from procman.daemon.stacks import Stacks

OPERATIONS_KEPT = 100


@dataclass(eq=False)
class Operation:
    """A command under way in one or more pools."""

    id: str
    command: str
    call: Call | None
    waiting_for: set[str]
    pools: dict[str, dict[str, Any]] = field(default_factory=dict)


class Commands:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._numbers = itertools.count(1)
        self._operations: dict[str, Operation] = {}
        self._shutdown_calls: list[Call] = []
        self._handlers: dict[str, Callable[[Call], None]] = {
            "check": self._check,
            "dumpstacks": self._dumpstacks,
            "events": self._events,
            "kill": self._kill,
            "list": self._list,
            "numprocesses": self._numprocesses,
            "reload": self._reload,
            "restart": self._restart,
            "scale": self._scale,
            "shutdown": self._shutdown,
            "signal": self._signal,
            "start": self._start,
            "stats": self._stats,
            "status": self._status,
            "stop": self._stop,
        }

    def handle(self, call: Call) -> None:
        """Answer the call, now or when what it asked for has ended."""
        handler = self._handlers.get(call.command)
        if handler is None:
            call.fail(f"command {call.command!r} is not supported by this version")
        else:
            handler(call)

    def concluded(self, effect: Concluded) -> None:
        """One pool's part of an operation has ended; when it was the last, the caller gets the answer."""
        operation = self._operations.get(effect.operation)
        if operation is None:
            return
        operation.waiting_for.discard(effect.pool)
        pool = self._daemon.arbiter.pools.get(effect.pool)
        operation.pools[effect.pool] = {
            "outcome": effect.outcome.value,
            "generation": pool.generation if pool else None,
            "reason": effect.reason,
            "traceback": effect.traceback,
        }
        if not operation.waiting_for:
            del self._operations[effect.operation]
            self._answer(operation)

    @property
    def reloading(self) -> bool:
        """A reload is under way."""
        return any(operation.command == "reload" for operation in self._operations.values())

    def leaving(self) -> None:
        """Everything has stopped: answer those who asked for it."""
        for call in self._shutdown_calls:
            call.reply()

    def begin(self, command: str, pools: tuple[str, ...], call: Call | None) -> str:
        """Note a new operation on these pools; its id."""
        operation = Operation(f"{command}-{next(self._numbers)}", command, None, set(pools))
        if call is not None and call.request.waiting:
            operation.call = call
        elif call is not None:
            call.reply({"operation": operation.id})
        self._operations[operation.id] = operation
        return operation.id

    def _answer(self, operation: Operation) -> None:
        if operation.call is None:
            return
        failed = {name: end for name, end in operation.pools.items() if end["outcome"] != Outcome.DONE.value}
        fields: dict[str, Any] = {"operation": operation.id, "pools": operation.pools}
        pool = self._daemon.arbiter.pools.get(next(iter(operation.pools)))
        if operation.command == "scale" and pool is not None:
            fields["numprocesses"] = pool.target
        if failed:
            reason = "; ".join(f"{operation.command} {name}: {end['reason']}" for name, end in failed.items())
            operation.call.fail(reason, fields=fields)
        else:
            operation.call.reply(fields)

    # -- reading ------------------------------------------------------------------------------------------

    def _stats(self, call: Call) -> None:
        found = self._pools_and_workers(call)
        if found is None:
            return
        snapshot, figures = self._daemon.arbiter.snapshot(), self._daemon.figures
        pools = {}
        for pool, only in found:
            pools[pool.name] = figures.pool(pool)
            if only is not None:
                pools[pool.name]["workers"] = [w for w in pools[pool.name]["workers"] if w["name"] == only]
        figures.forget(snapshot)
        call.reply({"arbiter": figures.arbiter(snapshot), "pools": pools})

    def _status(self, call: Call) -> None:
        found = self._pools_and_workers(call)
        if found is None:
            return
        snapshot, figures = self._daemon.arbiter.snapshot(), self._daemon.figures
        pools = {}
        for pool, _ in found:
            pools[pool.name] = {
                **figures.pool(pool),
                "listens": self._daemon.listens(pool.name),
                "parked": pool.parked,
                "operation": pool.operation,
                "exits": self._exits(pool),
            }
        statuses = {name: "active" if pool["ready"] else "stopped" for name, pool in pools.items()}
        call.reply({"arbiter": figures.arbiter(snapshot), "pools": pools, "statuses": statuses})

    def _exits(self, pool: PoolSnapshot) -> list[dict[str, Any]]:
        ago = time.time() - monotonic()  # turns a time of the monotonic clock into one of the calendar
        return [
            {
                "worker": record.worker,
                "generation": record.generation,
                "pid": record.pid,
                "reason": record.reason.value,
                "status": record.status,
                "lived": round(record.lived, 3),
                "at": round(record.at + ago, 3),
            }
            for record in pool.exits
        ]

    def _list(self, call: Call) -> None:
        names = call.request.names
        pools = {pool.name: pool for pool in self._daemon.arbiter.snapshot().pools}
        if not names:
            call.reply({"pools": sorted(pools), "watchers": sorted(pools)})
        elif names[0] in pools:
            call.reply({"pids": [worker.pid for worker in pools[names[0]].workers], "processes": []})
        else:
            call.fail(self._no_pool(names[0]))

    def _numprocesses(self, call: Call) -> None:
        found = self._pools_and_workers(call)
        if found is not None:
            call.reply({"numprocesses": sum(len(pool.workers) for pool, _ in found)})

    def _check(self, call: Call) -> None:
        problems = []
        for pool in self._daemon.arbiter.snapshot().pools:
            if pool.parked is not None:
                problems.append(f"{pool.name} is parked: {pool.parked}")
            elif pool.state is PoolState.WAITING:
                problems.append(f"{pool.name} waits for the pools it depends on")
            elif pool.ready < pool.target:
                problems.append(f"{pool.name} has {pool.ready} of {pool.target} workers ready")
        call.reply({"ready": not problems, "problems": problems})

    def _events(self, call: Call) -> None:
        publisher = self._daemon.publisher
        events = publisher.recent(call.properties.get("since", 0))
        call.reply({"endpoint": publisher.endpoint, "seq": publisher.sequence, "events": events})

    def _dumpstacks(self, call: Call) -> None:
        workers = self._workers(call, call.request.names)
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

    # -- doing --------------------------------------------------------------------------------------------

    def _reload(self, call: Call) -> None:
        names = self._pool_names(call)
        if names is None:
            return
        if not call.request.names:
            problem = self._daemon.read_configuration()
            if problem:
                call.fail(f"the configuration is wrong, nothing was changed:\n{problem}")
                return
            names = tuple(self._daemon.arbiter.pools)
        self._daemon.emit(ev.ReloadAsked(self.begin("reload", names, call), names))

    def _start(self, call: Call) -> None:
        names = self._pool_names(call)
        if names is not None:
            self._daemon.emit(ev.StartAsked(self.begin("start", names, call), names))

    def _stop(self, call: Call) -> None:
        names = self._pool_names(call)
        if names is not None:
            self._daemon.emit(ev.StopAsked(self.begin("stop", names, call), names))

    def _restart(self, call: Call) -> None:
        names = self._pool_names(call)
        if names is not None:
            self._daemon.emit(ev.RestartAsked(self.begin("restart", names, call), names))

    def _scale(self, call: Call) -> None:
        names = self._pool_names(call)
        if names is None:
            return
        pool = self._daemon.arbiter.pools[names[0]]
        wanted = call.properties["count"] if "count" in call.properties else pool.target + call.properties["by"]
        if wanted < 0:
            call.fail(f"{pool.name} has {pool.target} workers, it can't have {wanted}")
        elif wanted > (most := self._daemon.room_for(pool.name)):
            call.refuse(f"there is room for {most} workers in {pool.name} at the most")
        else:
            self._daemon.emit(ev.ScaleAsked(self.begin("scale", names, call), pool.name, wanted))

    def _kill(self, call: Call) -> None:
        workers = self._workers(call, call.request.names)
        if workers is None:
            return
        pid = call.properties.get("pid")
        chosen = [worker for worker in workers if pid is None or worker.pid == pid]
        if not chosen:
            call.fail(f"no worker of {call.request.names[0]} has pid {pid}")
            return
        for worker in chosen:
            self._daemon.emit(ev.KillAsked(worker.id))
        call.reply({"workers": [worker.name for worker in chosen]})

    def _signal(self, call: Call) -> None:
        workers = self._workers(call, call.request.names)
        if workers is None:
            return
        pid, signum = call.properties.get("pid"), call.properties["signum"]
        sent = [
            worker.name
            for worker in workers
            if (pid is None or worker.pid == pid)
            and (process := self._daemon.children.workers.get(worker.id)) is not None
            and self._daemon.children.send_signal(process, signum)
        ]
        call.reply({"workers": sent, "signal": signal.Signals(signum).name})

    def _shutdown(self, call: Call) -> None:
        if call.request.waiting:
            self._shutdown_calls.append(call)
        else:
            call.reply()
        self._daemon.emit(ev.ShutdownAsked(ev.Haste.BOUNDED))

    # -- finding ------------------------------------------------------------------------------------------

    def _pool_names(self, call: Call) -> tuple[str, ...] | None:
        """The pools that are meant, all if none is named; None after having answered that one is unknown."""
        pools = self._daemon.arbiter.pools
        for name in call.request.names:
            if name not in pools:
                call.fail(self._no_pool(name))
                return None
        return call.request.names or tuple(pools)

    def _pools_and_workers(self, call: Call) -> list[tuple[PoolSnapshot, str | None]] | None:
        """(pool, name of the one worker that is meant or None) for what the call names."""
        pools = self._daemon.arbiter.snapshot().pools
        if not call.request.names:
            return [(pool, None) for pool in pools]
        found: list[tuple[PoolSnapshot, str | None]] = []
        for name in call.request.names:
            for pool in pools:
                if pool.name == name:
                    found.append((pool, None))
                elif any(worker.name == name for worker in pool.workers):
                    found.append((pool, name))
        if not found:
            call.fail(self._no_pool(call.request.names[0], "pool or worker"))
            return None
        return found

    def _workers(self, call: Call, names: tuple[str, ...]) -> list[WorkerSnapshot] | None:
        found = self._pools_and_workers(call)
        if found is None:
            return None
        return [worker for pool, only in found for worker in pool.workers if only in (None, worker.name)]

    def _no_pool(self, name: str, what: str = "pool") -> str:
        return f"no {what} is called {name!r}; there are {', '.join(self._daemon.arbiter.pools)}"
