"""What can be said of the jobs of a database."""

from __future__ import annotations

from procman import signaling

STATES = ("wait_dependencies", "pending", "enqueued", "started", "done", "failed", "cancelled")


def counts(database: str | None = None) -> dict[str, int]:
    """How many jobs are in each state, as the current unit sees it; all states are there."""
    with signaling.cursor(database) as cr:
        cr.execute("SELECT state, count(*) FROM procman.job GROUP BY state")
        found = dict(cr.fetchall())
    return {state: found.get(state, 0) for state in STATES}
