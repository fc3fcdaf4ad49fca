"""What the configuration of a pool says of its processes, taken on by each of them.

The nursery uses this module, and has to stay small: nothing is imported here that it does not need.
"""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING, Protocol

from procman.core.command import INHERIT, LOG, NULL, in_slot
from procman.unix.privileges import drop_to

if TYPE_CHECKING:
    from collections.abc import Iterable


class Policy(Protocol):
    """The part of `procman.core.spec.PoolSpec` that is meant."""

    @property
    def oom_score_adj(self) -> int | None: ...
    @property
    def umask(self) -> int | None: ...
    @property
    def nice(self) -> int | None: ...
    @property
    def rlimits(self) -> Iterable[tuple[str, int]]: ...
    @property
    def user(self) -> str | None: ...
    @property
    def group(self) -> str | None: ...
    @property
    def working_dir(self) -> str: ...
    @property
    def stdout(self) -> str: ...
    @property
    def stderr(self) -> str: ...


def adopt(policy: Policy) -> list[str]:
    """Take it on, in a session of our own; what had to be done otherwise, as warnings.

    Raises OSError, ValueError or ConfigurationError.
    """
    os.setsid()
    if policy.oom_score_adj is not None:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(policy.oom_score_adj))
    if policy.umask is not None:
        os.umask(policy.umask)
    if policy.nice is not None:
        os.nice(policy.nice)
    warnings = [warning for name, most in policy.rlimits if (warning := limit_resource(name, most))]
    drop_to(policy.user, policy.group)
    os.chdir(policy.working_dir)
    return warnings


def redirect(policy: Policy, *, slot: int | None = None, log_fd: int | None = None) -> None:
    """Have the pool's standard output and error from now on; ``log_fd`` is where "log" goes. Raises OSError.

    To be called before a change of user: files are opened by whoever the daemon runs as, like systemd's ``append:``.
    """
    for number, where in ((1, policy.stdout), (2, policy.stderr)):
        if where == INHERIT or (where == LOG and log_fd is None):
            continue
        if where == LOG and log_fd is not None:
            os.dup2(log_fd, number)
            continue
        path = os.devnull if where == NULL else where if slot is None else in_slot(where, slot)
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_CLOEXEC, 0o640)
        os.dup2(fd, number)
        os.close(fd)


def limit_resource(name: str, most: int) -> str:
    """Set both limits of a resource, setrlimit(2); to the hard limit, with a warning, when that can't be raised."""
    number = getattr(resource, f"RLIMIT_{name.upper()}")
    try:
        resource.setrlimit(number, (most, most))
    except ValueError:  # what Python makes of EPERM: only root may raise a hard limit
        hard = resource.getrlimit(number)[1]
        resource.setrlimit(number, (hard, hard))
        return f"The limit {name} is {hard}, because this account may not raise it to {most}"
    return ""
