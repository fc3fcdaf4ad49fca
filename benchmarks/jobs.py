"""What jobs cost, beside OCA's queue_job, procrastinate and pgqueuer, on one PostgreSQL in one run.

    python -m benchmarks.jobs [--rounds N] [--peers DIRECTORY] [NAME…]     (from the root of the repository)

The others are installed from the package index into a virtual environment in DIRECTORY, which is kept. All of them
run at the same time and take turns, so that whatever else the machine does meets all of them; medians are printed,
with their ratio to procman's, and procman's targets. Every job does nothing but note the moment at which it is begun;
four run at a time. Wall-clock times are those of the machine as it is: compare only what was measured in the same run,
and believe no missed target on a busy machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.processes import cpu_seconds, cpu_ticks, directory_with, pss
from benchmarks.queues import (
    URGENT,
    Oca,
    Pgqueuer,
    PgqueuerBatches,
    Procman,
    ProcmanBatches,
    ProcmanOca,
    Procrastinate,
    Queue,
    environment,
)
from tests.support.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Figures = dict[str, list[float]]

RUNNERS: tuple[type[Queue], ...] = (Procman, ProcmanOca, Oca)
MOST_RESCUE = 90.0


class Table:
    """Prints the rows of one measure."""

    def __init__(self, title: str) -> None:
        print(f"\n{title}", flush=True)

    def compare(
        self, figures: dict[str, float], unit: str, target: float | None = None, *, least: bool = False
    ) -> None:
        """The figures with their ratio to procman's, the first, and the target of that one."""
        own = next(iter(figures.values()))
        for name, figure in figures.items():
            verdict = ""
            if target is not None and name == Procman.name:
                reached = figure >= target if least else figure <= target
                verdict = f"   target {'≥' if least else '≤'} {target:g} {unit}: {'yes' if reached else 'NO'}"
            ratio = f"{figure / own:9.2f} x" if own else ""
            print(f"  {name:<20} {figure:10.2f} {unit} {ratio}{verdict}", flush=True)


@contextlib.contextmanager
def running(
    options: argparse.Namespace, kinds: tuple[type[Queue], ...], *, processes: int = 1
) -> Iterator[list[Queue]]:
    """All of them at once, each with its four workers, warm."""
    with contextlib.ExitStack() as stack:
        queues = []
        for kind in kinds:
            queue = kind(options.peers, stack.enter_context(directory_with()), options.server)
            stack.callback(queue.drop)
            stack.callback(queue.stop)
            queue.start(processes)
            queues.append(queue)
        for queue in queues:
            queue.produce(100)
            queue.wait_begun(100)
        time.sleep(0.5)
        yield queues


