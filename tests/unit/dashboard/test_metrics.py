"""The exposition: a table of what there is to what Prometheus gets."""

from __future__ import annotations

import re

from procman.dashboard.asking import View
from procman.dashboard.metrics import exposition

SAMPLE = re.compile(r'[a-z_]+(\{[a-z_]+="(?:[^"\\\n]|\\["\\n])*"(,[a-z_]+="(?:[^"\\\n]|\\["\\n])*")*\})? -?[0-9.e+-]+')
ARBITER = {"pid": 4711, "version": 'a"b\\c\nd', "uptime": 1.5, "rss": 7, "state": "running", "cpu_seconds": 0.25}


def worker(name, generation=1, **more):
    return {
        "name": name,
        "pid": 4712,
        "generation": generation,
        "state": "ready",
        "busy": False,
        "unit": "GET /secret",
        "unit_seconds": None,
        "requests": 3,
        "errors": 1,
        "rss": 1024,
        "uptime": 9.0,
        "cpu_seconds": 0.5,
        **more,
    }


def pool(*workers, **more):
    figures = {"kind": "http", "state": "running", "generation": 2, "target": 2, "ready": 1, "busy": 0}
    return {**figures, "workers": list(workers), "listens": [], "parked": None, "operation": None, "exits": [], **more}


def lines(**pools):
    return exposition(View(arbiter=ARBITER, pools=pools, problems=())).splitlines()


def test_pools():
    reasons = [{"reason": reason} for reason in ("crashed", "reload", "crashed")]
    shown = lines(web=pool(worker("web.1"), exits=reasons), mail=pool(parked="it died", ready=0))
    assert {
        "procman_up 1",
        'procman_info{version="a\\"b\\\\c\\nd"} 1',
        'procman_pool_target{pool="web"} 2',
        'procman_pool_ready{pool="web"} 1',
        'procman_pool_generation{pool="web"} 2',
        'procman_pool_parked{pool="web"} 0',
        'procman_pool_parked{pool="mail"} 1',
        'procman_pool_workers{pool="web",state="ready"} 1',
        'procman_pool_workers{pool="mail",state="ready"} 0',
        'procman_pool_last_exits{pool="web",reason="crashed"} 2',
        'procman_pool_last_exits{pool="web",reason="reload"} 1',
    } <= set(shown)


def test_of_two_workers_in_one_slot_the_newer_one_is_shown():
    old, new = worker("web.1", 1, requests=900), worker("web.1", 2, requests=5, busy=True, unit_seconds=0.5)
    for workers in ((old, new), (new, old)):
        shown = [line for line in lines(web=pool(*workers)) if line.startswith("procman_worker_")]
        assert 'procman_worker_requests_total{pool="web",slot="1"} 5' in shown
        assert 'procman_worker_busy{pool="web",slot="1"} 1' in shown
        assert 'procman_worker_unit_seconds{pool="web",slot="1"} 0.5' in shown
        assert len(shown) == len({line.partition(" ")[0] for line in shown}) == 7


def test_the_times_of_requests_are_a_histogram():
    traffic = {"latencies": [5, 3, *[0] * 13, 1], "request_seconds": 130.5, "bytes_received": 7, "bytes_sent": 9}
    shown = lines(web=pool(worker("web.1", connections=2, **traffic), backlog=4), mail=pool(worker("mail.1")))
    assert "# TYPE procman_worker_request_seconds histogram" in shown
    at = [line.removeprefix("procman_worker_request_seconds") for line in shown if "request_seconds" in line][2:]
    assert at[0] == '_bucket{pool="web",slot="1",le="0.001"} 5'
    assert at[1:4] == [f'_bucket{{pool="web",slot="1",le="{bound}"}} 8' for bound in ("0.0025", "0.005", "0.01")]
    assert at[14:] == [
        '_bucket{pool="web",slot="1",le="120"} 8',
        '_bucket{pool="web",slot="1",le="+Inf"} 9',
        '_sum{pool="web",slot="1"} 130.5',
        '_count{pool="web",slot="1"} 9',
    ]
    assert {
        'procman_pool_backlog{pool="web"} 4',
        'procman_worker_received_bytes_total{pool="web",slot="1"} 7',
        'procman_worker_sent_bytes_total{pool="web",slot="1"} 9',
        'procman_worker_connections{pool="web",slot="1"} 2',
    } <= set(shown)


def test_cpu_time_that_is_not_known_is_left_out():
    shown = lines(web=pool(worker("web.1", cpu_seconds=None), worker("web.2")))
    assert [line for line in shown if line.startswith("procman_worker_cpu")] == [
        'procman_worker_cpu_seconds_total{pool="web",slot="2"} 0.5'
    ]


