"""An http pool under a real daemon: template, reload under load, limits, stacks."""

from __future__ import annotations

import http.client
import os
import signal
import threading

import pytest

from tests.support.daemon import Procmand
from tests.support.traffic import Traffic

APPLICATION = """
import os, threading, time
import procman

VERSION = "one"

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/sleep":
        procman.set_user(7)
        time.sleep(1000)
    elif path == "/inside-c":
        sum(iter(int, 1))
    elif path == "/burn":
        while True:
            pass
    elif path == "/eat":
        try:
            bytearray(400 << 20)
        except MemoryError:
            start_response("507 Insufficient Storage", [])
            return [b"MemoryError"]
    elif path == "/exit":
        os._exit(7)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{VERSION} {os.environ['PROCMAN_WORKER']} {os.getpid()}".encode()]
"""

CONFIGURATION = """
[pools.http]
kind = "http"
app = "app:application"
bind = ["127.0.0.1:0", "unix:web.sock"]
workers = 2
keepalive = 1
kill_timeout = 1
"""


@pytest.fixture
def daemon(short_path):
    with Procmand(short_path, CONFIGURATION, modules={"app.py": APPLICATION}) as running:
        yield running


def ask(daemon, path="/"):
    status, body = daemon.request("GET", path)
    return status, body.decode()


def ask_in_background(daemon, path):
    """Send a request that will not be answered soon; returns what it comes to, a list with one item in the end."""
    came_to = []

    def run():
        try:
            came_to.append(daemon.request("GET", path, timeout=60))
        except (OSError, http.client.HTTPException) as error:
            came_to.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return came_to, thread


def busy_worker(daemon, path):
    def found():
        for worker in daemon.pool("http")["workers"]:
            if worker["unit"] and worker["unit"].endswith(path):
                return worker
        return None

    return daemon.wait(found, f"a worker to be in {path}")


def test_workers_are_forked_from_a_template_and_are_the_arbiters_own_children(daemon):
    for worker in daemon.pool("http")["workers"]:
        with open(f"/proc/{worker['pid']}/status") as file:
            parent = next(int(line.split()[1]) for line in file if line.startswith("PPid:"))
        assert parent == daemon.process.pid


def test_reload_serves_new_code_and_loses_no_request(daemon):
    unix = f"unix:{daemon.directory}/web.sock"
    assert unix in daemon.pool("http")["listens"]
    address = daemon.address()
    with (
        Traffic(address, keep_alive=True) as keeping,
        Traffic(address, keep_alive=False) as closing,
    ):
        for version in ("two", "three", "four"):
            (daemon.directory / "app.py").write_text(APPLICATION.replace('"one"', f'"{version}"'))
            run = daemon.procmanctl("reload", "http")
            assert run.returncode == 0, run.stderr
            assert version in ask(daemon)[1]
            keeping.wait_for(20)
            closing.wait_for(20)
    assert keeping.lost == []
    assert closing.lost == []
    assert {status for status, _ in keeping.answers + closing.answers} == {200}
    assert daemon.pool("http")["generation"] == 4


@pytest.mark.parametrize(
    ("breakage", "traceback"),
    [
        ("raise RuntimeError('no good')", "RuntimeError: no good"),
        ("def broken(:", "SyntaxError"),
        ("application = 42", "can't be called"),
        ("import no_such_module_anywhere", "no_such_module_anywhere"),
        ("import os; os._exit(3)", "ended with status 3"),
    ],
)
def test_a_release_that_can_not_be_imported_never_replaces_one_that_works(daemon, breakage, traceback):
    before = {worker["pid"] for worker in daemon.pool("http")["workers"]}
    with Traffic(daemon.address()) as traffic:
        (daemon.directory / "app.py").write_text(APPLICATION + "\n" + breakage + "\n")
        run = daemon.procmanctl("reload", "http")
        assert run.returncode == 1
        assert traceback in run.stderr
        traffic.wait_for(20)
    assert traffic.lost == []
    assert {worker["pid"] for worker in daemon.pool("http")["workers"]} == before
    (daemon.directory / "app.py").write_text(APPLICATION)
    assert daemon.procmanctl("reload", "http").returncode == 0


def test_a_killed_template_costs_nothing_and_is_made_anew(daemon):
    template = template_pid(daemon)
    before = {worker["pid"] for worker in daemon.pool("http")["workers"]}
    os.kill(template, signal.SIGKILL)
    daemon.wait(lambda: template_pid(daemon) not in (None, template), "a new template")
    assert {worker["pid"] for worker in daemon.pool("http")["workers"]} == before
    victim = daemon.worker("http.1")["pid"]
    os.kill(victim, signal.SIGKILL)
    daemon.wait_replaced("http.1", victim)
    assert ask(daemon)[0] == 200


