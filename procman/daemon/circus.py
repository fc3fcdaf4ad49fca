"""Circus's view of what procman does: the fields in which Circus's own clients look for it (circus.commands)."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

from procman.core.codec import encode
from procman.core.pool import PoolState
from procman.core.spec import ExecWork
from procman.observe import processes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from procman.core.snapshot import PoolSnapshot
    from procman.core.spec import DaemonSpec, PoolSpec
    from procman.observe.processes import Identity, Usage

HIDDEN = "(hidden)"
_PASSWORD = re.compile(r"(://[^/@:]*:)[^/@]*@")
GONE = "No such process (stopped?)"

_STATUSES = {
    PoolState.STOPPED: "stopped",
    PoolState.WAITING: "starting",
    PoolState.STARTING: "starting",
    PoolState.RUNNING: "active",
    PoolState.RELOADING: "active",
    PoolState.PARKED: "stopped",
    PoolState.STOPPING: "stopping",
}


def status(pool: PoolSnapshot) -> str:
    """The state of a pool, in the four words that Circus has for a watcher's."""
    return "active" if pool.ready and pool.state is PoolState.STARTING else _STATUSES.get(pool.state, pool.state.value)


def process_info(pid: int, usage: Usage, identity: Identity, cpu_percent: float) -> dict[str, Any]:
    """Figures of one process."""
    return {
        "pid": pid,
        "cmdline": identity.command,
        "username": identity.user,
        "nice": usage.nice,
        "mem_info1": _size(usage.rss),
        "mem_info2": _size(usage.vms),
        "cpu": cpu_percent,
        "mem": round(100.0 * usage.rss / processes.total_memory(), 3),
        "ctime": _cpu_time(usage.cpu_seconds),
        "create_time": usage.started,
        "age": round(time.time() - usage.started, 3),
        "started": usage.started,
        "children": [],
    }


def _size(size: int) -> str:
    for power, unit in ((40, "T"), (30, "G"), (20, "M"), (10, "K")):
        if size >= 1 << power:
            return f"{size / (1 << power):.2f}{unit}"
    return f"{size}B"


def _cpu_time(seconds: float) -> str:
    # Minutes and seconds; Circus drops what is more than an hour.
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f}:{rest:05.2f}"


def options(spec: PoolSpec, target: int) -> dict[str, Any]:
    """All options of a pool: Circus's names for what Circus has, then procman's own, which win where they differ."""
    own = dict(_flat(encode(spec)))
    own["workers"] = target
    command = spec.work.command if isinstance(spec.work, ExecWork) else ()
    return {
        "args": list(command[1:]),
        "cmd": command[0] if command else f"procman {spec.kind}",
        "copy_env": True,
        "gid": spec.group,
        "graceful_timeout": spec.stop_timeout,
        "max_age": spec.limits.age or 0,
        "max_age_variance": spec.limits.age_jitter,
        "max_retry": spec.max_restarts,
        "numprocesses": target,
        "on_demand": False,
        "priority": 0,
        "respawn": True,
        "send_hup": False,
        "shell": False,
        "singleton": False,
        "stop_children": True,
        "uid": spec.user,
        "use_sockets": True,
        "warmup_delay": 0,
        **own,
        "stop_signal": int(signal.Signals[f"SIG{spec.stop_signal}"]),
        # Passwords are in there, and whoever may look need not know them; the names help all the same.
        "env": dict.fromkeys(dict(spec.env), HIDDEN),
    }


def _flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        if isinstance(value, dict):
            # What the work of a kind needs is written directly in the table of its pool.
            yield from _flat(value, "" if name == "work" else f"{prefix}{name}.")
        elif name != "is":
            yield prefix + name, _PASSWORD.sub(rf"\1{HIDDEN}@", value) if isinstance(value, str) else value


def global_options(spec: DaemonSpec) -> dict[str, Any]:
    """The options of the daemon: Circus's names, then procman's own."""
    return {
        "endpoint": spec.control[0],
        "pubsub_endpoint": spec.events[0],
        "stats_endpoint": spec.events[0],
        "check_delay": None,  # nothing is polled
        "multicast_endpoint": None,
        "control": list(spec.control),
        "dashboard": spec.dashboard,
        "log_format": spec.log_format,
        "source": spec.source,
        "state_dir": spec.state_dir,
        "stop_timeout": spec.stop_timeout,
    }


def socket_info(pool: str, fd: int, backlog: int) -> dict[str, Any]:
    """A listening socket of the pool."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        name = sock.getsockname()
    info = {"fd": fd, "name": pool, "backlog": backlog}
    if isinstance(name, tuple):
        return {**info, "host": name[0], "port": name[1]}
    return {**info, "path": name if isinstance(name, str) else name.decode("utf-8", "replace")}
