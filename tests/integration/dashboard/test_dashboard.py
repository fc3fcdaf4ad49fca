"""The dashboard under a real daemon, and the design's own example of a configuration, which has everything."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal

import pytest

from procman.config import check
from tests.support.daemon import Procmand

# As the design has it, to the letter; see `adapted`.
EXAMPLE = """\
[procman]
control      = "ipc://var/control.sock"   # string or list; tcp:// only with CURVE keys ([procman.auth])
events       = "ipc://var/events.sock"    # PUB
state_dir    = "var"
dashboard    = "127.0.0.1:8079"           # "" = off
log_format   = "text"                     # or "json"
stop_timeout = "30s"

[database]
url = "embedded"                          # or a libpq URI; PROCMAN_DATABASE_URL overrides; absent = no database
databases = []                            # more databases for cron and jobs; "auto" = discover

[pools.http]
kind    = "http"
app     = "procman.demo:application"      # WSGI callable, or a factory "module:make_app()"
bind    = "127.0.0.1:8069"                # or a list; "unix:PATH", "[::1]:8069", "fd:NAME" (socket activation)
workers = 2                               # N, "auto" (2*cores+1, cgroup-aware), or { min = 2, max = 8 }
threads = 1
[pools.http.limits]
memory_soft = "640MiB"                    # after the unit: retire and replace
memory_hard = "768MiB"                    # during the unit: allocation fails (RLIMIT_DATA: private memory, not reserved
                                          # address space, which is what RLIMIT_AS and Odoo count), or cgroup memory.max
memory_metric = "rss"                     # rss | pss | uss | vms
time_cpu    = "60s"                       # per unit
time_real   = "120s"                      # per unit
requests    = 8192                        # units per worker, with requests_jitter
age         = "none"

[pools.cron]
kind = "cron"
app  = "procman.demo"                     # modules to import: their @procman.cron functions run
workers = 2

[pools.jobrunner]
kind = "jobrunner"
channels = "root:4,root.mail:2,root.slow:1:throttle=1"
target   = "http"                         # pool that runs the jobs, or url = "http://host:8069"

[pools.longpoll]
kind = "gevent-longpolling"
app  = "procman.demo:application"
bind = "127.0.0.1:8072"

[pools.anything]
kind = "exec"
command = ["redis-server", "--port", "0"]
"""

APPLICATION = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"here"]
"""

SMALL = """
[procman]
dashboard = "127.0.0.1:0"

[pools.http]
kind = "http"
app = "app:application"
bind = "127.0.0.1:0"
workers = 2

[pools.later]
kind = "exec"
command = ["sleep", "1000"]
autostart = false
"""


def adapted(example):
    """With ports of its own, and a command that exists everywhere."""
    text = re.sub(r"127\.0\.0\.1:80\d\d\"", '127.0.0.1:0"', example)
    return text.replace('["redis-server", "--port", "0"]', '["sleep", "1000"]')


@pytest.fixture
def daemon(short_path):
    with Procmand(short_path, SMALL, modules={"app.py": APPLICATION}) as running:
        yield running


def ask(address, path, method="GET"):
    """(status, headers, text) of one request."""
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()
    finally:
        connection.close()


def status_of(daemon, path):
    return ask(daemon.address("dashboard"), path)[0]


def samples(text):
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def test_the_example_of_the_design_is_accepted(short_path):
    file = short_path / "procman.toml"
    file.write_text(EXAMPLE.replace("redis-server", "sleep"))
    spec = check(str(file), dict(os.environ))
    assert [pool.name for pool in spec.pools] == [
        "postgres",
        "http",
        "cron",
        "jobrunner",
        "longpoll",
        "anything",
        "dashboard",
    ]


def test_the_example_of_the_design_runs(short_path, database_url):
    with Procmand(short_path, adapted(EXAMPLE), env={"PROCMAN_DATABASE_URL": database_url}) as daemon:
        daemon.wait(lambda: daemon.procmanctl("check").returncode == 0, "every pool to be ready")
        address = daemon.address("dashboard")
        assert ask(address, "/readyz")[0] == 200
        assert daemon.request("GET", "/prices")[0] == 200
        shown = samples(ask(address, "/metrics")[2])
        for pool, workers in {"http": 2, "cron": 2, "jobrunner": 1, "longpoll": 1, "anything": 1}.items():
            assert shown[f'procman_pool_ready{{pool="{pool}"}}'] == str(workers)
        assert daemon.procmanctl("stop", "anything").returncode == 0
        status, _, text = ask(address, "/readyz")
        assert (status, text) == (503, "anything is stopped\n")
        assert daemon.procmanctl("start", "anything").returncode == 0
        assert ask(address, "/readyz")[0] == 200


