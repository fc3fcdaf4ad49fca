"""Which pools and workers a call means. What there is none of is answered here, and the caller gets None."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from procman.control.protocol import did_you_mean

if TYPE_CHECKING:
    from procman.control.server import Call
    from procman.core.arbiter import Arbiter
    from procman.core.snapshot import PoolSnapshot, WorkerSnapshot


MOST_SHOWN = 10  # of the names that there are


def pool_names(call: Call, arbiter: Arbiter) -> tuple[str, ...] | None:
    """The pools that are named, by themselves or by patterns, where the command takes any; all if none is named."""
    if not call.request.names:
        return tuple(arbiter.pools)
    patterns = call.command in ("start", "stop", "restart") and call.properties.get("match") != "simple"
    found: list[str] = []
    for name in call.request.names:
        meant = [one for one in arbiter.pools if one == name or (patterns and fnmatchcase(one, name))]
        if not meant:
            call.fail(_nothing(name, arbiter))
            return None
        found.extend(one for one in meant if one not in found)
    return tuple(found)


def pool(call: Call, arbiter: Arbiter) -> PoolSnapshot | None:
    """The one pool that is named."""
    (name,) = call.request.names
    for snapshot in arbiter.snapshot().pools:
        if snapshot.name == name:
            return snapshot
    call.fail(_nothing(name, arbiter))
    return None


def pools_and_workers(call: Call, arbiter: Arbiter) -> list[tuple[PoolSnapshot, str | None]] | None:
    """(pool, name of the one worker that is meant or None) for everything that is named, or for all pools."""
    pools = arbiter.snapshot().pools
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
        call.fail(_nothing(call.request.names[0], arbiter, "pool or worker"))
        return None
    return found


def workers(call: Call, arbiter: Arbiter) -> list[WorkerSnapshot] | None:
    """The workers that are named, themselves or by their pool, and of these the one with the pid that is given."""
    found = pools_and_workers(call, arbiter)
    if found is None:
        return None
    pid = call.properties.get("pid")
    chosen = [
        worker
        for pool, only in found
        for worker in pool.workers
        if only in (None, worker.name) and pid in (None, worker.pid)
    ]
    if not chosen and pid is not None:
        call.fail(f"no worker of {call.request.names[0]} has pid {pid}")
        return None
    return chosen


def _nothing(name: str, arbiter: Arbiter, what: str = "pool") -> str:
    known = list(arbiter.pools)
    if what != "pool":
        known += [worker.name for pool in arbiter.snapshot().pools for worker in pool.workers]
    meant = did_you_mean(name, known)
    return f"no {what} is called {name!r}{meant or f'; there are {_listed(list(arbiter.pools))}'}"


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:MOST_SHOWN])
    return shown if len(names) <= MOST_SHOWN else f"{shown} and {len(names) - MOST_SHOWN} more"
