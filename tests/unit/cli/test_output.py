"""What people see: aligned, in two units at most, and never what moves the cursor."""

from __future__ import annotations

import pytest
from click import unstyle

from procman.cli import output


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0.0s"),
        (59.94, "59.9s"),
        (60, "1m 0s"),
        (3599, "59m 59s"),
        (3600, "1h 0m"),
        (7500, "2h 5m"),
        (172800, "2d 0h"),
        (371000, "4d 7h"),
    ],
)
def test_duration(seconds, text):
    assert output.duration(seconds) == text


def test_table_aligns_and_never_ends_a_line_with_blanks():
    text = output.table(("NAME", "PID"), [("a", 1), ("longer", 4711), ("x", None)], ("PID",))
    assert text.splitlines() == ["NAME     PID", "a          1", "longer  4711", "x          -"]


def test_colour_does_not_disturb_the_columns():
    text = output.table(("STATE", "N"), [("running", 1), ("odd", 2)])
    assert "\x1b[32mrunning\x1b[0m" in text
    assert unstyle(text).splitlines() == ["STATE    N", "running  1", "odd      2"]


def test_what_a_request_brought_can_not_move_the_cursor():
    text = output.table(("UNIT",), [("GET /\x1b[2J\r\n\x9b",)])
    assert text.splitlines() == ["UNIT", "GET /\\x1b[2J\\x0d\\x0a\\x9b"]


ARBITER = {"pid": 4711, "version": "0.1.0", "uptime": 200.0, "rss": 32505856, "cpu_percent": 0.1, "state": "running"}


def test_stats():
    worker = {
        "name": "http.1",
        "pid": 4712,
        "generation": 3,
        "state": "ready",
        "busy": True,
        "unit": "GET /slow",
        "unit_seconds": 1.25,
        "requests": 17,
        "rss": 1048576,
        "cpu_percent": 2.0,
        "uptime": 61.0,
    }
    worker |= {"p50": 0.00321, "p99": 0.14}
    idle = {
        **worker,
        "name": "http.2",
        "pid": None,
        "p50": None,
        "p99": None,
        "busy": False,
        "unit": None,
        "unit_seconds": None,
    }
    text = unstyle(output.stats_text({"arbiter": ARBITER, "pools": {"http": {"workers": [worker, idle]}}}))
    assert text.splitlines() == [
        "procmand 0.1.0 (pid 4711) running, up 3m 20s, 31.0 MiB, 0.1 % cpu",
        "",
        "NAME     PID  STATE  GEN  BUSY  UNIT       SECONDS  REQUESTS  P50 ms  P99 ms  RSS MiB  CPU %  UPTIME",
        "http.1  4712  ready    3  busy  GET /slow      1.2        17     3.2   140.0      1.0    2.0   1m 1s",
        "http.2     -  ready    3  -     -                -        17       -       -      1.0    2.0   1m 1s",
    ]


def test_a_unit_that_says_how_far_it_is():
    shown = output.stats_text(
        {"pools": {"http": {"workers": [{"name": "http.1", "unit": "job demo:count", "progress": 0.999}]}}}
    )
    assert " 99 % job demo:count " in shown


def test_a_long_unit_is_cut():
    worker = {"name": "http.1", "unit": "GET /" + "x" * 300, "busy": True}
    text = output.stats_text({"arbiter": ARBITER, "pools": {"http": {"workers": [worker]}}})
    assert "x…" in text
    assert max(map(len, text.splitlines())) < 160


def test_status_tells_what_is_parked_what_is_under_way_and_how_workers_ended():
    pool = {"kind": "http", "state": "running", "generation": 2, "target": 2, "ready": 1, "busy": 1}
    exits = [
        {"worker": "cron.2", "pid": 9, "reason": "boot_failed", "status": "exit 1", "lived": 0.5, "at": 1795250001.0},
        {"worker": "cron.1", "pid": 8, "reason": "crashed", "status": "SIGSEGV", "lived": 61.0, "at": 1795250000.0},
    ]
    reply = {
        "arbiter": ARBITER,
        "pools": {
            "http": {**pool, "exits": [], "parked": None, "operation": "reload-7"},
            "cron": {**pool, "state": "parked", "exits": exits, "parked": "10 workers died young", "operation": None},
        },
    }
    text = unstyle(output.status_text(reply))
    assert "http  http  running    1/2     1           2" in text
    assert "http: reload-7 is under way" in text
    assert "cron is parked: 10 workers died young" in text
    lines = text.splitlines()
    assert lines[-2].split()[2:] == ["cron.1", "8", "crashed", "SIGSEGV", "1m", "1s"]
    assert lines[-1].split()[2:] == ["cron.2", "9", "boot_failed", "exit", "1", "0.5s"]


def test_status_of_a_quiet_daemon_has_no_empty_sections():
    text = output.status_text({"arbiter": ARBITER, "pools": {}})
    assert "Last exits" not in text
    assert not text.endswith("\n")


def test_tracebacks_by_pool():
    reply = {"pools": {"http": {"outcome": "failed", "traceback": "Traceback\nX: y\n"}, "cron": {"outcome": "done"}}}
    assert output.tracebacks(reply) == "http:\nTraceback\nX: y"
    assert output.outcomes(reply) == "http: failed\ncron: done"
