"""When a command is asked whether it is ready, and what follows from the answer.

Rules of this file: a command that has a probe is ready when the probe says so, and never before. It is asked as soon
as it runs, and again an interval after each question began, the answer to which had to come within the probe's timeout.
Nothing but `start_timeout` ends the asking: a refusal says only that it is too early. How one asks is known elsewhere.

A probe is about becoming ready. It is not repeated afterwards, because a command that answers slowly under load would
then be killed for its load; what has to be watched for its whole life can say so itself by ending.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from procman.core.effect import Ask
from procman.core.spec import ExecWork, Probe
from procman.core.worker import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from procman.core.effect import Effect
    from procman.core.pool import Pool
    from procman.core.worker import Worker


def probe_of(worker: Worker) -> Probe | None:
    """How this worker is asked; None when it is not."""
    work = worker.spec.work
    return work.ready if isinstance(work, ExecWork) and isinstance(work.ready, Probe) else None


def due(worker: Worker, now: float) -> Iterator[Effect]:
    """Ask the worker, if it is time to."""
    if worker.probe_at is not None and worker.probe_at <= now:
        worker.probe_at, worker.probed_at = None, now
        yield Ask(worker.id)


def answered(pool: Pool, worker: Worker, complaint: str, now: float) -> Iterator[Effect]:
    """The worker is ready (no complaint), or is to be asked again."""
    probe = probe_of(worker)
    if worker.state is not State.STARTING or probe is None or worker.probe_at is not None:
        return
    if not complaint:
        yield from pool.worker_ready(worker, now)
        return
    worker.failure = f"not ready: {complaint}"
    worker.probe_at = max(now, worker.probed_at + probe.interval)
