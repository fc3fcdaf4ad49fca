"""Background jobs: calls that are kept in PostgreSQL and made later, by a worker of an http pool.

A job is enqueued in the transaction of the unit that asks for it, and its own work commits together with its
``done``. It is started at least once and its effect on the database happens exactly once; what it does elsewhere
should bear being done again.
"""

from procman.jobs.enqueue import Overtaken
from procman.jobs.function import Delayed, JobFunction, exact, job
from procman.jobs.graph import Enqueued, Graph, Prepared, chain, group
from procman.jobs.record import JobRecord, NotDone, cancel, get, requeue
from procman.jobs.report import counts
from procman.jobs.retry import FailedJobError, RetryableJobError, RetryJob
from procman.jobs.running import Current, current, progress

__all__ = [
    "Current",
    "Delayed",
    "Enqueued",
    "FailedJobError",
    "Graph",
    "JobFunction",
    "JobRecord",
    "NotDone",
    "Overtaken",
    "Prepared",
    "RetryJob",
    "RetryableJobError",
    "cancel",
    "chain",
    "counts",
    "current",
    "exact",
    "get",
    "group",
    "job",
    "progress",
    "requeue",
]
