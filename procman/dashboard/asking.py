"""What the dashboard knows: it asks the daemon, each time anew, and only what changes nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from procman.control.client import Client
from procman.core.pool import PoolState
from procman.errors import NotReachable
from procman.observe import processes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PATIENCE = 1.5  # seconds for each answer: the daemon's loop takes milliseconds, and whoever asks us waits as well

_GOING = {PoolState.STOPPED.value, PoolState.STOPPING.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The daemon and its pools as `status` has them, and what keeps the service from being complete.

    The daemon and each worker have ``cpu_seconds`` as well, None when that can't be known. What `status` says in
    percent is since anybody asked last; whoever looks again and again can tell by this what happened in between.
    """

    arbiter: Mapping[str, Any]
    pools: Mapping[str, Mapping[str, Any]]
    problems: tuple[str, ...]


def look() -> View:
    """What there is now. Raises ControlError when the daemon does not answer in time."""
    with _client() as client:
        status = client.call("status")
        arbiter, pools = status["arbiter"], status["pools"]
        problems = [*client.call("check")["problems"], *_unwanted_silence(client, pools)]
    for process in (arbiter, *(worker for pool in pools.values() for worker in pool["workers"])):
        process["cpu_seconds"] = _cpu_seconds(process["pid"])
    if arbiter["state"] == "stopping":
        problems.insert(0, "the daemon is stopping")
    return View(arbiter=arbiter, pools=pools, problems=tuple(problems))


def ping() -> None:
    """Raises ControlError when the daemon does not answer in time."""
    with _client() as client:
        client.call("numwatchers")


def _client() -> Client:
    endpoint = os.environ.get("PROCMAN_ENDPOINT")
    if not endpoint:
        raise NotReachable("PROCMAN_ENDPOINT does not say where the daemon is")
    return Client(endpoint, timeout=PATIENCE)


def _cpu_seconds(pid: int | None) -> float | None:
    try:
        return processes.usage(pid).cpu_seconds if pid is not None else None
    except OSError:
        return None  # gone meanwhile, or not to be seen from here


def _unwanted_silence(client: Client, pools: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Pools that somebody has stopped. `check` is content with those, for they have all the workers they should have;
    but whoever sends requests here wants to know. One that does not start by itself is meant to be off."""
    for name, pool in pools.items():
        if pool["state"] in _GOING and client.call("get", name=name, keys=["autostart"])["options"]["autostart"]:
            yield f"{name} is {pool['state']}"
