"""The commands that only read: they change nothing, and cost no worker anything."""

from __future__ import annotations

import time
from time import monotonic
from typing import TYPE_CHECKING, Any

from procman.control.protocol import Errno
from procman.core.pool import PoolState
from procman.daemon import circus, finding
from procman.daemon.candidate import Candidate
from procman.unix.sockets import BACKLOG

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from procman.control.server import Call
    from procman.core.snapshot import PoolSnapshot
    from procman.daemon.main import Daemon
    from procman.daemon.operations import Operations


# Of each pool, when all are shown; those of one pool are all shown.
EXITS_SHOWN = 10


class Reading:
    """``handlers`` has a function for each of the commands."""

    def __init__(self, daemon: Daemon, operations: Operations) -> None:
        self._daemon = daemon
        self._operations = operations
        self._candidate = Candidate(daemon.spec.source)
        self.handlers: Mapping[str, Callable[[Call], None]] = {
            "check": self._check,
            "dstats": self._dstats,
            "events": self._events,
            "get": self._options,
            "jobwhy": self._jobwhy,
            "globaloptions": self._global_options,
            "list": self._list,
            "listpids": self._list,
            "listsockets": self._list_sockets,
            "numprocesses": self._numprocesses,
            "numwatchers": self._numwatchers,
            "operations": lambda call: _reply(call, {"operations": operations.describe()}),
            "options": self._options,
            "stats": self._stats,
            "status": self._status,
            "wait": operations.wait,
        }

    # -- figures ------------------------------------------------------------------------------------------

    def _stats(self, call: Call) -> None:
        found = finding.pools_and_workers(call, self._daemon.arbiter)
        if found is None:
            return
        process = call.properties.get("process")
        figures = self._daemon.figures
        pools = {}
        for pool, only in found:
            pools[pool.name] = shown = figures.pool(pool)
            shown["workers"] = [
                worker
                for worker in shown["workers"]
                if only in (None, worker["name"]) and process in (None, worker["pid"])
            ]
        figures.forget()
        if process is not None and not any(pool["workers"] for pool in pools.values()):
            call.fail(f"no worker of {' or '.join(pools)} has pid {process}", errno=Errno.MESSAGE_ERROR)
            return
        fields: dict[str, Any] = {"arbiter": figures.arbiter(self._daemon.arbiter.state), "pools": pools}
        if call.properties.get("infos", True):
            fields.update(self._infos(call, pools))
        call.reply(fields)

    def _infos(self, call: Call, pools: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """What Circus's client expects of `stats`: it asks for all pools, for one of them, or for one process."""
        figures = self._daemon.figures
        infos = {
            name: {
                str(worker["pid"]): figures.circus(
                    worker["pid"], worker["cpu_percent"], int(worker["name"].rpartition(".")[2])
                )
                for worker in pool["workers"]
                if worker["pid"] is not None
            }
            for name, pool in pools.items()
        }
        if not call.request.names:
            return {"infos": infos}
        info = next(iter(infos.values()))
        process = call.properties.get("process")
        if process is None:
            return {"name": call.request.names[0], "info": info}
        return {"process": process, "info": info[str(process)]}

    def _dstats(self, call: Call) -> None:
        arbiter = self._daemon.figures.arbiter(self._daemon.arbiter.state)
        info = self._daemon.figures.circus(arbiter["pid"], arbiter["cpu_percent"])
        call.reply({"info": info, "arbiter": arbiter})

    def _status(self, call: Call) -> None:
        found = finding.pools_and_workers(call, self._daemon.arbiter)
        if found is None:
            return
        figures = self._daemon.figures
        pools = {}
        for pool, only in found:
            operation, progress = self._operations.at(pool.name)
            pools[pool.name] = {
                **figures.pool(pool),
                "listens": self._daemon.listens(pool.name),
                "parked": pool.parked,
                "operation": operation,
                "progress": progress,
                "exits": _exits(pool, only) if call.request.names else _exits(pool)[-EXITS_SHOWN:],
            }
        fields: dict[str, Any] = {"arbiter": figures.arbiter(self._daemon.arbiter.state), "pools": pools}
        if not call.request.names:
            fields["statuses"] = {pool.name: circus.status(pool) for pool, _ in found}
        elif found[0][1] is None:
            fields["status"] = circus.status(found[0][0])  # in the place of "ok", as Circus has it
        call.reply(fields)

    def _check(self, call: Call) -> None:
        problems = []
        for pool in self._daemon.arbiter.snapshot().pools:
            if pool.parked is not None:
                problems.append(f"{pool.name} is parked: {pool.parked}")
            elif pool.state is PoolState.WAITING:
                problems.append(f"{pool.name} waits for the pools it depends on")
            elif pool.ready < pool.target:
                problems.append(f"{pool.name} has {pool.ready} of {pool.target} workers ready")
        fields: dict[str, Any] = {"ready": not problems, "problems": problems}
        if call.properties.get("configuration"):
            fields["configuration"] = self._candidate.problems()
        call.reply(fields)

    def _events(self, call: Call) -> None:
        publisher = self._daemon.publisher
        events = publisher.recent(call.properties.get("since", 0))
        where = {"endpoint": publisher.endpoint, "endpoints": publisher.endpoints}
        call.reply({**where, "seq": publisher.sequence, "events": events})

    def _jobwhy(self, call: Call) -> None:
        question = {"question": "why", "uuid": call.properties["uuid"], "database": call.properties.get("database")}
        questions = self._daemon.questions
        if not questions.ask(question, lambda answers: call.reply({"runners": answers}), lambda: not call.late):
            call.fail("too many have asked the job runners; ask again in a moment")

    # -- names and numbers --------------------------------------------------------------------------------

    def _list(self, call: Call) -> None:
        if not call.request.names:
            names = sorted(self._daemon.arbiter.pools)
            call.reply({"watchers": names, "pools": names})
            return
        pool = finding.pool(call, self._daemon.arbiter)
        if pool is not None:
            running = [worker for worker in pool.workers if worker.pid is not None]
            call.reply({"pids": [worker.pid for worker in running], "workers": [worker.name for worker in running]})

    def _list_sockets(self, call: Call) -> None:
        sockets = []
        for pool in self._daemon.arbiter.pools:
            for number, fd in enumerate(self._daemon.listening_fds(pool), start=1):
                info = circus.socket_info(pool if number == 1 else f"{pool}:{number}", fd, BACKLOG)
                sockets.append({**info, "pool": pool})
        call.reply({"sockets": sorted(sockets, key=lambda one: one["fd"])})

    def _numprocesses(self, call: Call) -> None:
        if not call.request.names:
            call.reply({"numprocesses": sum(len(pool.workers) for pool in self._daemon.arbiter.snapshot().pools)})
            return
        pool = finding.pool(call, self._daemon.arbiter)
        if pool is not None:
            call.reply({"numprocesses": len(pool.workers), "watcher_name": pool.name})

    def _numwatchers(self, call: Call) -> None:
        call.reply({"numwatchers": len(self._daemon.arbiter.pools)})

    # -- options ------------------------------------------------------------------------------------------

    def _options(self, call: Call) -> None:
        pool = finding.pool(call, self._daemon.arbiter)
        if pool is None:
            return
        options = circus.options(self._daemon.arbiter.pools[pool.name].spec, pool.target)
        keys = call.properties.get("keys", options)
        unknown = [key for key in keys if key not in options]
        if unknown:
            call.fail(f"{unknown[0]!r} option not found", errno=Errno.MESSAGE_ERROR)
        else:
            call.reply({"options": {key: options[key] for key in keys}})

    def _global_options(self, call: Call) -> None:
        options = circus.global_options(self._daemon.spec)
        wanted = call.properties.get("option")
        if wanted is not None and wanted not in options:
            call.fail(f"{wanted!r} not an existing option", errno=Errno.MESSAGE_ERROR)
        else:
            call.reply({"options": options if wanted is None else {wanted: options[wanted]}})


def _reply(call: Call, fields: dict[str, Any]) -> None:
    call.reply(fields)


def _exits(pool: PoolSnapshot, only: str | None = None) -> list[dict[str, Any]]:
    """The last exits of each slot, or of the one of this worker, the latest at the end."""
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
        if only in (None, record.worker)
    ]
