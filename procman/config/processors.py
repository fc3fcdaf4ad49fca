"""How many processors this process may use: its CPU affinity, and the CPU quota of its control groups.

A container that may use half a processor of a 64-core machine has one core here, not 64.
"""

from __future__ import annotations

import math
import os


def usable_cores(proc: str = "/proc/self", affinity: int | None = None) -> int:
    """Whole cores, rounded up, at least 1.

    The quota is ``cpu.max`` of cgroup v2 (Documentation/admin-guide/cgroup-v2.rst) or ``cpu.cfs_quota_us`` of v1
    (scheduler/sched-bwc.rst), the smallest one on the way from the process's own group up to the mount point.
    """
    cores = affinity or len(os.sched_getaffinity(0))
    for quota in _quotas(proc):
        cores = min(cores, math.ceil(quota))
    return max(cores, 1)


def _quotas(proc: str) -> list[float]:
    groups = _groups(proc)
    quotas = []
    for root, mount_point, controllers in _mounts(proc):
        group = groups.get(controllers)
        if group is None:
            continue
        # Without a cgroup namespace a container sees its group by the host's path, and the mount shows only a part.
        below = os.path.relpath(group, root) if (group + "/").startswith(root.rstrip("/") + "/") else "."
        directory = os.path.normpath(os.path.join(mount_point, below))
        while directory.startswith(mount_point):
            quota = _quota_v2(directory) if controllers == "" else _quota_v1(directory)
            if quota is not None:
                quotas.append(quota)
            directory = os.path.dirname(directory)
            if directory == "/":
                break
    return quotas


def _groups(proc: str) -> dict[str, str]:
    """The process's group per hierarchy, proc(5): "" for v2, "cpu" for the v1 hierarchy with that controller."""
    groups = {}
    for line in _lines(f"{proc}/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            groups[""] = path
        elif "cpu" in controllers.split(","):
            groups["cpu"] = path
    return groups


def _mounts(proc: str) -> list[tuple[str, str, str]]:
    """Root, mount point and hierarchy (as in `_groups`) of each cgroup mount; fields as in proc_pid_mountinfo(5)."""
    mounts = []
    for line in _lines(f"{proc}/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), after.split(maxsplit=2)
        if kind == "cgroup2":
            mounts.append((fields[3], fields[4], ""))
        elif kind == "cgroup" and "cpu" in options.split(","):
            mounts.append((fields[3], fields[4], "cpu"))
    return mounts


def _quota_v2(directory: str) -> float | None:
    for line in _lines(f"{directory}/cpu.max"):
        quota, _, period = line.partition(" ")
        return None if quota == "max" else int(quota) / int(period or 100_000)
    return None


def _quota_v1(directory: str) -> float | None:
    for quota in _lines(f"{directory}/cpu.cfs_quota_us"):
        for period in _lines(f"{directory}/cpu.cfs_period_us"):
            return None if int(quota) <= 0 else int(quota) / int(period)
    return None


def _lines(path: str) -> list[str]:
    """Lines of a file; none when it can't be read, for then there is no such limit here."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().splitlines()
    except OSError:
        return []