def test_every_line_is_a_comment_or_a_sample_and_none_has_a_pid_or_a_url():
    shown = lines(web=pool(worker("web.1"), worker("web.10", 2, state="starting", pid=None)))
    for line in shown:
        assert line.startswith(("# HELP procman_", "# TYPE procman_")) or SAMPLE.fullmatch(line), line
    assert not any("471" in line or "/secret" in line for line in shown)


FIGURES = {
    "at": 100.0, "since": 40.0, "lag": 0.5,
    "target": {"address": "127.0.0.1:1", "open": False},
    "databases": {"a": {"state": "leads"}, "b": {"state": "down"}, "c": {"state": "stands by"}},
    "channels": {
        "root": {"capacity": 4, "running": 1, "waiting": 2, "paused": False},
        "root.x": {"capacity": None, "running": 0, "waiting": 0, "paused": True},
    },
    "jobs": [["a", "root", "pending", 2, 1.0], ["a", "root", "running", 1, None]],
    "ended": {"root": {"done": 7}}, "rescued": {"a": 3}, "refused": {"broken": 2},
    "bounds": [0.5, 1.0], "times": {"root": {
        "waited": {"counts": [1, 0, 2], "seconds": 9.5}, "ran": {"counts": [0, 3, 0], "seconds": 2.0},
    }},
}  # fmt: skip


def test_jobs_as_their_runners_tell():
    shown = lines(run=pool(jobs=FIGURES), other=pool(jobs=None))
    assert {
        'procman_jobs{pool="run",db="a",channel="root",state="pending"} 2',
        'procman_jobs_channel_capacity{pool="run",channel="root"} 4.0',
        'procman_jobs_channel_paused{pool="run",channel="root.x"} 1.0',
        'procman_jobs_db_up{pool="run",db="a"} 1.0',
        'procman_jobs_db_up{pool="run",db="b"} 0.0',
        'procman_jobs_db_up{pool="run",db="c"} 1.0',
        'procman_jobs_leader{pool="run",db="a"} 1.0',
        'procman_jobs_leader{pool="run",db="c"} 0.0',
        'procman_jobs_ended_total{pool="run",channel="root",outcome="done"} 7',
        'procman_jobs_rescued_total{pool="run",db="a"} 3',
        'procman_jobs_http_errors_total{pool="run",reason="broken"} 2',
        'procman_jobs_target_open{pool="run"} 0.0',
        'procman_jobs_loop_lag_seconds{pool="run"} 0.5',
        'procman_jobs_dispatch_seconds_bucket{pool="run",channel="root",le="0.5"} 1',
        'procman_jobs_dispatch_seconds_bucket{pool="run",channel="root",le="+Inf"} 3',
        'procman_jobs_dispatch_seconds_sum{pool="run",channel="root"} 9.5',
        'procman_jobs_run_seconds_count{pool="run",channel="root"} 3',
    } <= set(shown)
    assert not any(line.startswith('procman_jobs_channel_capacity{pool="run",channel="root.x"}') for line in shown)
    (age,) = [line for line in shown if line.startswith("procman_jobs_oldest_pending_seconds{")]
    assert float(age.rpartition(" ")[2]) > 1e9
    for line in shown:
        assert line.startswith(("# HELP procman_", "# TYPE procman_")) or SAMPLE.fullmatch(line), line


def test_cron_entries_as_their_workers_tell():
    figures = {"entries": 12, "runs": 345, "failing": 1, "disabled": 2, "due": 3, "late": 1.5}
    shown = lines(cron=pool(cron={"a": figures}), other=pool(cron=None))
    assert {
        'procman_cron_entries{pool="cron",db="a"} 12',
        'procman_cron_due{pool="cron",db="a"} 3',
        'procman_cron_late_seconds{pool="cron",db="a"} 1.5',
        'procman_cron_failing{pool="cron",db="a"} 1',
        'procman_cron_disabled{pool="cron",db="a"} 2',
        'procman_cron_runs_total{pool="cron",db="a"} 345',
    } <= set(shown)
    for line in shown:
        assert line.startswith(("# HELP procman_", "# TYPE procman_")) or SAMPLE.fullmatch(line), line
    assert not any("procman_cron" in line for line in lines(web=pool(), cron=pool(cron=None)))


def test_without_a_runner_there_is_nothing_about_jobs():
    assert not any("procman_jobs" in line for line in lines(web=pool()))
