"""Which of several runners starts the jobs of a database: the one that has the lease.

The lease is a row with a time until which it is good, on PostgreSQL's clock. Its holder renews it long before that,
and trusts it for as long as it was granted for, counted on its own clock *from before it asked*: that ends earlier than
the row says, whatever the clocks show and however long the answer took. When the time is over another one may take it.
So nobody's jobs wait longer than `LEASE` for a leader that was killed, stopped or cut off; for one that is known to
have died on this machine, or that has said that it goes, they do not wait at all.

Between a look at the clock and the arrival of a statement there may be any time, so the statement that starts jobs asks
for the lease once more, by its token. No two runners start one job in any case: that takes a row that is pending.
"""

from __future__ import annotations

import os
import socket
from secrets import token_hex
from time import monotonic
from typing import Any, NamedTuple, Protocol

LEASE = 4.0
RENEW_EVERY = 1.25
CHANNEL = "procman_job_leader"  # notified by one that goes


class Standing(NamedTuple):
    """Whether this process leads: until when it may believe so, and when it has to ask again (CLOCK_MONOTONIC).

    ``term`` changes when somebody else may have led meanwhile: then what is known of the rows is of no use any more.
    """

    until: float
    again: float
    term: Any = None
    other: str = ""  # who leads instead

    def leads(self, now: float) -> bool:
        """It may start jobs now."""
        return now < self.until


NOBODY = Standing(0.0, 0.0)


class Leadership(Protocol):
    """``listening`` and ``asking`` are cursors of the two connections to the database."""

    def claim(self, listening: Any, asking: Any) -> Standing:
        """Lead, or go on leading, if that is possible now."""

    def release(self, listening: Any, asking: Any) -> None:
        """Let another one lead, at once."""


_CLAIM = """
INSERT INTO procman.job_leader AS leader (token, worker, host, process, since, until)
VALUES (%(token)s, %(worker)s, %(host)s, %(process)s, clock_timestamp(),
    clock_timestamp() + make_interval(secs => %(lease)s))
ON CONFLICT (id) DO UPDATE SET token = excluded.token, worker = excluded.worker, host = excluded.host,
    process = excluded.process, until = excluded.until,
    since = CASE leader.token WHEN excluded.token THEN leader.since ELSE excluded.since END
WHERE leader.token IN (excluded.token, %(dead)s) OR leader.until <= clock_timestamp()
RETURNING since
"""
_LOOK = """
SELECT token, worker, host, process, extract(epoch FROM until - clock_timestamp())::float8 FROM procman.job_leader
"""
_RELEASE = f"""
WITH gone AS (DELETE FROM procman.job_leader WHERE token = %s RETURNING id)
SELECT pg_notify('{CHANNEL}', '') FROM gone
"""


class Lease:
    """The lease of one database, as this process sees it."""

    def __init__(self, worker: str, *, lease: float = LEASE, renew_every: float = RENEW_EVERY) -> None:
        self.token = token_hex(16)
        self._lease = lease
        self._renew_every = renew_every
        self._words = {
            "token": self.token,
            "worker": worker,
            "host": socket.gethostname(),
            "process": this_process(),
            "lease": lease,
        }

    def claim(self, listening: Any, asking: Any) -> Standing:
        """As `Leadership.claim`."""
        standing, dead = self._try(asking, "")
        if dead:
            standing, _ = self._try(asking, dead)
        return standing

    def _try(self, asking: Any, dead: str) -> tuple[Standing, str]:
        """The standing, and the token of a leader that is known to have died."""
        before = monotonic()
        asking.execute(_CLAIM, {**self._words, "dead": dead})
        if found := asking.fetchone():
            return Standing(before + self._lease, before + self._renew_every, found[0]), ""
        asking.execute(_LOOK)
        if not (found := asking.fetchone()):
            return Standing(0.0, before), ""  # released in this very moment
        token, worker, host, process, left = found
        # A little later than it ends, and never for longer than one is granted: the row may come from another clock.
        again = monotonic() + min(max(left, 0.0), self._lease) + 0.02
        return Standing(0.0, again, other=f"{worker} on {host}"), token if has_died(process) else ""

    def release(self, listening: Any, asking: Any) -> None:
        """As `Leadership.release`."""
        asking.execute(_RELEASE, (self.token,))


def this_process() -> str:
    """What names this process among all, as far as its kernel can tell: boot, namespace of pids, pid, time of start."""
    return _named(os.getpid()) or ""


def has_died(name: str) -> bool:
    """The process of that name has certainly ended: it would be seen here, and is not."""
    try:
        pid = int(name.split()[2])
    except (IndexError, ValueError):
        return False
    return name.split()[:2] == this_process().split()[:2] and _named(pid) != name


def _named(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            state, *fields = file.read().rpartition(") ")[2].split()
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return None
    # proc_pid_stat(5): the 22nd field of all is the start time. A zombie starts nothing any more.
    return None if state in "ZX" else f"{boot} {namespace} {pid} {fields[18]}"
