"""The job runner as a worker: ``python -m procman.workers.jobrunner <channel-fd>``.

It imports no application: it has jobs run by the workers of an http pool, and only waits for what becomes of them.
"""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING

from procman.core.reason import Reason
from procman.core.spec import JobrunnerWork
from procman.jobs.channels import parse
from procman.jobs.exchange import Target
from procman.jobs.runner import Runner
from procman.workers.boot import executed, run

if TYPE_CHECKING:
    from procman.workers.child import Child

_LONGEST_WAIT = 60.0


def serve(child: Child) -> None:
    """Run jobs until it is time to go; then start no more, and wait for those that run as long as one is let."""
    work = child.spec.work
    if not isinstance(work, JobrunnerWork):
        raise TypeError(f"a jobrunner pool has a JobrunnerWork, not {work!r}")
    runner = Runner(parse(work.channels), Target(work.addresses, url=work.url))
    child.ready()
    try:
        while True:
            child.attend()
            if child.retiring is None:
                child.check_limits()
            if child.retiring is Reason.LOST:
                # Without the daemon nobody is to start jobs; workers that run some finish them by themselves.
                return
            if child.retiring is not None:
                runner.stop()
            runner.turn()
            child.record.beat()
            if child.retiring is not None and runner.idle:
                return
            runner.wait(child.wake_fds, _seconds_left(child))
    finally:
        runner.close()


def _seconds_left(child: Child) -> float:
    if child.retiring is not None or child.age_deadline is None:
        return _LONGEST_WAIT
    return min(_LONGEST_WAIT, max(0.0, child.age_deadline - monotonic()))


if __name__ == "__main__":
    child = executed(int(sys.argv[1]))
    run(child, lambda: serve(child))
