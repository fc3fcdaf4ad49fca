"""Jobs that are over are forgotten after a while: a few at a time, by the runner that leads, and never in the way.

Those that failed are kept until somebody has dealt with them, and those for whose result others still wait.
"""

from __future__ import annotations

import logging
import random
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg2

from procman.core.channels import ROOT, full_name
from procman.errors import DatabaseSetupError, DatabaseUnavailable, NoDatabase

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from procman.jobs.dialect import Dialect
    from procman.jobs.hub import Task
    from procman.jobs.link import Link

log = logging.getLogger("procman.jobs")

EVERY = 300.0  # seconds between two rounds
BATCH = 500
SHARE = 0.1  # of the time, at most, in which it has PostgreSQL do something
_LEAST_PAUSE = 0.05

# The channels of which there are jobs that are over, by skipping through the index: a loose index scan.
_CHANNELS = """
WITH RECURSIVE known AS (
    (SELECT channel FROM procman.job WHERE phase = 'over' ORDER BY channel LIMIT 1)
    UNION ALL
    SELECT (SELECT job.channel FROM procman.job AS job WHERE phase = 'over' AND job.channel > known.channel
            ORDER BY job.channel LIMIT 1)
    FROM known WHERE known.channel IS NOT NULL
)
SELECT channel FROM known WHERE channel IS NOT NULL
"""

_FORGET = """
WITH old AS (
    SELECT id FROM procman.job AS job
    WHERE phase = 'over' AND channel = %s
        AND coalesce(date_done, date_created) < clock_timestamp() - make_interval(secs => %s)
        AND NOT EXISTS (
            SELECT FROM procman.job_dependency AS edge JOIN procman.job AS child ON child.id = edge.child
            WHERE edge.parent = job.id AND child.phase IN ('waiting', 'live'))
    ORDER BY coalesce(date_done, date_created) LIMIT %s FOR UPDATE SKIP LOCKED
), edges AS (
    DELETE FROM procman.job_dependency WHERE parent IN (SELECT id FROM old)
)
DELETE FROM procman.job WHERE id IN (SELECT id FROM old)
"""


class Ages:
    """For how many seconds the jobs of each channel are kept when they are over; None: for ever.

    What is said of a channel counts for those below it, of which nothing is said.
    """

    def __init__(self, said: Iterable[tuple[str, float | None]]) -> None:
        self._said = {full_name(name): seconds for name, seconds in said}

    def of(self, channel: str) -> float | None:
        name = full_name(channel)
        while name not in self._said:
            if name == ROOT:
                return None
            name = name.rpartition(".")[0]
        return self._said[name]


def forget(cr: Any, ages: Ages, most: int = BATCH) -> bool:
    """Delete some jobs that are old enough; whether there may be more of them."""
    cr.execute(_CHANNELS)
    for (channel,) in cr.fetchall():
        seconds = ages.of(channel)
        if seconds is not None:
            cr.execute(_FORGET, (channel, seconds, most))
            if cr.rowcount:
                return True
    return False


class Housekeeper:
    """Goes around the databases that its runner leads in, over a connection of its own."""

    def __init__(self, links: Mapping[str, Link], ages: Ages, every: float) -> None:
        self._links = links
        self._ages = ages
        self._every = every

    def run(self, task: Task) -> None:
        while True:
            # Not all runners of a cluster at once.
            task.pause(monotonic() + self._every * random.uniform(0.5, 1.0))
            for link in list(self._links.values()):
                if link.standing.leads(monotonic()):
                    self._tidy(link.feed.database, link.feed.dialect, task)

    def _tidy(self, database: str, dialect: Dialect, task: Task) -> None:
        connection = None
        try:
            connection = dialect.connect(database, listen=False)
            with connection.cursor() as cr:
                while True:
                    began = monotonic()
                    if not dialect.forget(cr, self._ages):
                        return
                    now = monotonic()
                    task.pause(now + max(_LEAST_PAUSE, (now - began) * (1 / SHARE - 1)))
        except (DatabaseUnavailable, DatabaseSetupError, NoDatabase, psycopg2.Error) as error:
            log.info("Database %s: old jobs are not forgotten this time: %s", database, str(error).strip())
        finally:
            if connection is not None:
                connection.close()