def test_pages(daemon):
    address = daemon.address("dashboard")
    status, headers, page = ask(address, "/")
    assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, "text/html; charset=utf-8", "no-store")
    first = json.loads(re.search(r'id="first">(.*?)</script>', page, re.DOTALL)[1])
    now = json.loads(ask(address, "/status.json")[2])
    for figures in (first, now):
        assert set(figures["pools"]) == {"http", "later", "dashboard"}
        assert figures["problems"] == []  # a pool that does not start by itself is meant to be off
        assert [worker["unit"] is not None for worker in figures["pools"]["dashboard"]["workers"]] == [True]
        assert figures["pools"]["http"]["workers"][0]["cpu_seconds"] >= 0
    assert ask(address, "/", "HEAD")[::2] == (200, "")
    assert ask(address, "/", "POST")[0] == 405
    assert ask(address, "/pools", "GET")[0] == 404
    assert ask(address, "/livez")[2] == "alive\nthe daemon answers\n"
    assert ask(address, "/readyz")[2] == "ready\n"


def test_exits_and_requests_are_counted(daemon):
    for _ in range(3):
        assert daemon.request("GET", "/") == (200, b"here")
    pid = daemon.worker("http.1")["pid"]
    os.kill(pid, signal.SIGKILL)
    daemon.wait_replaced("http.1", pid)
    shown = samples(ask(daemon.address("dashboard"), "/metrics")[2])
    assert shown['procman_pool_last_exits{pool="http",reason="killed_by_user"}'] == "1"
    assert shown['procman_worker_requests_total{pool="http",slot="1"}'] == "0"
    assert float(shown['procman_worker_rss_bytes{pool="http",slot="2"}']) > 2**20
    exits = json.loads(ask(daemon.address("dashboard"), "/status.json")[2])["pools"]["http"]["exits"]
    assert [(one["pid"], one["reason"]) for one in exits] == [(pid, "killed_by_user")]


def test_ready_is_what_is_wanted(daemon):
    address = daemon.address("dashboard")
    assert daemon.procmanctl("stop", "http").returncode == 0
    assert ask(address, "/readyz")[::2] == (503, "http is stopped\n")
    assert ask(address, "/livez")[0] == 200
    assert samples(ask(address, "/metrics")[2])['procman_pool_target{pool="http"}'] == "0"
    assert daemon.procmanctl("start", "http").returncode == 0
    assert ask(address, "/readyz")[::2] == (200, "ready\n")


def test_a_parked_pool_is_shown_with_its_reason(daemon):
    (daemon.directory / "app.py").write_text("raise RuntimeError('this release is broken')")
    assert daemon.procmanctl("stop", "http").returncode == 0
    assert daemon.procmanctl("start", "http").returncode == 1
    address = daemon.address("dashboard")
    daemon.wait(lambda: daemon.pool("http")["parked"], "the pool to be parked")
    status, _, text = ask(address, "/readyz")
    assert status == 503
    assert "http is parked" in text
    assert samples(ask(address, "/metrics")[2])['procman_pool_parked{pool="http"}'] == "1"
    assert "parked" in json.loads(ask(address, "/status.json")[2])["pools"]["http"]["state"]


def test_a_daemon_that_does_not_answer(daemon):
    address = daemon.address("dashboard")
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        status, _, text = ask(address, "/livez")
        assert status == 200
        assert "the daemon does not answer" in text
        for path in ("/", "/status.json", "/metrics", "/readyz"):
            assert ask(address, path)[0] == 503
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    daemon.wait(lambda: ask(address, "/readyz")[0] == 200, "the daemon to answer again")


def test_it_is_reloaded_replaced_and_configured_as_any_pool(daemon):
    assert daemon.procmanctl("reload", "dashboard").returncode == 0
    assert daemon.pool("dashboard")["generation"] == 2
    pid = daemon.worker("dashboard.1")["pid"]
    os.kill(pid, signal.SIGKILL)
    daemon.wait_replaced("dashboard.1", pid)
    assert status_of(daemon, "/readyz") == 200

    daemon.file.write_text(SMALL.replace('dashboard = "127.0.0.1:0"', 'dashboard = ""'))
    assert daemon.procmanctl("reload").returncode == 0
    daemon.wait(lambda: "dashboard" not in daemon.ctl("status")["pools"], "the dashboard to go")
    daemon.file.write_text(SMALL)
    assert daemon.procmanctl("reload").returncode == 0
    daemon.wait(lambda: daemon.pool("dashboard")["ready"] == 1, "the dashboard to come")
    assert status_of(daemon, "/readyz") == 200


def test_at_a_unix_socket(short_path):
    configuration = SMALL.replace("127.0.0.1:0", "unix:var/dashboard.sock", 1)
    with Procmand(short_path, configuration, modules={"app.py": APPLICATION}) as daemon:
        assert daemon.pool("dashboard")["listens"] == [f"unix:{short_path}/var/dashboard.sock"]
