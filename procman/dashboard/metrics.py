"""Figures in Prometheus' text format (exposition format 0.0.4).

Labels are pool, slot, state and reason, and of jobs their database and channel: small sets. Never a pid, never a URL,
because each new value is a new series for ever. Of two workers in one slot, during a replacement, the newer one is
shown.
"""

from __future__ import annotations

import time
from collections import Counter
from math import inf
from typing import TYPE_CHECKING, Any

from procman.core.sample import LATENCY_BOUNDS
from procman.core.worker import State
from procman.dashboard import job_metrics

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from procman.dashboard.asking import View

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_STATES = [state.value for state in State if state is not State.GONE]

Sample = tuple["Mapping[str, str]", float]


def exposition(view: View) -> str:
    """The whole page."""
    runners = {name: pool["jobs"] for name, pool in view.pools.items() if pool.get("jobs")}
    families = [
        *_daemon(view.arbiter),
        *_pools(view.pools),
        *_workers(view.pools),
        *job_metrics.families(runners, time.time()),
        *_cron(view.pools),
    ]
    return "".join([*_text(families), *_latencies(view.pools), *_job_times(runners)])


def _cron(pools: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, str, list[Sample]]]:
    """Of entries, by what cron workers have published; a database that several pools know is told of by each."""
    known = [
        ({"pool": name, "db": database}, figures)
        for name, pool in pools.items()
        for database, figures in (pool.get("cron") or {}).items()
    ]
    if not known:
        return
    for field, name, kind, text in (
        ("entries", "entries", "gauge", "Cron entries in the code."),
        ("due", "due", "gauge", "Those that are due, or are being run."),
        ("late", "late_seconds", "gauge", "For how long one has been due that nobody runs; the longest."),
        ("failing", "failing", "gauge", "Those whose last run has failed."),
        ("disabled", "disabled", "gauge", "Those that are not run: disabled, or deactivated for their failures."),
        ("runs", "runs_total", "counter", "Runs that have ended."),
    ):
        yield f"procman_cron_{name}", kind, text, [(labels, figures[field]) for labels, figures in known]


def _job_times(runners: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, text, samples in job_metrics.histograms(runners):
        yield f"# HELP {name} {text}\n# TYPE {name} histogram\n"
        for suffix, (labels, value) in samples:
            yield _line(f"{name}{suffix}", labels, value)


def _text(families: Iterable[tuple[str, str, str, list[Sample]]]) -> Iterator[str]:
    for name, kind, text, samples in families:
        yield f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
        for labels, value in samples:
            yield _line(name, labels, value)


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{pairs}}} {value!r}\n" if pairs else f"{name} {value!r}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _daemon(arbiter: Mapping[str, Any]) -> Iterator[tuple[str, str, str, list[Sample]]]:
    yield "procman_up", "gauge", "The daemon answers.", [({}, 1)]
    yield "procman_info", "gauge", "The version of procman.", [({"version": arbiter["version"]}, 1)]
    yield "procman_arbiter_uptime_seconds", "gauge", "Since the daemon started.", [({}, arbiter["uptime"])]
    yield "procman_arbiter_rss_bytes", "gauge", "Resident memory of the daemon.", [({}, arbiter["rss"])]
    cpu: list[Sample] = [({}, arbiter["cpu_seconds"])] if arbiter["cpu_seconds"] is not None else []
    yield "procman_arbiter_cpu_seconds_total", "counter", "CPU time of the daemon.", cpu


def _pools(pools: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, str, list[Sample]]]:
    for field, text in (
        ("target", "Workers wanted."),
        ("ready", "Workers that serve."),
        ("busy", "Workers in a unit."),
        ("generation", "Incremented by each reload."),
    ):
        yield f"procman_pool_{field}", "gauge", text, [({"pool": name}, pool[field]) for name, pool in pools.items()]
    backlog: list[Sample] = [({"pool": name}, pool["backlog"]) for name, pool in pools.items() if "backlog" in pool]
    yield "procman_pool_backlog", "gauge", "Connections that wait for a worker to accept them.", backlog
    parked: list[Sample] = [({"pool": name}, int(pool["parked"] is not None)) for name, pool in pools.items()]
    yield "procman_pool_parked", "gauge", "1: not restarted any more before somebody says so.", parked
    states: list[Sample] = []
    exits: list[Sample] = []
    for name, pool in pools.items():
        count = Counter(worker["state"] for worker in pool["workers"])
        states += [({"pool": name, "state": state}, count[state]) for state in _STATES]
        reasons = sorted(Counter(record["reason"] for record in pool["exits"]).items())
        exits += [({"pool": name, "reason": reason}, number) for reason, number in reasons]
    yield "procman_pool_workers", "gauge", "Workers by state.", states
    yield "procman_pool_last_exits", "gauge", "The last exits that the daemon remembers, by reason.", exits


def _workers(pools: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, str, list[Sample]]]:
    workers = [(labels, worker) for name, pool in pools.items() for labels, worker in _slots(name, pool["workers"])]
    for field, name, kind, text in (
        ("requests", "requests_total", "counter", "Units that the worker has ended."),
        ("errors", "errors_total", "counter", "Units that have failed."),
        ("rss", "rss_bytes", "gauge", "Resident memory."),
        ("uptime", "uptime_seconds", "gauge", "Since the worker started."),
        ("busy", "busy", "gauge", "1: in a unit."),
        ("unit_seconds", "unit_seconds", "gauge", "How long the worker has been in its unit; 0 when it is in none."),
    ):
        yield f"procman_worker_{name}", kind, text, [(labels, (worker[field] or 0) + 0) for labels, worker in workers]
    for field, name, kind, text in (
        ("bytes_received", "received_bytes_total", "counter", "Bodies of requests."),
        ("bytes_sent", "sent_bytes_total", "counter", "Responses."),
        ("connections", "connections", "gauge", "Open connections."),
    ):
        served: list[Sample] = [(labels, worker[field]) for labels, worker in workers if field in worker]
        yield f"procman_worker_{name}", kind, text, served
    known: list[Sample] = [
        (labels, worker["cpu_seconds"]) for labels, worker in workers if worker["cpu_seconds"] is not None
    ]
    yield "procman_worker_cpu_seconds_total", "counter", "CPU time of the worker.", known


def _latencies(pools: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The times of requests, a histogram for each worker: what is counted starts at 0 with each new one."""
    name = "procman_worker_request_seconds"
    yield f"# HELP {name} How long requests took in the application.\n# TYPE {name} histogram\n"
    for pool, entry in pools.items():
        for labels, worker in _slots(pool, entry["workers"]):
            if "latencies" not in worker:
                continue
            total = 0
            for count, bound in zip(worker["latencies"], (*LATENCY_BOUNDS, inf), strict=True):
                total += count
                yield _line(f"{name}_bucket", {**labels, "le": "+Inf" if bound == inf else f"{bound:g}"}, total)
            yield _line(f"{name}_sum", labels, worker["request_seconds"])
            yield _line(f"{name}_count", labels, total)


def _slots(pool: str, workers: Iterable[Mapping[str, Any]]) -> list[tuple[dict[str, str], Mapping[str, Any]]]:
    newest = {}
    for worker in sorted(workers, key=lambda worker: (worker["generation"], -worker["uptime"])):
        newest[worker["name"].rpartition(".")[2]] = worker
    return [
        ({"pool": pool, "slot": slot}, worker) for slot, worker in sorted(newest.items(), key=lambda one: int(one[0]))
    ]
