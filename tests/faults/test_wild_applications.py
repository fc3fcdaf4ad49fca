"""Applications that do to their worker what they should not: the pool goes on, and nothing lingers."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest

from tests.support.daemon import Procmand, processes_in
from tests.support.traffic import Traffic
from tests.support.wild import (
    APPLICATION,
    CONFIGURATION,
    ask_in_background,
    busy_worker,
    children_of,
    is_alive,
    try_to_ask,
)

MODULES = {"app.py": APPLICATION}


@pytest.fixture
def daemon(short_path):
    with Procmand(short_path, CONFIGURATION, modules=MODULES) as running:
        yield running


def workers_of(daemon):
    """{name: pid} of the workers that serve."""
    return {w["name"]: w["pid"] for w in daemon.pool("http")["workers"] if w["state"] == "ready"}


def assert_serves(daemon):
    """Both workers are there, all requests are answered, and there are no other processes than there should be."""
    daemon.wait(lambda: daemon.pool("http")["ready"] == 2, "two workers")
    with Traffic(daemon.address()) as traffic:
        traffic.wait_for(50)
    assert traffic.lost == []
    assert {status for status, _ in traffic.answers} == {200}
    # The daemon itself, its template, the process in between that the next worker comes from, two workers.
    daemon.wait(lambda: len(processes_in(daemon.directory)) == 5, "nobody else to be left")


@pytest.mark.parametrize("path", ["/close_all", "/close_channel"])
def test_a_worker_whose_descriptors_were_closed_is_replaced_and_takes_nobody_with_it(daemon, path):
    before = workers_of(daemon)
    try_to_ask(daemon, path)
    daemon.wait(lambda: len(set(workers_of(daemon).values()) - set(before.values())) == 1, "one replacement")
    assert len(set(workers_of(daemon).values()) & set(before.values())) == 1
    assert_serves(daemon)


@pytest.mark.parametrize("path", ["/exit_at_once", "/abort"])
def test_a_worker_that_ends_itself_is_replaced(daemon, path):
    before = set(workers_of(daemon).values())
    assert try_to_ask(daemon, path) is None
    daemon.wait(lambda: len(set(workers_of(daemon).values()) - before) == 1, "one replacement")
    (record,) = daemon.pool("http")["exits"]
    assert record["reason"] == "crashed"
    assert_serves(daemon)


@pytest.mark.parametrize("path", ["/sys_exit", "/interrupt"])
def test_leaving_by_exception_costs_the_request_and_not_the_worker(daemon, path):
    before = workers_of(daemon)
    assert daemon.request("GET", path)[0] == 500
    assert_serves(daemon)
    assert workers_of(daemon) == before


@pytest.mark.parametrize("path", ["/fork_and_return", "/fork_and_sys_exit"])
def test_a_fork_that_comes_out_of_its_request_does_not_become_a_second_worker(daemon, path):
    before = workers_of(daemon)
    for _ in range(5):
        assert try_to_ask(daemon, path)[0] == 200
    assert_serves(daemon)
    assert workers_of(daemon) == before


def test_a_child_that_outlives_its_worker_is_reaped_in_the_end(short_path):
    spared = CONFIGURATION.replace('kind = "http"', 'kind = "http"\nkill_mode = "process"', 1)
    with Procmand(short_path, spared, modules=MODULES) as daemon:
        status, body = daemon.request("GET", "/outliving_child")
        assert status == 200
        child = int(body)
        for name, pid in workers_of(daemon).items():
            os.kill(pid, signal.SIGKILL)
            daemon.wait_replaced(name, pid)
        # Nobody but the daemon is left to be its parent, and nobody else would reap it.
        assert child in children_of(daemon.process.pid)
        os.kill(child, signal.SIGKILL)
        daemon.wait(lambda: child not in children_of(daemon.process.pid), "the orphan to be reaped")
        assert_serves(daemon)


def test_threads_that_never_end_do_not_keep_a_worker_from_going(daemon):
    for _ in range(4):
        assert daemon.request("GET", "/endless_threads")[0] == 200
    before = set(workers_of(daemon).values())
    assert daemon.procmanctl("reload", "http").returncode == 0
    daemon.wait(lambda: not any(is_alive(pid) for pid in before), "the old workers to go", timeout=1.5)
    assert {record["reason"] for record in daemon.pool("http")["exits"]} == {"reload"}


@pytest.mark.parametrize("path", ["/own_signal_handlers", "/block_signals", "/wakeup_fd", "/change_directory"])
def test_a_worker_with_other_ideas_about_signals_is_reloaded_like_any_other(daemon, path):
    for _ in range(10):
        assert daemon.request("GET", path)[0] == 200
    assert daemon.procmanctl("reload", "http").returncode == 0
    assert {record["reason"] for record in daemon.pool("http")["exits"]} <= {"reload"}
    assert_serves(daemon)


def test_a_unit_that_no_signal_reaches_is_ended_in_time_all_the_same(short_path):
    limits = "[pools.http.limits]\ntime_real = 1\n"
    with Procmand(short_path, CONFIGURATION + limits, modules=MODULES) as daemon:
        _, thread = ask_in_background(daemon, "/block_signals_and_stick")
        busy = busy_worker(daemon, "/block_signals_and_stick")
        thread.join(10)
        daemon.wait_replaced(busy["name"], busy["pid"])  # while the old one is still being killed
        daemon.wait(lambda: daemon.pool("http")["exits"], "the exit record")
        assert [record["reason"] for record in daemon.pool("http")["exits"]] == ["real_time"]
        log = daemon.log
    assert log.index("Stacks before the kill") < log.index("is killed: real_time")


def test_a_worker_that_dies_of_its_limit_in_the_moment_of_its_dump_harms_nobody(short_path):
    """Its end, the stacks that never came and the kill that was to follow: in whatever order they come."""
    limits = "[pools.http.limits]\ntime_real = 0.2\n"
    configuration = CONFIGURATION.replace("kill_timeout = 1", "kill_timeout = 0.05\nmax_restarts = 1000")
    with Procmand(short_path, configuration + limits, modules=MODULES) as daemon:
        for _ in range(5):
            _, thread = ask_in_background(daemon, "/stuck")
            busy = busy_worker(daemon, "/stuck")
            daemon.wait(lambda pid=busy["pid"]: f"({pid}) is in one unit" in daemon.log, "the limit")
            with suppress(ProcessLookupError):  # the daemon was faster: one of the orders, too
                os.kill(busy["pid"], signal.SIGKILL)
            thread.join(10)
            daemon.wait(lambda: daemon.pool("http")["ready"] == 2, "the replacement")
        assert daemon.process.poll() is None
