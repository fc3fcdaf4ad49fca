"""What signals to the daemon and to its workers do, besides ending and replacing."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from tests.support.daemon import Procmand

APPLICATION = """
import procman

@procman.cached("prices")
def price(item):
    return item * 2

@procman.cached("stock")
def stock(item):
    return "x" * 100_000

def application(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/stuck":
        sum(iter(int, 1))
    return [str(price(int(environ["QUERY_STRING"] or 1)) + len(stock(1))).encode()]
"""

CONFIGURATION = """
[procman]
dashboard = "127.0.0.1:0"

[database]
url = "embedded"

[pools.http]
kind = "http"
app = "app:application"
bind = "127.0.0.1:0"
workers = 1
kill_timeout = 1

[pools.jobrunner]
kind = "jobrunner"

[pools.command]
kind = "exec"
command = ["sleep", "1000"]
start_seconds = 0
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with Procmand(tmp_path_factory.mktemp("s"), CONFIGURATION, modules={"app.py": APPLICATION}) as running:
        yield running


def test_cachestats_tells_what_the_caches_of_each_worker_hold(daemon):
    pid = daemon.worker("http.1")["pid"]
    before = {cache["function"]: cache for cache in daemon.ctl("cachestats", name=["http"])["workers"][0]["caches"]}
    for item in (1, 2, 3, 1, 1):
        assert daemon.request("GET", f"/?{item}")[0] == 200
    (worker,) = daemon.ctl("cachestats", name=["http"])["workers"]
    assert (worker["worker"], worker["pid"]) == ("http.1", pid)
    price, stock = (next(c for c in worker["caches"] if c["function"] == f"app.{name}") for name in ("price", "stock"))
    assert (price["group"], price["entries"]) == ("prices", 3)
    first = before["app.price"]
    assert price["hits"] + price["misses"] == first["hits"] + first["misses"] + 5
    assert price["hits"] >= first["hits"] + 2
    assert 0 < price["ratio"] < 1
    assert stock["entries"] == 1
    assert stock["size"] > 100_000


def test_cachestats_on_the_command_line(daemon):
    daemon.request("GET", "/?1")
    run = daemon.procmanctl("cachestats", "http")
    assert run.returncode == 0, run.stderr
    head, *lines = run.stdout.splitlines()
    assert head.startswith("Worker http.1 (")
    assert lines[0].split() == ["group", "entries", "hits", "misses", "ratio", "size", "function"]
    assert [line.split()[0] for line in lines[1:]] == ["prices", "stock"]
    everybody = daemon.procmanctl("cachestats").stdout
    assert "Worker jobrunner.1" in everybody
    assert "command.1" not in everybody
    assert daemon.procmanctl("cachestats", "nobody").returncode != 0


def test_usr1_puts_the_statistics_of_every_worker_into_the_log(daemon):
    daemon.request("GET", "/?1")
    daemon.process.send_signal(signal.SIGUSR1)
    daemon.wait(lambda: "Cache statistics, as asked by SIGUSR1:\n  Worker http.1" in daemon.log, "the statistics")
    assert "app.price" in daemon.log


def test_usr1_to_a_worker_puts_its_own_into_the_log(daemon):
    pid = daemon.worker("http.1")["pid"]
    os.kill(pid, signal.SIGUSR1)
    daemon.wait(lambda: f"as asked by a signal:\n  Worker http.1 ({pid})" in daemon.log, "the statistics")
    assert daemon.worker("http.1")["pid"] == pid


def test_a_stopped_worker_has_not_answered_and_keeps_nobody_waiting(daemon):
    pid = daemon.worker("jobrunner.1")["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        run = daemon.procmanctl("cachestats")
        assert f"Worker jobrunner.1 ({pid}) has not answered" in run.stdout
        assert "app.price" in run.stdout
    finally:
        os.kill(pid, signal.SIGCONT)


def test_xcpu_is_logged_and_survived(daemon):
    daemon.process.send_signal(signal.SIGXCPU)
    daemon.wait(lambda: "SIGXCPU: the daemon has reached a limit" in daemon.log, "the line")
    assert daemon.request("GET", "/")[0] == 200


def test_winch_retires_the_http_workers_and_no_others(daemon):
    before = {pool: daemon.pool(pool)["workers"][0]["pid"] for pool in ("jobrunner", "command", "dashboard")}
    daemon.process.send_signal(signal.SIGWINCH)
    daemon.wait(lambda: daemon.pool("http")["state"] == "stopped", "http to be drained")
    assert {pool: daemon.pool(pool)["workers"][0]["pid"] for pool in before} == before
    assert daemon.procmanctl("start", "http").returncode == 0
    assert daemon.request("GET", "/")[0] == 200


# Becomes its command, with a terminal.
WITH_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
ours, theirs = os.openpty()
fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
os.set_inheritable(ours, True)
os.set_inheritable(theirs, True)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_winch_means_nothing_where_a_terminal_may_have_sent_it(short_path):
    configuration = '[pools.http]\nkind = "http"\napp = "app:application"\nbind = "127.0.0.1:0"\n'
    application = (
        "def application(environ, start_response):\n    start_response('200 OK', [])\n    return [b'served']\n"
    )
    prefix = (sys.executable, "-c", WITH_TERMINAL)
    with Procmand(short_path, configuration, modules={"app.py": application}, prefix=prefix) as daemon:
        pid = daemon.worker("http.1")["pid"]
        daemon.process.send_signal(signal.SIGWINCH)
        daemon.process.send_signal(signal.SIGXCPU)  # comes later, and is logged
        daemon.wait(lambda: "SIGXCPU" in daemon.log, "the later signal")
        assert daemon.pool("http")["state"] == "running"
        assert daemon.worker("http.1")["pid"] == pid
