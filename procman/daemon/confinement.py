"""Each worker in a control group of its own, where `memory_hard` is enforced by the kernel; and who was killed by it.

The groups are named after the daemon's pid and the worker's number, so that after an upgrade, which keeps both, the
next image finds them; what a daemon that was killed has left behind is swept up by the next one.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from procman.core.spec import MemoryHardBy
from procman.unix.cgroup import machine_oom_kills, own_memory_group

if TYPE_CHECKING:
    from procman.core.spec import DaemonSpec, PoolSpec
    from procman.daemon.processes import WorkerProcess
    from procman.unix.cgroup import MemoryGroup

log = logging.getLogger("procman.arbiter")

_PREFIX = "procman."
_SIGKILLED = -9


class Confinement:
    def __init__(self) -> None:
        self._own = own_memory_group()
        self._divided: bool | None = None  # not tried yet
        self._oom_kills = self._count()

    def settle(self, spec: DaemonSpec) -> DaemonSpec:
        """The configuration as it can be had here: where no group may be made, RLIMIT_DATA takes its place."""
        wanted = [pool.name for pool in spec.pools if _confined(pool)]
        if not wanted or self._divide():
            return spec
        log.warning(
            'memory_hard_by = "cgroup" of %s: no memory cgroup is delegated to this daemon (Delegate=yes in its '
            "unit does that); RLIMIT_DATA takes its place",
            ", ".join(wanted),
        )
        return replace(spec, pools=tuple(_by_rlimit(pool) if _confined(pool) else pool for pool in spec.pools))

    def admit(self, worker: WorkerProcess) -> None:
        """Put a worker that has just come to be into a group of its own, if that is how its memory is limited."""
        self._oom_kills = self._count()
        group = self._group(worker)
        if group is None or worker.pid is None:
            return
        try:
            group.make()
            group.limit(worker.spec.limits.memory_hard)
            group.admit(worker.pid)
        except OSError as error:
            log.error("Worker %s (%d) can't be confined to a cgroup: %s", worker.name, worker.pid, error)

    def adjust(self, worker: WorkerProcess) -> None:
        """Its limits have changed: it may come into a group, or out of one, which has no limit any more then."""
        if _confined(worker.spec):
            self.admit(worker)
        elif self._own is not None and (group := self._own.child(self._name(worker))).path.exists():
            try:
                group.limit(None)
            except OSError as error:
                log.error("Worker %s (%s) keeps the limit of its cgroup: %s", worker.name, worker.pid, error)

    def ended(self, worker: WorkerProcess, status: int | None) -> bool:
        """The worker is gone: whether the kernel has killed it because memory ran out, of its group or of all."""
        before, self._oom_kills = self._oom_kills, self._count()
        its_own = False
        if self._own is not None and self._divided:
            group = self._own.child(self._name(worker))
            its_own = group.oom_kills() > 0
            group.remove()
        return status == _SIGKILLED and not worker.killed and (its_own or self._oom_kills > before)

    def _group(self, worker: WorkerProcess) -> MemoryGroup | None:
        if self._own is None or not self._divided or not _confined(worker.spec):
            return None
        return self._own.child(self._name(worker))

    @staticmethod
    def _name(worker: WorkerProcess) -> str:
        return f"{_PREFIX}{os.getpid()}.{worker.id}"

    def _divide(self) -> bool:
        if self._divided is None:
            self._divided = self._own is not None
            try:
                if self._own is not None:
                    self._own.divide()
                    for left in self._own.children(_PREFIX):
                        left.remove()
            except OSError as error:
                log.debug("No memory cgroup can be had: %s", error)
                self._divided = False
        return self._divided

    def _count(self) -> int:
        return machine_oom_kills() if self._own is None else self._own.oom_kills()


def _confined(pool: PoolSpec) -> bool:
    return pool.limits.memory_hard is not None and pool.limits.memory_hard_by is MemoryHardBy.CGROUP


def _by_rlimit(pool: PoolSpec) -> PoolSpec:
    return replace(pool, limits=replace(pool.limits, memory_hard_by=MemoryHardBy.RLIMIT))
