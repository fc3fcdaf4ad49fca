"""What can be said of the jobs of a database, by its rows: for people, and for programs that show it to people.

Rows become dictionaries that JSON can say: points in time are texts in ISO 8601, in UTC, and what has not happened is
None. Every function works in the current unit, or in one of its own, and names the database only to find it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from procman import signaling
from procman.core.channels import full_name

if TYPE_CHECKING:
    from collections.abc import Sequence

STATES = ("wait_dependencies", "pending", "enqueued", "started", "done", "failed", "cancelled")
OVER = ("done", "failed", "cancelled")

# The keys of a job in every list, in this order.
_BRIEF = """
    job.uuid::text AS uuid, job.state, job.channel, job.function, job.description, job.priority, job.identity_key,
    job.retry, job.max_retries, job.attempt, job.eta, job.date_created, job.date_enqueued, job.date_started,
    job.date_done, job.exec_time, job.worker, job.worker_host, job.worker_pid, job.exc_name, job.exc_message,
    CASE WHEN progress.job_id IS NOT NULL THEN jsonb_build_object('done', progress.done, 'total', progress.total,
        'note', progress.note, 'attempt', progress.number, 'at', to_char(progress.at AT TIME ZONE 'UTC',
        'YYYY-MM-DD"T"HH24:MI:SS.US+00:00')) END AS progress
"""
_FROM = "FROM procman.job AS job LEFT JOIN procman.job_progress AS progress ON progress.job_id = job.id"

_WANTED = """
WHERE (%(states)s::text[] IS NULL OR job.state = ANY(%(states)s))
    AND (%(phases)s::text[] IS NULL OR job.phase = ANY(%(phases)s))
    AND (%(channel)s::text IS NULL OR job.channel = %(channel)s OR starts_with(job.channel, %(channel)s || '.'))
    AND (%(function)s::text IS NULL OR strpos(lower(job.function), lower(%(function)s)) > 0)
    AND (%(since)s::float8 IS NULL OR job.date_created >= clock_timestamp() - make_interval(secs => %(since)s))
ORDER BY job.id DESC LIMIT %(limit)s
"""
_LIST = f"SELECT {_BRIEF} {_FROM} {_WANTED}"
_UUIDS = f"SELECT job.uuid::text FROM procman.job AS job {_WANTED}"
_STATES_OF = "SELECT uuid::text, state FROM procman.job WHERE uuid = ANY(%s::uuid[])"

_FULL = f"""
SELECT {_BRIEF}, job.args, job.kwargs, job.result, job.exc_info, job.retry_pattern, job.timeout, job.batch,
    job.graph::text AS graph, job.id {_FROM} WHERE job.uuid = %s
"""

_ATTEMPTS = """
SELECT number, worker, worker_host, worker_pid, date_started, date_ended, seconds, outcome, reason, exc_name,
    exc_message, exc_info
FROM procman.job_history WHERE job_id = %s ORDER BY number
"""

_PARENTS = """
SELECT job.uuid::text, job.state, job.function FROM procman.job_dependency AS edge
JOIN procman.job AS job ON job.id = edge.parent WHERE edge.child = %s ORDER BY job.id LIMIT %s
"""
_CHILDREN = """
SELECT job.uuid::text, job.state, job.function FROM procman.job_dependency AS edge
JOIN procman.job AS job ON job.id = edge.child WHERE edge.parent = %s ORDER BY job.id LIMIT %s
"""

_BY_CHANNEL = """
SELECT channel, state, count(*) AS jobs, min(date_created) FILTER (WHERE eta IS NULL OR eta <= clock_timestamp())
FROM procman.job WHERE phase IN ('live', 'waiting', 'failed') GROUP BY channel, state
"""

# In which phase a state is: the partial indexes are by phase.
_PHASES = {"wait_dependencies": "waiting", "failed": "failed", "done": "over", "cancelled": "over"}

MOST_RELATIVES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which jobs: what is left empty does not matter.

    ``channel`` is meant with those below it, ``function`` is a part of its name, ``since`` is seconds ago.
    """

    states: Sequence[str] = ()
    channel: str | None = None
    function: str | None = None
    since: float | None = None
    limit: int | None = 50

    def values(self) -> dict[str, Any]:
        """For the statements."""
        phases = {_PHASES.get(state, "live") for state in self.states}
        return {
            "states": list(self.states) or None,
            "phases": sorted(phases) or None,
            "channel": None if self.channel is None else full_name(self.channel),
            "function": self.function,
            "since": self.since,
            "limit": self.limit,
        }


