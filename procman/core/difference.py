"""What a new configuration means for a pool that there is already: nothing, something live, a reload, or another pool.

Rules of this file: what a worker has inherited, or was told when it started, takes another worker (`ROLLING`); what
the arbiter alone goes by, and what a worker can be told while it serves (its limits), takes none (`LIVE`). A test sees
to it that every field of a specification is in one of these. Of its work a worker can be told anew the channels of a
job runner, and nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING

from procman.core.spec import JobrunnerWork

if TYPE_CHECKING:
    from procman.core.spec import PoolSpec, Work

LIVE = frozenset(
    {
        "workers",
        "scaling",
        "limits",
        "autostart",
        "essential",
        "depends_on",
        "start_timeout",
        "stop_timeout",
        "stop_signal",
        "kill_timeout",
        "hang_timeout",
        "backoff",
        "max_restarts",
        "restart_window",
        "reload",
        "recycle_at_once",
        "kill_mode",
        "hooks",
    }
)

ROLLING = frozenset(
    {
        "work",
        "working_dir",
        "env",
        "user",
        "group",
        "umask",
        "nice",
        "rlimits",
        "oom_score_adj",
        "stdout",
        "stderr",
        "relaxed",
    }
)


class Change(Enum):
    NOTHING = "nothing"
    LIVE = "live"
    ROLLING = "rolling"
    REPLACE = "replace"  # another pool, which has nothing in common with this one but its name


def change(before: PoolSpec, after: PoolSpec) -> Change:
    """What it takes to turn the one into the other."""
    if before.kind is not after.kind:
        return Change.REPLACE
    if any(getattr(before, name) != getattr(after, name) for name in ROLLING - {"work"}):
        return Change.ROLLING
    if _with_live_work(before.work, after.work) != after.work:
        return Change.ROLLING
    return Change.NOTHING if before == after else Change.LIVE


def with_live_part(spec: PoolSpec, of: PoolSpec) -> PoolSpec:
    """What a worker of the first goes by when the second is in force."""
    work = _with_live_work(spec.work, of.work)
    return replace(spec, work=work, **{name: getattr(of, name) for name in LIVE})


def _with_live_work(work: Work, of: Work) -> Work:
    if isinstance(work, JobrunnerWork) and isinstance(of, JobrunnerWork):
        return replace(work, channels=of.channels)
    return work
