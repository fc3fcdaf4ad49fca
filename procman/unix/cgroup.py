"""Control groups that limit memory: cgroup v2 (`memory.max`) where it has that controller, else v1 (cgroups(7)).

A process may make groups below its own where that was delegated to it: by `Delegate=yes` in its systemd unit, by a
container, or because it is root. In v2 a group with groups below it may hold no processes of its own (the "no internal
process" rule of the kernel's cgroup-v2.rst), so that a process which divides its group moves itself into a leaf first.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

OWN_LEAF = "procmand"  # where the process that divides a v2 group goes itself


@dataclass(frozen=True, slots=True)
class Files:
    """How a version of the memory controller calls its files; ``oom``: the one with a line ``oom_kill N``."""

    limit: str
    oom: str


V1 = Files(limit="memory.limit_in_bytes", oom="memory.oom_control")
V2 = Files(limit="memory.max", oom="memory.events")


class MemoryGroup:
    """One group of the memory controller."""

    def __init__(self, path: Path, files: Files) -> None:
        self.path = path
        self._files = files

    def divide(self) -> None:
        """Make it possible to limit groups below this one, which is our own. Raises OSError where we may not."""
        if self._files is V2:
            if "memory" not in (self.path / "cgroup.subtree_control").read_text().split():
                leaf = self.path / OWN_LEAF
                leaf.mkdir(exist_ok=True)
                for pid in (self.path / "cgroup.procs").read_text().split():
                    (leaf / "cgroup.procs").write_text(pid)
                (self.path / "cgroup.subtree_control").write_text("+memory")
        elif not os.access(self.path, os.W_OK):
            raise PermissionError(f"{self.path} is not ours to divide")

    def child(self, name: str) -> MemoryGroup:
        """The group of that name below this one, which need not exist."""
        return MemoryGroup(self.path / name, self._files)

    def make(self) -> None:
        """Make it, unless it is there. Raises OSError."""
        self.path.mkdir(exist_ok=True)
        if self._files is V2:
            # The worker and all it has started are one: none of them is of use without the others.
            (self.path / "memory.oom.group").write_text("1")

    def limit(self, most: int | None) -> None:
        """At most so many bytes; None: no limit. Raises OSError."""
        unlimited = "max" if self._files is V2 else "-1"
        (self.path / self._files.limit).write_text(unlimited if most is None else str(most))

    def admit(self, pid: int) -> None:
        """Move the process into this group; what it has allocated before stays charged where it was. Raises OSError."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def oom_kills(self) -> int:
        """How many processes of this group the kernel has killed for want of memory; 0 when nothing is known."""
        try:
            lines = (self.path / self._files.oom).read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)

    def remove(self) -> bool:
        """Remove it; False while somebody is left in it."""
        try:
            self.path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def children(self, prefix: str) -> list[MemoryGroup]:
        """The groups below it whose names begin so."""
        try:
            return [MemoryGroup(path, self._files) for path in self.path.glob(f"{prefix}*") if path.is_dir()]
        except OSError:
            return []


def own_memory_group() -> MemoryGroup | None:
    """The group that this process is in, or the one it has divided; None without a memory controller."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        memberships = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    places = [line.split(":", 2) for line in memberships]
    for mount in mounts:
        fields, _, tail = mount.partition(" - ")
        kind, _, options = [*tail.split(" ", 2), "", ""][:3]
        root, point = fields.split()[3:5]
        for _, controllers, place in places:
            path = Path(point) / os.path.relpath(place, root) if place.startswith(root) else Path(point)
            if kind == "cgroup" and "memory" in controllers.split(",") and "memory" in options.split(","):
                return MemoryGroup(path, V1)
            if kind == "cgroup2" and not controllers:
                path = path.parent if path.name == OWN_LEAF else path
                if _has_memory(path):
                    return MemoryGroup(path, V2)
    return None


def _has_memory(path: Path) -> bool:
    try:
        return "memory" in (path / "cgroup.controllers").read_text().split()
    except OSError:
        return False


def machine_oom_kills() -> int:
    """How many processes of this machine the kernel has killed for want of memory (proc(5), vmstat)."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
