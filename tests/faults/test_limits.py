"""Limits of http workers, with real processes: exact, in time, and on nobody who has done nothing."""

from __future__ import annotations

import os
import signal
import time

import pytest

from procman.unix.cgroup import own_memory_group
from procman.unix.process import INTERRUPT
from tests.support.daemon import Procmand
from tests.support.wild import ask_in_background, busy_worker

APPLICATION = """
import mmap, os, signal, sys, time

HOARD = []

def again(name, signum):
    # The worker gets this signal in the midst of telling the arbiter that it goes.
    def strike(frame, event, argument):
        if event == "call" and frame.f_code.co_name == name and frame.f_globals["__name__"] == "procman.unix.channel":
            sys.setprofile(None)
            signal.raise_signal(signum)
    sys.setprofile(strike)

def application(environ, start_response):
    path, _, number = environ["PATH_INFO"][1:].partition("/")
    if path == "burn":
        while True:
            pass
    elif path == "inside-c":
        sum(iter(int, 1))
    elif path == "stubborn":
        while True:
            try:
                while True:
                    pass
            except BaseException:
                pass
    elif path == "compute":
        until = time.process_time() + float(number)
        while time.process_time() < until:
            pass
    elif path == "sleep":
        time.sleep(float(number))
    elif path == "struck-twice":
        again("send", int(number))
        while True:
            pass
    elif path == "told-and-struck":
        again("send", int(number))
        os.kill(os.getpid(), signal.SIGTERM)
        while True:
            pass
    elif path == "hoard":
        HOARD.append(bytearray(int(number) << 20))
    elif path == "reserve":
        HOARD.append(mmap.mmap(-1, int(number) << 20))
    elif path == "garbage":
        # A circle, which only the collector frees.
        circle = [bytearray(int(number) << 20)]
        circle.append(circle)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"served"]
"""

CONFIGURATION = """
[pools.http]
kind = "http"
app = "app:application"
bind = "127.0.0.1:0"
kill_timeout = 1

[pools.http.limits]
"""


def running(short_path, limits):
    return Procmand(short_path, CONFIGURATION + limits + "\n", modules={"app.py": APPLICATION})


def the_exit(daemon):
    (record,) = daemon.wait(lambda: daemon.pool("http")["exits"], "the exit record")
    return record["reason"], record["status"]


# -- CPU --------------------------------------------------------------------------------------------------


def test_the_limit_counts_cpu_time_in_fractions_of_a_second(short_path):
    with running(short_path, "time_cpu = 0.3") as daemon:
        # None of these uses as much by itself; together they do, and a long sleep does not count.
        for _ in range(5):
            assert daemon.request("GET", "/compute/0.15")[0] == 200
        assert daemon.request("GET", "/sleep/1")[0] == 200
        assert daemon.pool("http")["exits"] == []
        assert daemon.request("GET", "/compute/0.5")[0] == 503
        assert the_exit(daemon) == ("cpu_time", 0)
        assert "GET /compute/0.5 was ended: cpu_time" in daemon.log


@pytest.mark.parametrize("path", ["/inside-c", "/stubborn"])
def test_a_unit_that_does_not_heed_its_cpu_limit_is_killed_with_its_stacks(short_path, path):
    with running(short_path, "time_cpu = 1") as daemon:
        _, thread = ask_in_background(daemon, path)
        pid = busy_worker(daemon, path)["pid"]
        thread.join(30)
        assert the_exit(daemon) == ("cpu_time", -9)
        log = daemon.log
        evidence = log[log.index("Stacks before the kill") : log.index(f"({pid}) is killed: cpu_time")]
        assert f"Worker http.1 ({pid}) GET {path}" in evidence
        assert "app.py" in evidence


# -- two at once ------------------------------------------------------------------------------------------


# The worker's own clock and the arbiter may notice in the same instant, and two limits may be reached in it as well.
@pytest.mark.parametrize("second", [signal.SIGXCPU, INTERRUPT], ids=["cpu", "real"])
@pytest.mark.parametrize(("limit", "reason"), [("time_cpu = 0.2", "cpu_time"), ("time_real = 0.2", "real_time")])
def test_a_limit_that_strikes_while_another_one_does_leaves_the_reason_as_it_is(short_path, limit, reason, second):
    with running(short_path, limit) as daemon:
        assert daemon.request("GET", f"/struck-twice/{second:d}")[0] == 503
        assert the_exit(daemon) == (reason, 0)
        assert daemon.log.count("limit of the unit reached") == 1
        assert f"retires: {reason}" in daemon.log


def test_a_limit_that_strikes_while_the_worker_is_told_to_go_ends_the_unit_and_leaves_the_reason_as_it_is(short_path):
    with running(short_path, "time_real = 30") as daemon:
        assert daemon.request("GET", f"/told-and-struck/{INTERRUPT:d}")[0] == 503
        assert the_exit(daemon) == ("killed_by_user", 0)