def template_pid(daemon):
    """The child of the daemon that runs the template's module."""
    with open(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children") as file:
        children = file.read().split()
    known = {worker["pid"] for worker in daemon.pool("http")["workers"]}
    for child in children:
        try:
            with open(f"/proc/{child}/cmdline") as file:
                if int(child) not in known and "procman.workers.template" in file.read():
                    return int(child)
        except FileNotFoundError:
            continue
    return None


@pytest.mark.parametrize("path", ["/sleep", "/inside-c", "/burn"])
def test_dumpstacks_shows_where_a_stuck_worker_is_and_in_which_unit(daemon, path):
    ask_in_background(daemon, path)
    busy = busy_worker(daemon, path)
    run = daemon.procmanctl("dumpstacks", "http")
    assert run.returncode == 0, run.stderr
    assert f"Worker {busy['name']} ({busy['pid']}) GET {path} (db:" in run.stdout
    assert "app.py" in run.stdout
    assert "qc:0 qt:0.000 pt:" in run.stdout
    assert ("uid:7" in run.stdout) == (path == "/sleep")
    if path == "/inside-c":
        stacks = {one["worker"]: one for one in daemon.ctl("dumpstacks", name=["http"])["stacks"]}
        assert stacks[busy["name"]]["by"] == "faulthandler"
    os.kill(busy["pid"], signal.SIGKILL)


def test_quit_to_the_arbiter_and_to_a_worker_put_stacks_into_the_log(daemon):
    daemon.process.send_signal(signal.SIGQUIT)
    daemon.wait(lambda: daemon.log.count("Stacks, as asked by SIGQUIT") == 2, "the stacks of both workers")
    worker = daemon.worker("http.2")["pid"]
    os.kill(worker, signal.SIGQUIT)
    daemon.wait(lambda: f"Stacks of worker http.2 ({worker})" in daemon.log, "the stacks of http.2")
    assert daemon.worker("http.2")["pid"] == worker


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_told_to_go_is_replaced_before_anybody_misses_it(daemon, signum):
    with Traffic(daemon.address()) as traffic:
        pid = daemon.worker("http.1")["pid"]
        os.kill(pid, signum)
        daemon.wait_replaced("http.1", pid)
        traffic.wait_for(10)
    assert traffic.lost == []


def limited(short_path, limits):
    return Procmand(
        short_path,
        CONFIGURATION + "[pools.http.limits]\n" + limits,
        modules={"app.py": APPLICATION},
    )


def test_a_unit_over_its_real_time_is_a_503_and_the_worker_is_replaced(short_path):
    with limited(short_path, "time_real = 1") as daemon:
        status, _ = daemon.request("GET", "/sleep")
        assert status == 503
        daemon.wait(lambda: daemon.pool("http")["exits"], "the exit record")
        daemon.wait(lambda: daemon.pool("http")["ready"] == 2, "the replacement")
        assert [record["reason"] for record in daemon.pool("http")["exits"]] == ["real_time"]


def test_a_unit_over_time_inside_c_is_killed_with_its_stacks_in_the_log(short_path):
    with limited(short_path, "time_real = 1") as daemon:
        came_to, thread = ask_in_background(daemon, "/inside-c")
        busy = busy_worker(daemon, "/inside-c")
        thread.join(30)
        assert not isinstance(came_to[0], tuple)
        daemon.wait(lambda: daemon.pool("http")["exits"], "the exit record")
        daemon.wait(lambda: daemon.pool("http")["ready"] == 2, "the replacement")
        assert [record["reason"] for record in daemon.pool("http")["exits"]] == ["real_time"]
        log = daemon.log
    stacks = log.index("Stacks before the kill")
    assert f"Worker {busy['name']} ({busy['pid']}) GET /inside-c (db:n/a" in log
    assert "app.py" in log[stacks:]
    assert stacks < log.index("is killed: real_time")


def test_a_unit_over_its_cpu_time_is_a_503(short_path):
    with limited(short_path, "time_cpu = 1") as daemon:
        status, _ = daemon.request("GET", "/burn")
        assert status == 503
        daemon.wait(lambda: daemon.pool("http")["exits"], "the exit record")
        assert daemon.pool("http")["exits"][0]["reason"] == "cpu_time"


def test_memory_hard_is_a_memory_error_in_the_unit_and_not_a_dead_worker(short_path):
    with limited(short_path, 'memory_hard = "200MiB"') as daemon:
        assert ask(daemon, "/eat") == (507, "MemoryError")
        assert daemon.pool("http")["exits"] == []


def test_a_worker_goes_after_its_share_of_requests_and_none_is_lost(short_path):
    with limited(short_path, "requests = 10") as daemon:
        with Traffic(daemon.address()) as traffic:
            traffic.wait_for(100)
        assert traffic.lost == []
        daemon.wait(
            lambda: "max_requests" in {record["reason"] for record in daemon.pool("http")["exits"]}, "the exit record"
        )


def test_a_worker_that_has_done_its_share_is_replaced_before_it_goes(short_path):
    def life():
        happened = [
            event["topic"].rpartition(".")[2] for event in daemon.ctl("events")["events"] if event["slot"] == "http.1"
        ]
        happened = [what for what in happened if what in ("recycling", "ready", "retiring")]
        return happened[happened.index("recycling") :] if "recycling" in happened else []

    with limited(short_path, "requests = 5") as daemon:
        with Traffic(daemon.address()) as traffic:
            traffic.wait_for(60)
            daemon.wait(lambda: len(life()) >= 3, "a worker of its slot, replaced")
        assert traffic.lost == []
        seen = life()
    whole = len(seen) // 3 * 3
    assert seen[:whole] == ["recycling", "ready", "retiring"] * (whole // 3)


def test_where_no_successor_can_start_the_worker_serves_on(short_path):
    """The environment is broken for whoever comes next: the template forks, and before_start fails."""
    hooks = 'hooks = { before_start = ["test", "!", "-e", "broken"] }\n'
    text = CONFIGURATION + hooks + "[pools.http.limits]\nrequests = 5\n"
    with Procmand(short_path, text, modules={"app.py": APPLICATION}) as daemon:
        (short_path / "broken").touch()
        before = {worker["pid"] for worker in daemon.pool("http")["workers"]}
        with Traffic(daemon.address()) as traffic:
            traffic.wait_for(50)
            daemon.wait(lambda: "its replacement can't start" in daemon.log, "the report")
        assert traffic.lost == []
        assert {worker["pid"] for worker in daemon.pool("http")["workers"] if worker["pid"]} == before
        assert daemon.pool("http")["state"] == "running"
        (short_path / "broken").unlink()
        with Traffic(daemon.address(), keep_alive=False):  # until each of them has had its share
            daemon.wait(
                lambda: {worker["pid"] for worker in daemon.pool("http")["workers"]}.isdisjoint(before), "others"
            )


def test_an_application_that_can_not_be_imported_at_the_start_is_told_with_its_traceback(short_path):
    modules = {"app.py": "raise RuntimeError('not today')"}
    with Procmand(short_path, CONFIGURATION, modules=modules, ready=False) as daemon:
        daemon.wait(lambda: "RuntimeError: not today" in daemon.log, "the traceback")
        (daemon.directory / "app.py").write_text(APPLICATION)
        daemon.wait_said("READY=1")
        assert ask(daemon)[0] == 200


def test_a_hung_import_does_not_keep_a_reload_waiting_for_ever(short_path):
    configuration = CONFIGURATION + "start_timeout = 1\n"
    with Procmand(short_path, configuration, modules={"app.py": APPLICATION}) as daemon:
        (daemon.directory / "app.py").write_text("import time; time.sleep(1000)")
        run = daemon.procmanctl("reload", "http")
        assert run.returncode == 1
        assert "within 1 s" in run.stderr
        assert ask(daemon)[0] == 200


def test_clients_that_ask_nothing_do_not_hold_up_the_shutdown(short_path):
    configuration = CONFIGURATION.replace("keepalive = 1", "keepalive = 1000")
    with Procmand(short_path, configuration, modules={"app.py": APPLICATION}) as daemon:
        connection = http.client.HTTPConnection(daemon.address(), timeout=30)
        connection.request("GET", "/")
        assert connection.getresponse().read()
        assert daemon.stop(signal.SIGINT) == 0
        connection.close()


def test_each_pool_that_asks_for_port_0_gets_a_port_of_its_own(short_path):
    configuration = CONFIGURATION + CONFIGURATION.replace("pools.http", "pools.other").replace("web.sock", "other.sock")
    with Procmand(short_path, configuration, modules={"app.py": APPLICATION}) as daemon:
        assert daemon.address("http") != daemon.address("other")
        status, body = daemon.request("GET", "/", pool="other")
        assert status == 200
        assert b"other." in body
