"""Figures of jobs for Prometheus, by what job runners have published: no database is asked for a scrape.

Labels are db, channel, state, outcome and reason. Channels that are named after customers are many: runners count those
beyond the first hundred together, and leave out the emptiest where there are too many to be told of.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Sample = tuple["Mapping[str, str]", float]
Family = tuple[str, str, str, list[Sample]]

# What is counted now and then, because it takes a query, and what the runner knows from one moment to the next.
_HELP = "Jobs: pending, running (offered to a worker or started), failed, wait_dependencies; these two each minute."


def families(runners: Mapping[str, Mapping[str, Any]], now: float) -> Iterator[Family]:
    """Gauges and counters of these runners, by the name of their pool; ``now`` is seconds since the epoch."""
    if not runners:
        return
    jobs: list[Sample] = []
    ages: list[Sample] = []
    for pool, figures in runners.items():
        for database, channel, state, number, oldest in figures["jobs"]:
            labels = {"pool": pool, "db": database, "channel": channel}
            jobs.append(({**labels, "state": state}, number))
            if oldest is not None:
                ages.append((labels, round(max(0.0, now - oldest), 3)))
    yield "procman_jobs", "gauge", _HELP, jobs
    yield "procman_jobs_oldest_pending_seconds", "gauge", "Age of the oldest job that could start.", ages
    yield from _channels(runners)
    yield from _databases(runners)
    yield from _totals(runners)


def _channels(runners: Mapping[str, Mapping[str, Any]]) -> Iterator[Family]:
    def of(key: str) -> list[Sample]:
        return [
            ({"pool": pool, "channel": name}, float(channel[key]))
            for pool, figures in runners.items()
            for name, channel in figures["channels"].items()
            if channel[key] is not None
        ]

    yield "procman_jobs_channel_capacity", "gauge", "Jobs that may run at once in it and below it.", of("capacity")
    yield "procman_jobs_channel_running", "gauge", "Slots that are taken in it and below it.", of("running")
    yield "procman_jobs_channel_waiting", "gauge", "Jobs that wait in it and below it.", of("waiting")
    yield "procman_jobs_channel_paused", "gauge", "1: nothing is started in it and below it.", of("paused")


def _databases(runners: Mapping[str, Mapping[str, Any]]) -> Iterator[Family]:
    def of(holds: Any) -> list[Sample]:
        return [
            ({"pool": pool, "db": name}, float(holds(database["state"])))
            for pool, figures in runners.items()
            for name, database in figures["databases"].items()
        ]

    up = of(lambda state: state not in ("down", "absent", "starting"))
    yield "procman_jobs_db_up", "gauge", "1: the runner is connected to the database.", up
    yield "procman_jobs_leader", "gauge", "1: this runner starts the jobs of the database.", of("leads".__eq__)


def _totals(runners: Mapping[str, Mapping[str, Any]]) -> Iterator[Family]:
    ended: list[Sample] = [
        ({"pool": pool, "channel": channel, "outcome": outcome}, number)
        for pool, figures in runners.items()
        for channel, ends in figures["ended"].items()
        for outcome, number in ends.items()
    ]
    yield "procman_jobs_ended_total", "counter", "Tries that have ended, since the runner started.", ended
    for key, label, text in (
        ("rescued", "db", "Tries that were found dead, and whose jobs were queued again."),
        ("refused", "reason", "Jobs that a worker did not take: they are offered again."),
    ):
        counted: list[Sample] = [
            ({"pool": pool, label: name}, number)
            for pool, figures in runners.items()
            for name, number in figures[key].items()
        ]
        yield f"procman_jobs_{'http_errors' if key == 'refused' else key}_total", "counter", text, counted
    is_open: list[Sample] = [({"pool": pool}, float(figures["target"]["open"])) for pool, figures in runners.items()]
    yield "procman_jobs_target_open", "gauge", "1: the pool or URL that runs the jobs takes them.", is_open
    lag: list[Sample] = [({"pool": pool}, figures["lag"]) for pool, figures in runners.items()]
    yield "procman_jobs_loop_lag_seconds", "gauge", "How late the runner's loop was when it last said something.", lag


def histograms(runners: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, list[tuple[str, Sample]]]]:
    """(name, help, samples with their suffixes) of the times that jobs have waited and run."""
    for key, name, text in (
        ("waited", "procman_jobs_dispatch_seconds", "From when a job could start until it did, in its first try."),
        ("ran", "procman_jobs_run_seconds", "How long tries took that succeeded."),
    ):
        samples = [
            sample
            for pool, figures in runners.items()
            for channel, times in figures["times"].items()
            for sample in _histogram({"pool": pool, "channel": channel}, times[key], figures["bounds"])
        ]
        if samples:
            yield name, text, samples


def _histogram(
    labels: Mapping[str, str], times: Mapping[str, Any], bounds: Iterable[float]
) -> Iterator[tuple[str, Sample]]:
    total = 0
    for count, bound in zip(times["counts"], (*bounds, inf), strict=True):
        total += count
        yield "_bucket", ({**labels, "le": "+Inf" if bound == inf else f"{bound:g}"}, total)
    yield "_sum", (labels, times["seconds"])
    yield "_count", (labels, total)