def counts(database: str | None = None) -> dict[str, int]:
    """How many jobs are in each state, as the current unit sees it; all states are there."""
    with signaling.cursor(database) as cr:
        cr.execute("SELECT state, count(*) FROM procman.job GROUP BY state")
        found = dict(cr.fetchall())
    return {state: found.get(state, 0) for state in STATES}


def listing(wanted: Wanted, database: str | None = None) -> list[dict[str, Any]]:
    """The jobs that are wanted, the youngest first."""
    with signaling.cursor(database) as cr:
        cr.execute(_LIST, wanted.values())
        return _dictionaries(cr)


def uuids(wanted: Wanted, database: str | None = None) -> list[str]:
    """Those of the jobs that are wanted, the youngest first."""
    with signaling.cursor(database) as cr:
        cr.execute(_UUIDS, wanted.values())
        return [uuid for (uuid,) in cr.fetchall()]


def states_of(these: Sequence[str], database: str | None = None) -> dict[str, str]:
    """uuid → state, of those that there are."""
    with signaling.cursor(database) as cr:
        cr.execute(_STATES_OF, (list(these),))
        return dict(cr.fetchall())


def find(prefix: str, database: str | None = None, most: int = 5) -> list[str]:
    """The uuids that begin with these hexadecimal digits, hyphens or not; at most so many of them."""
    digits = prefix.replace("-", "").lower()
    first, last = (str(UUID(digits.ljust(32, filling))) for filling in "0f")
    with signaling.cursor(database) as cr:
        cr.execute(
            "SELECT uuid::text FROM procman.job WHERE uuid BETWEEN %s AND %s ORDER BY uuid LIMIT %s",
            (first, last, most),
        )
        return [uuid for (uuid,) in cr.fetchall()]


def details(uuid: str, database: str | None = None) -> dict[str, Any] | None:
    """All there is to know of a job: its row, its attempts with their stacks, what it depends on and what on it."""
    with signaling.cursor(database) as cr:
        cr.execute(_FULL, (uuid,))
        found = _dictionaries(cr)
        if not found:
            return None
        job = found[0]
        id = job.pop("id")  # noqa: A001
        cr.execute(_ATTEMPTS, (id,))
        job["attempts"] = _dictionaries(cr)
        for name, statement in (("depends_on", _PARENTS), ("dependents", _CHILDREN)):
            cr.execute(statement, (id, MOST_RELATIVES))
            job[name] = _dictionaries(cr)
    return job


def circumstances(database: str | None = None) -> dict[str, Any]:
    """What the database says to its runners, and which of them leads: ``channels`` and ``leader``."""
    with signaling.cursor(database) as cr:
        cr.execute("SELECT name, paused, since, by FROM procman.job_channel ORDER BY name")
        channels = _dictionaries(cr)
        cr.execute("SELECT worker, host, since, until > clock_timestamp() AS alive FROM procman.job_leader")
        leader = _dictionaries(cr)
    return {"channels": channels, "leader": leader[0] if leader else None}


def named(ids: Sequence[int], database: str | None = None) -> dict[int, dict[str, Any]]:
    """``uuid``, ``function`` and ``worker`` of these jobs, for whom their ids say nothing."""
    with signaling.cursor(database) as cr:
        cr.execute("SELECT id, uuid::text, function, worker FROM procman.job WHERE id = ANY(%s)", (list(ids),))
        return {one.pop("id"): one for one in _dictionaries(cr)}


def by_channel(database: str | None = None) -> dict[str, dict[str, Any]]:
    """For each channel that has jobs which are not over, or have failed: how many by state, and the oldest that waits
    for nothing but its turn."""
    channels: dict[str, dict[str, Any]] = {}
    with signaling.cursor(database) as cr:
        cr.execute(_BY_CHANNEL)
        for channel, state, number, oldest in cr.fetchall():
            found = channels.setdefault(channel, {"states": {}, "oldest_pending": None})
            found["states"][state] = number
            if state == "pending":
                found["oldest_pending"] = _plain(oldest)
    return channels


def _dictionaries(cr: Any) -> list[dict[str, Any]]:
    names = [column.name for column in cr.description]
    return [dict(zip(names, map(_plain, row), strict=True)) for row in cr.fetchall()]


def _plain(value: Any) -> Any:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
