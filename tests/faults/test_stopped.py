"""SIGSTOP: processes that are there and do nothing. Only SIGKILL ends them, and never without a word in the log."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.support.daemon import Procmand
from tests.support.traffic import Traffic
from tests.support.wild import (
    APPLICATION,
    CONFIGURATION,
    ask_in_background,
    busy_worker,
    children_of,
    in_between,
    is_alive,
    templates,
)

MODULES = {"app.py": APPLICATION}


@pytest.fixture
def daemon(short_path):
    with Procmand(short_path, CONFIGURATION, modules=MODULES) as running:
        yield running


def test_a_worker_stopped_in_its_unit_ends_within_its_limit_and_kill_timeout(short_path):
    limits = "[pools.http.limits]\ntime_real = 1\n"
    with Procmand(short_path, CONFIGURATION + limits, modules=MODULES) as daemon:
        came_to, thread = ask_in_background(daemon, "/sleep")
        busy = busy_worker(daemon, "/sleep")
        os.kill(busy["pid"], signal.SIGSTOP)
        begun = time.monotonic()
        thread.join(30)
        # time_real + kill_timeout + the half second in which it could have shown its stacks, and some slack.
        assert time.monotonic() - begun < 1 + 1 + 0.5 + 3
        assert not isinstance(came_to[0], tuple)
        daemon.wait_replaced(busy["name"], busy["pid"])
        (record,) = daemon.pool("http")["exits"]
        assert (record["reason"], record["pid"]) == ("real_time", busy["pid"])
        log = daemon.log
    evidence = log.index("Stacks before the kill")
    assert f"Worker {busy['name']} ({busy['pid']}) GET /sleep" in log[evidence:]
    assert "state T (stopped)" in log[evidence:]
    assert evidence < log.index("is killed: real_time")


def test_a_reload_does_not_wait_for_a_stopped_worker_and_ends_it(daemon):
    victim = daemon.worker("http.1")["pid"]
    os.kill(victim, signal.SIGSTOP)
    assert daemon.procmanctl("reload", "http").returncode == 0
    daemon.wait(lambda: not is_alive(victim), "the stopped worker to be ended", timeout=10)
    daemon.wait(lambda: daemon.pool("http")["exits"], "the exit record")
    reasons = {record["pid"]: record["reason"] for record in daemon.pool("http")["exits"]}
    assert reasons[victim] == "grace_expired"
    log = daemon.log
    assert log.index("Stacks before the kill") < log.index("is killed: grace_expired")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_stopping_the_daemon_does_not_wait_for_ever_for_a_stopped_idle_worker(daemon, signum):
    os.kill(daemon.worker("http.2")["pid"], signal.SIGSTOP)
    begun = time.monotonic()
    assert daemon.stop(signum) == 0
    assert 2 <= time.monotonic() - begun < 10
    assert "state T (stopped)" in daemon.log


def test_a_second_signal_does_not_wait_at_all(short_path):
    patient = CONFIGURATION.replace("stop_timeout = 2", "stop_timeout = 50")
    with Procmand(short_path, patient, modules=MODULES) as daemon:
        os.kill(daemon.worker("http.2")["pid"], signal.SIGSTOP)
        daemon.process.send_signal(signal.SIGINT)
        daemon.wait_said("STOPPING=1")
        begun = time.monotonic()
        assert daemon.stop(signal.SIGINT) == 0
        assert time.monotonic() - begun < 25


def test_a_stopped_template_does_not_keep_a_reload_from_its_end(daemon):
    (template,) = templates(daemon)
    os.kill(template, signal.SIGSTOP)
    assert daemon.procmanctl("reload", "http").returncode == 0
    daemon.wait(lambda: not is_alive(template), "the old template to go")
    assert daemon.pool("http")["generation"] == 2


def test_a_stopped_template_that_is_to_fork_is_replaced(daemon):
    (template,) = templates(daemon)
    os.kill(template, signal.SIGSTOP)
    # The first one is forked by the process in between that was there already.
    for name in ("http.1", "http.2"):
        victim = daemon.worker(name)["pid"]
        os.kill(victim, signal.SIGKILL)
        daemon.wait_replaced(name, victim)
    assert not is_alive(template)
    assert "the template does not fork any more" in daemon.log


def test_a_template_whose_process_in_between_is_stopped_is_replaced_and_leaves_nothing_behind(daemon):
    (template,) = templates(daemon)
    between = in_between(daemon, template)
    os.kill(between, signal.SIGSTOP)
    victim = daemon.worker("http.1")["pid"]
    os.kill(victim, signal.SIGKILL)
    daemon.wait_replaced("http.1", victim)
    assert "the template does not fork any more" in daemon.log
    daemon.wait(lambda: not is_alive(template) and not is_alive(between), "the two to go")


def test_a_process_in_between_that_is_killed_costs_nothing_and_one_is_not_forked_again_and_again(daemon):
    (template,) = templates(daemon)
    between = in_between(daemon, template)
    for _ in range(3):
        os.kill(between, signal.SIGKILL)
        daemon.wait(lambda gone=between: not is_alive(gone), "it to die")
        victim = daemon.worker("http.1")["pid"]
        os.kill(victim, signal.SIGKILL)
        daemon.wait_replaced("http.1", victim)
        killed, between = between, in_between(daemon, template)
        assert between != killed
    assert templates(daemon) == [template]
    os.kill(between, signal.SIGKILL)
    daemon.wait(lambda: not children_of(template), "it to be reaped")
    assert daemon.procmanctl("reload", "http").returncode == 0


def test_the_process_in_between_goes_with_its_template(daemon):
    (template,) = templates(daemon)
    between = in_between(daemon, template)
    os.kill(template, signal.SIGKILL)
    daemon.wait(lambda: not is_alive(between), "it to go")
    daemon.wait(lambda: len(templates(daemon)) == 1, "another template")


def test_a_daemon_that_was_stopped_for_a_while_catches_up(daemon):
    victim, address = daemon.worker("http.1")["pid"], daemon.address()
    daemon.process.send_signal(signal.SIGSTOP)
    os.kill(victim, signal.SIGKILL)
    daemon.wait(lambda: not is_alive(victim), "the worker to die")
    with Traffic(address) as traffic:
        traffic.wait_for(20)
        daemon.process.send_signal(signal.SIGCONT)
        daemon.wait_replaced("http.1", victim)
    assert traffic.lost == []