def percentile(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


# -- measures ----------------------------------------------------------------------------------------------


def latency(options: argparse.Namespace) -> None:
    """Commit → the job is asked for, and begun; one job at a time."""
    begun: Figures = {}
    asked: Figures = {}
    with running(options, (*RUNNERS, Procrastinate, Pgqueuer)) as queues:
        for _ in range(options.commits):
            for queue in queues:
                _, committed = queue.produce()
                for mark in queue.wait_begun(1):
                    kind = begun if mark.kind == "s" else asked
                    kind.setdefault(queue.name, []).append(1000 * (mark.at - committed))
                time.sleep(0.01)
    for percent, started, request in ((50, 2.5, 1.0), (99, 9.0, 3.0)):
        figures = {name: percentile(values, percent) for name, values in begun.items()}
        Table(f"commit → begun, p{percent} of {options.commits}").compare(figures, "ms", started)
        figures = {name: percentile(values, percent) for name, values in asked.items()}
        Table(f"commit → request, p{percent} of {options.commits}").compare(figures, "ms", request)


def throughput(options: argparse.Namespace) -> None:
    """2,000 jobs in one commit."""
    rates: Figures = {}
    costs: Figures = {}
    kinds = (*RUNNERS, ProcmanBatches, Procrastinate, Pgqueuer, PgqueuerBatches)
    with running(options, kinds) as queues:
        for _ in range(options.rounds):
            for queue in queues:
                runner = queue.runner()
                before = cpu_ticks(runner) if runner else 0.0
                _, committed = queue.produce(options.jobs)
                marks = queue.wait_begun(options.jobs, every=0.05)
                took = max(mark.at for mark in marks) - committed
                rates.setdefault(queue.name, []).append(options.jobs / took)
                time.sleep(0.5)
                if runner:
                    cost = 1000 * (cpu_ticks(runner) - before) / options.jobs
                    costs.setdefault(queue.name, []).append(cost)
    Table(f"jobs per second, {options.jobs:,} in one commit").compare(_medians(rates), "/s", 700, least=True)
    Table("the runner's CPU per job").compare(_medians(costs), "ms", 0.3)


def big_commit(options: argparse.Namespace) -> None:
    """20,000 jobs in one commit: until the first one is begun."""
    first: Figures = {}
    for _ in range(max(1, options.rounds // 2)):
        with running(options, (*RUNNERS, Procrastinate, Pgqueuer)) as queues:
            for queue in queues:
                _, committed = queue.produce(20_000)
                marks = queue.wait_begun(1, every=0.005)
                began = min(mark.at for mark in marks if mark.kind == "s")
                first.setdefault(queue.name, []).append(max(0.0, 1000 * (began - committed)))
                queue.stop()
    title = "20,000 jobs in one commit → the first one is begun (0: before the call that enqueues had returned)"
    Table(title).compare(_medians(first), "ms", 60)


def urgent(options: argparse.Namespace) -> None:
    """30 urgent jobs, each committed while 5,000 others wait."""
    took: Figures = {}
    for _ in range(max(1, options.rounds // 2)):
        with running(options, (*RUNNERS, Procrastinate, Pgqueuer)) as queues:
            for queue in queues:
                queue.produce(5_000)
                queue.wait_begun(20, every=0.005)
                committed = {}
                for _ in range(30):
                    (key,), at = queue.produce(urgent=URGENT)
                    committed[key] = at
                    time.sleep(0.02)
                while len(committed):
                    for mark in queue.wait_begun(1, every=0.005):
                        if mark.kind == "s" and mark.key in committed:
                            at = committed.pop(mark.key)
                            took.setdefault(queue.name, []).append(1000 * (mark.at - at))
                queue.stop()
    for percent, target in ((50, 6), (90, 10), (100, 60)):
        figures = {name: percentile(values, percent) for name, values in took.items()}
        Table(f"an urgent job under 5,000 that wait: p{percent}").compare(figures, "ms", target)


def million(options: argparse.Namespace) -> None:
    """The runner starts, and finds a million jobs that wait."""
    load: dict[str, float] = {}
    first: dict[str, float] = {}
    memory: dict[str, float] = {}
    for kind in RUNNERS:
        with directory_with() as directory:
            queue = kind(options.peers, directory, options.server)
            queue.fill(options.many)
            try:
                began, began_at = time.monotonic(), time.time()
                queue.start()
                runner = queue.runner()
                assert runner is not None
                first[queue.name] = min(mark.at for mark in queue.wait_begun(1) if mark.kind == "s") - began_at
                load[queue.name] = _until_idle(runner) - began
                memory[queue.name] = pss(runner)
            finally:
                queue.stop()
                queue.drop()
    Table(f"{options.many:,} jobs wait when the runner starts: until all are known").compare(load, "s", 7)
    Table("… until the first one is begun").compare(first, "s")
    Table("… memory of the runner").compare(memory, "MiB", 250)


def _until_idle(pid: int) -> float:
    """When it has used hardly any processor time for five seconds: the beginning of those."""
    since, spent = time.monotonic(), cpu_seconds(pid)
    while time.monotonic() - since < 5:
        time.sleep(0.05)
        if (now := cpu_seconds(pid)) - spent > 0.02:
            since, spent = time.monotonic(), now
    return since


def rescue(options: argparse.Namespace) -> None:
    """kill -9 of the worker of a job → the job is begun again; nothing else to do."""
    found: Figures = {}
    with running(options, (*RUNNERS, Procrastinate, Pgqueuer), processes=2) as queues:
        killed = {}
        for queue in queues:
            queue.produce(seconds=300)
            (pid,) = {mark.pid for mark in queue.wait_begun(1) if mark.kind == "s"}
            os.kill(pid, signal.SIGKILL)
            killed[queue.name] = time.time()
        for queue in queues:
            left = max(0.01, MOST_RESCUE - (time.time() - killed[queue.name]))
            again = [mark.at for mark in queue.wait_begun(1, seconds=left, every=0.01) if mark.kind == "s"]
            found[queue.name] = [again[0] - killed[queue.name] if again else float("inf")]
    Table(f"kill -9 of its worker → the job is begun again (watched for {MOST_RESCUE:g} s)").compare(
        _medians(found), "s", 0.5
    )


def _medians(found: Figures) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in found.items()}


MEASURES: dict[str, Callable[[argparse.Namespace], None]] = {
    measure.__name__: measure for measure in (latency, throughput, big_commit, urgent, million, rescue)
}


def main() -> None:
    """Print a table for each measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to measure: {', '.join(MEASURES)}")
    parser.add_argument("--rounds", type=int, default=3, help="how often")
    parser.add_argument("--commits", type=int, default=200, help="single jobs for latency")
    parser.add_argument("--jobs", type=int, default=2_000, help="jobs for throughput")
    parser.add_argument("--many", type=int, default=1_000_000, help="jobs that wait when the runner starts")
    parser.add_argument("--peers", type=Path, default=Path(tempfile.gettempdir()) / f"procman-queues-{os.getuid()}")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left running
    options.peers = environment(options.peers.absolute())
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, Python {sys.version.split()[0]}")
    with directory_with() as directory:
        options.server = Server(str(directory), {"shared_buffers": "128MB", "max_connections": "200"})
        try:
            for name in options.names or MEASURES:
                MEASURES[name](options)
        finally:
            options.server.stop()


if __name__ == "__main__":
    main()
