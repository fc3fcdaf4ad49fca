"""What a look at a worker's record finds, and what only the kernel knows of its unit."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from procman.core.limits import cpu_tick

if TYPE_CHECKING:
    from procman.core.sample import Sample
    from procman.daemon.processes import WorkerProcess

# The kernel's number for the CPU clock of another process (clock_getcpuclockid(3), as glibc makes it).
_SCHEDULED = 2


def cpu_clock(pid: int) -> float:
    """The seconds of CPU that the process has used. Raises OSError when it is gone."""
    return time.clock_gettime(~pid << 3 | _SCHEDULED)


def with_cpu_of_unit(worker: WorkerProcess, sample: Sample, now: float) -> Sample:
    """The sample with the CPU time of its unit, when that can have passed its limit."""
    limit = worker.spec.limits.time_cpu
    if limit is None or sample.unit is None or worker.pid is None or now - sample.unit_started < limit:
        return sample
    try:
        used = cpu_clock(worker.pid) - sample.cpu_from - cpu_tick(limit)
    except OSError:
        return sample  # its end is on its way to the arbiter
    return replace(sample, unit_cpu=max(0.0, used))
