"""Which runner starts the jobs of an Odoo database: the one that has queue_job's advisory lock.

The runner of queue_job takes the same lock, where its version does that, so no two runners of whichever kind are at
work in one database. PostgreSQL lets the lock go with the session, at once when the process ends; when the machine has
gone, the server has to find that out, and is told to do so soon.

The lock is held by the session that also marks jobs as enqueued: as long as that is possible, the lock is held. Where
that one goes through a pooler, which lends a session for one transaction, it is the other session that has to hold it.
"""

from __future__ import annotations

import math
from time import monotonic
from typing import Any

from procman.jobs.leadership import Standing

LOCK = 2293787760715711918  # queue_job's
ASK_AGAIN = 1.0
BEAT_EVERY = 5.0
TRUSTED = 8.0  # for how long a session is believed to be there

# runtime-config-connection: on unix sockets they mean nothing, and do no harm.
SESSION = """
SET tcp_keepalives_idle = 2; SET tcp_keepalives_interval = 1; SET tcp_keepalives_count = 2; SET tcp_user_timeout = 4000
"""

# A lock of one bigint is shown as two halves, with objsubid 1 (PostgreSQL, 53.13).
_WHO = """
SELECT coalesce(nullif(application_name, ''), 'process ' || pid), coalesce(host(client_addr), 'the database''s host')
FROM pg_locks JOIN pg_stat_activity AS session USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND database = session.datid
    AND session.datname = current_database() AND (classid::bigint << 32) | objid::bigint = %s
"""


class AdvisoryLock:
    """The lock of one database, as this process sees it."""

    def __init__(self) -> None:
        self._held_by: Any = None  # the connection

    def claim(self, listening: Any, asking: Any) -> Standing:
        """As `Leadership.claim`."""
        before = monotonic()
        holder = _holder(listening, asking)
        if self._held_by is holder.connection:
            holder.execute("SELECT 1")  # whether the session is still there
        else:
            holder.execute("SELECT pg_try_advisory_lock(%s)", (LOCK,))
            if not holder.fetchone()[0]:
                self._held_by = None
                holder.execute(_WHO, (LOCK,))
                who = holder.fetchone()
                return Standing(0.0, before + ASK_AGAIN, other=f"{who[0]} on {who[1]}" if who else "")
            self._held_by = holder.connection
        return Standing(math.inf if holder is asking else before + TRUSTED, before + BEAT_EVERY, self._held_by)

    def release(self, listening: Any, asking: Any) -> None:
        """As `Leadership.release`."""
        self._held_by = None
        _holder(listening, asking).execute("SELECT pg_advisory_unlock(%s)", (LOCK,))


def _holder(listening: Any, asking: Any) -> Any:
    ways = [(info.host, info.port) for info in (listening.connection.info, asking.connection.info)]
    return asking if ways[0] == ways[1] else listening
