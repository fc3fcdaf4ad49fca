"""What the core of the job runner costs: loading, choosing and settling jobs in memory; what a million of them takes.

    python -m benchmarks.scheduler [--jobs N] [--cycles N]

Rows are made as they come from a connection, fresh objects and all, before the clock runs; each measure has a process
of its own. A cycle is one job's way: chosen, read as enqueued, read as started, read as done. Seconds are CPU time,
so that whatever else the machine does counts as little as it can.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from procman.core.channels import parse
from procman.jobs.scheduler import ENQUEUED, PENDING, STARTED, Job, Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 2**20
_CHUNK = 500


@dataclass(frozen=True)
class Shape:
    """Channels, and where jobs and databases stand among them. ``target``: cycles per second, at least."""

    name: str
    channels: str
    leaves: tuple[str, ...]
    databases: int = 1
    target: int | None = None


SHAPES = (
    Shape("flat", "root:4", ("root",), target=150_000),
    Shape(
        "three levels",
        "root:4,a:3,b:3,a.x:2,a.y:2,b.x:2,b.y:2",
        ("root.a.x", "root.a.y", "root.b.x", "root.b.y"),
        target=80_000,
    ),
    Shape("1,000 channels", "root:4", tuple(f"root.c{number}" for number in range(1000))),
    Shape("fair, 100 databases", "root:4:fair", ("root",), databases=100),
    Shape("fair, 3 levels, 100", "root:4:fair,a:3,b:3,a.x:2,a.y:2", ("root.a.x", "root.a.y", "root.b"), databases=100),
)


def rows(shape: Shape, first: int, count: int) -> list[Job]:
    """Rows as they are read; ids, times and names are objects of their own, as PostgreSQL's client makes them."""
    made = []
    for number in range(first, first + count):
        channel = shape.leaves[number % len(shape.leaves)].encode().decode()
        database = f"db{number // len(shape.leaves) % shape.databases}"
        id = number + 2**40  # noqa: A001
        made.append(Job(10, 1.7e9 + number * 0.001, id, database, id, 0.0, channel, PENDING))
    return made


def load(scheduler: Scheduler, shape: Shape, jobs: int) -> tuple[float, float]:
    """CPU seconds for so many rows, and the longest time for which nothing could be dispatched meanwhile."""
    spent = longest = 0.0
    for first in range(0, jobs, _CHUNK):
        batch = rows(shape, first, min(_CHUNK, jobs - first))
        began = time.process_time()
        for row in batch:
            scheduler.put(row)
        took = time.process_time() - began
        spent += took
        longest = max(longest, took)
    return spent, longest


def cycles(scheduler: Scheduler, count: int) -> tuple[float, list[float]]:
    """Jobs per CPU second through their whole life, and how long choosing took."""
    now = 1.0
    put, choose, clock = scheduler.put, scheduler.next, time.perf_counter
    begun = []
    while job := choose(now):
        begun.append(job)
    chosen = []
    began = time.process_time()
    for number in range(count):
        job = begun[number % len(begun)]
        put(job._replace(state=STARTED))
        put(job._replace(state="done"))
        at = clock()
        job = choose(now)
        chosen.append(clock() - at)
        assert job is not None
        put(job._replace(state=ENQUEUED))
        begun[number % len(begun)] = job
    return count / (time.process_time() - began), chosen


def resident() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


def measure(shape: Shape, jobs: int, count: int) -> Iterator[tuple[str, str]]:
    scheduler = Scheduler(parse(shape.channels))
    gc.collect()
    before = resident()
    spent, longest = load(scheduler, shape, jobs)
    gc.collect()
    memory = resident() - before
    rate, chosen = cycles(scheduler, min(count, jobs // 2))
    chosen.sort()
    verdict = "" if shape.target is None else f"  target ≥ {shape.target:,}: {'yes' if rate >= shape.target else 'NO'}"
    yield (
        "load",
        f"{jobs / spent:>11,.0f} rows/s, {spent:.2f} s in all, 500 rows in {1000 * longest:.1f} ms at most",
    )
    yield "memory", f"{memory / jobs:>11.0f} B/job, {memory / MIB:.0f} MiB"
    yield "cycles", f"{rate:>11,.0f} /s{verdict}"
    p99 = chosen[len(chosen) * 99 // 100]
    yield "choose", f"{statistics.median(chosen) * 1e6:>11.1f} µs, p99 {p99 * 1e6:.1f}, at most {chosen[-1] * 1e6:.0f}"


def show(shape: Shape, jobs: int, count: int) -> None:
    print(f"\n{shape.name}, {jobs:,} pending", flush=True)
    for name, text in measure(shape, jobs, count):
        print(f"  {name:<8} {text}", flush=True)


def apart(run: Callable[..., None], *arguments: object) -> None:
    """In a new process, whose memory nobody has used before."""
    process = multiprocessing.get_context("spawn").Process(target=run, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(process.exitcode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="how many wait (default: a million)")
    parser.add_argument("--cycles", type=int, default=100_000)
    options = parser.parse_args()
    for shape in SHAPES:
        apart(show, shape, options.jobs, options.cycles)


if __name__ == "__main__":
    main()
