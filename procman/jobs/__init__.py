"""Background jobs: calls that are kept in PostgreSQL and made later, by a worker of an http pool.

A job is enqueued in the transaction of the unit that asks for it, and its own work commits together with its
``done``. It is started at least once and its effect on the database happens exactly once; what it does elsewhere
should bear being done again.
"""

from procman.jobs.function import Delayed, JobFunction, job
from procman.jobs.report import counts
from procman.jobs.retry import FailedJobError, RetryableJobError

__all__ = ["Delayed", "FailedJobError", "JobFunction", "RetryableJobError", "counts", "job"]