# -- memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["rss", "pss", "uss", "vms"])
def test_a_unit_that_leaks_much_at_once_is_the_last_of_its_worker(short_path, metric):
    # vms counts what is reserved as well: several times of what is used.
    limits = f'memory_metric = "{metric}"\nmemory_soft = "{"500MiB" if metric == "vms" else "150MiB"}"'
    with running(short_path, limits) as daemon:
        pid = daemon.worker("http.1")["pid"]
        for _ in range(5):
            assert daemon.request("GET", "/")[0] == 200
        assert daemon.request("GET", "/hoard/600")[0] == 200
        daemon.wait_replaced("http.1", pid)
        assert the_exit(daemon) == ("memory_soft", 0)
        assert f"({pid}) memory limit reached: {metric} " in daemon.log


def test_what_the_collector_frees_is_no_reason_to_go(short_path):
    with running(short_path, 'memory_soft = "150MiB"') as daemon:
        pid = daemon.worker("http.1")["pid"]
        for _ in range(5):
            assert daemon.request("GET", "/garbage/200")[0] == 200
        assert daemon.worker("http.1")["pid"] == pid
        assert daemon.pool("http")["exits"] == []


def test_reserved_memory_that_is_not_used_counts_for_vms_alone(short_path):
    with running(short_path, 'memory_soft = "150MiB"') as daemon:
        pid = daemon.worker("http.1")["pid"]
        for _ in range(5):
            assert daemon.request("GET", "/reserve/400")[0] == 200
            time.sleep(0.02)  # long enough to be looked at
        assert daemon.worker("http.1")["pid"] == pid


# -- the kernel's own limits ------------------------------------------------------------------------------


@pytest.fixture
def delegated():
    group = own_memory_group()
    if group is None:
        pytest.skip("NOT TESTED HERE: there is no cgroup with a memory controller")
    try:
        group.divide()
    except OSError as error:
        pytest.skip(f"NOT TESTED HERE: no memory cgroup is delegated to this account: {error}")
    return group


def test_a_worker_beyond_the_limit_of_its_cgroup_is_oom_and_replaced(short_path, delegated):
    with running(short_path, 'memory_hard = "200MiB"\nmemory_hard_by = "cgroup"') as daemon:
        pid = daemon.worker("http.1")["pid"]
        mine = delegated.children(f"procman.{daemon.process.pid}.")
        assert [pid] == [int(line) for group in mine for line in (group.path / "cgroup.procs").read_text().split()]
        # Reserved is not used: RLIMIT_DATA would refuse this.
        assert daemon.request("GET", "/reserve/400")[0] == 200
        came_to, thread = ask_in_background(daemon, "/hoard/400")
        thread.join(60)
        assert not isinstance(came_to[0], tuple)
        daemon.wait_replaced("http.1", pid)
        assert the_exit(daemon) == ("oom", -9)
        assert daemon.request("GET", "/")[0] == 200
    assert delegated.children(f"procman.{daemon.process.pid}.") == []


def test_who_is_killed_by_hand_in_a_cgroup_is_not_oom(short_path, delegated):
    with running(short_path, 'memory_hard = "200MiB"\nmemory_hard_by = "cgroup"') as daemon:
        pid = daemon.worker("http.1")["pid"]
        os.kill(pid, signal.SIGKILL)
        daemon.wait_replaced("http.1", pid)
        assert the_exit(daemon) == ("killed_by_user", -9)


def test_the_limit_of_the_cgroup_changes_live(short_path, delegated):
    limits = 'memory_hard = "200MiB"\nmemory_hard_by = "cgroup"'
    with running(short_path, limits) as daemon:
        pid = daemon.worker("http.1")["pid"]
        daemon.file.write_text(daemon.file.read_text().replace("200MiB", "2GiB"))
        assert daemon.procmanctl("reload").returncode == 0
        assert daemon.request("GET", "/hoard/400")[0] == 200
        if daemon.worker("http.1")["pid"] != pid:
            pytest.fail("a changed limit replaced the worker")


def test_where_no_cgroup_is_delegated_the_limit_holds_all_the_same_and_that_is_said(short_path):
    # In a namespace of mounts of its own, with nothing to write in /sys/fs/cgroup.
    hidden = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o ro none /sys/fs/cgroup && exec "$@"', "sh")
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED HERE: needs root to hide the cgroups")
    configuration = CONFIGURATION + 'memory_hard = "200MiB"\nmemory_hard_by = "cgroup"\n'
    with Procmand(short_path, configuration, modules={"app.py": APPLICATION}, prefix=hidden) as daemon:
        assert "no memory cgroup is delegated to this daemon" in daemon.log
        assert daemon.request("GET", "/hoard/400")[0] == 500
        assert "MemoryError" in daemon.log
        assert daemon.pool("http")["exits"] == []
