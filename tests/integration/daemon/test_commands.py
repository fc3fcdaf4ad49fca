"""procmand with pools of plain commands: life, control, reload, logs. No database, no application."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from procman.errors import NotReachable
from tests.support.daemon import Procmand, program

TWO_SLEEPERS = """
[pools.sleeper]
kind = "exec"
command = ["sleep", "1000"]
workers = 2
start_seconds = 0.1
"""


def test_int_ends_with_status_0_and_leaves_nothing(short_path):
    with Procmand(short_path, TWO_SLEEPERS) as daemon:
        assert daemon.pool("sleeper")["ready"] == 2
        assert daemon.stop(signal.SIGINT) == 0
        daemon.assert_nothing_left()
        with pytest.raises(NotReachable):
            daemon.ctl("stats")


def test_the_control_socket_is_for_its_owner_alone(short_path):
    with Procmand(short_path, TWO_SLEEPERS):
        assert stat.S_IMODE(os.stat(short_path / "var/control.sock").st_mode) == 0o600
        assert stat.S_IMODE(os.stat(short_path / "var").st_mode) == 0o700


def has_shape(figures, promised, added):
    """All that is promised is there, of its type, and what else there is has been thought about."""
    assert set(figures) == set(promised) | added
    # bool is an int, but whoever reads JSON can tell them apart.
    wrong = {name: figures[name] for name, types in promised.items() if type(figures[name]) not in types}
    assert not wrong


# What users and other programs rely on: these names, and these types of JSON.
PROMISED_OF_ARBITER = {
    "pid": (int,),
    "version": (str,),
    "uptime": (float,),
    "rss": (int,),
    "cpu_percent": (float,),
    "state": (str,),
}
PROMISED_OF_POOL = {
    "kind": (str,),
    "state": (str,),
    "generation": (int,),
    "target": (int,),
    "ready": (int,),
    "busy": (int,),
    "workers": (list,),
}
PROMISED_OF_WORKER = {
    "name": (str,),
    "pid": (int,),
    "generation": (int,),
    "state": (str,),
    "busy": (bool,),
    "unit": (str, type(None)),
    "unit_seconds": (float, type(None)),
    "requests": (int,),
    "rss": (int,),
    "cpu_percent": (float,),
    "uptime": (float,),
}
# What procman adds: to every worker; to one that has answered requests; to a pool that listens.
ADDED_TO_WORKER = {"errors", "progress"}
ADDED_TO_HTTP_WORKER = {
    *("p50", "p99", "latencies", "request_seconds"),
    *("connections", "bytes_received", "bytes_sent"),
}
ADDED_TO_LISTENER = {"backlog"}


def test_stats_has_the_shape_that_is_promised(short_path):
    with Procmand(short_path, TWO_SLEEPERS) as daemon:
        run = daemon.procmanctl("--json", "stats")
        assert run.returncode == 0, run.stderr
        stats = json.loads(run.stdout)
    assert set(stats) == {"arbiter", "pools"}
    has_shape(stats["arbiter"], PROMISED_OF_ARBITER, set())
    assert stats["arbiter"]["pid"] == daemon.process.pid
    assert stats["arbiter"]["state"] == "running"
    sleeper = stats["pools"]["sleeper"]
    has_shape(sleeper, PROMISED_OF_POOL, set())
    assert (sleeper["kind"], sleeper["state"], sleeper["target"], sleeper["ready"]) == ("exec", "running", 2, 2)
    for worker in sleeper["workers"]:
        has_shape(worker, PROMISED_OF_WORKER, ADDED_TO_WORKER)


READS_A_PIPE = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "0")])
    if environ["PATH_INFO"] == "/pipe":
        with open("pipe") as pipe:
            pipe.read()
    return []
"""


def test_stats_of_an_http_pool_has_the_same_shape_and_more(short_path):
    configuration = '[pools.http]\nkind = "http"\napp = "reads:application"\nbind = "127.0.0.1:0"\n'
    os.mkfifo(short_path / "pipe")
    modules = {"reads.py": READS_A_PIPE}
    with Procmand(short_path, configuration, modules=modules) as daemon, ThreadPoolExecutor() as client:
        assert daemon.request("GET", "/")[0] == 200
        with open(short_path / "pipe", "r+b", buffering=0):  # as long as it is open, the unit reads on
            answer = client.submit(daemon.request, "GET", "/pipe")
            daemon.wait(lambda: daemon.worker("http.1")["busy"], "the worker to be in the unit")
            http = daemon.ctl("stats")["pools"]["http"]
        assert answer.result()[0] == 200
    has_shape(http, PROMISED_OF_POOL, ADDED_TO_LISTENER)
    (worker,) = http["workers"]
    has_shape(worker, PROMISED_OF_WORKER, ADDED_TO_WORKER | ADDED_TO_HTTP_WORKER)
    assert (http["busy"], worker["busy"], worker["unit"]) == (1, True, "GET /pipe")
    assert worker["unit_seconds"] >= 0


def test_a_killed_command_is_replaced(short_path):
    with Procmand(short_path, TWO_SLEEPERS) as daemon:
        before = daemon.worker("sleeper.1")["pid"]
        os.kill(before, signal.SIGKILL)
        daemon.wait_replaced("sleeper.1", before)
        (record,) = daemon.pool("sleeper")["exits"]
        assert (record["worker"], record["pid"], record["reason"]) == ("sleeper.1", before, "killed_by_user")


def test_stop_start_scale_restart_and_reload(short_path):
    with Procmand(short_path, TWO_SLEEPERS) as daemon:
        for arguments, ready, target in [
            (("stop", "sleeper"), 0, 0),
            (("start", "sleeper"), 2, 2),
            (("scale", "sleeper", "3"), 3, 3),
            (("scale", "sleeper", "-2"), 1, 1),
            (("reload", "sleeper"), 1, 1),
        ]:
            run = daemon.procmanctl(*arguments)
            assert run.returncode == 0, (arguments, run.stderr, daemon.log)
            daemon.wait(lambda want=ready: daemon.pool("sleeper")["ready"] == want, f"{arguments} to take effect")
            assert daemon.pool("sleeper")["target"] == target
        assert daemon.pool("sleeper")["generation"] == 2
        before = daemon.worker("sleeper.1")["pid"]
        assert daemon.procmanctl("restart", "sleeper").returncode == 0
        assert daemon.worker("sleeper.1")["pid"] != before


def test_unknown_names_are_failures_and_running_code_is_refused(short_path):
    with Procmand(short_path, TWO_SLEEPERS) as daemon:
        run = daemon.procmanctl("reload", "sleepr")
        assert run.returncode == 1
        assert "sleeper" in run.stderr
        assert daemon.procmanctl("no-such-command").returncode == 2


def test_a_second_daemon_is_refused_and_harms_nothing(short_path):
    with Procmand(short_path, TWO_SLEEPERS) as daemon:
        second = subprocess.run(
            [program("procmand"), "-c", str(daemon.file)], capture_output=True, text=True, timeout=60, check=False
        )
        assert second.returncode == 1
        assert f"another procmand (pid {daemon.process.pid})" in second.stderr
        assert daemon.pool("sleeper")["ready"] == 2


def test_hup_reads_the_configuration_again_and_a_wrong_one_changes_nothing(short_path):
    with Procmand(short_path, TWO_SLEEPERS) as daemon:
        daemon.file.write_text(TWO_SLEEPERS.replace("workers = 2", 'workers = "lots"'))
        run = daemon.procmanctl("reload")
        assert run.returncode == 1
        assert "workers" in run.stderr
        assert daemon.pool("sleeper")["ready"] == 2
        assert daemon.pool("sleeper")["generation"] == 1
        added = TWO_SLEEPERS.replace("workers = 2", "workers = 1") + TWO_SLEEPERS.replace("sleeper", "other")
        daemon.file.write_text(added)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_said("RELOADING=1")
        daemon.wait_said("READY=1")
        assert daemon.pool("sleeper")["target"] == 1
        assert daemon.pool("other")["ready"] == 2


def test_a_crash_loop_parks_its_pool_and_check_says_so(short_path):
    configuration = (
        TWO_SLEEPERS
        + """
[pools.broken]
kind = "exec"
command = ["false"]
max_restarts = 2
"""
    )
    with Procmand(short_path, configuration, ready=False) as daemon:
        daemon.wait(lambda: (short_path / "var/control.sock").exists(), "the control socket")
        daemon.wait(lambda: daemon.pool("broken")["state"] == "parked", "the pool to be parked")
        check = daemon.procmanctl("check")
        assert check.returncode == 1
        assert "broken" in check.stdout + check.stderr
        assert daemon.pool("sleeper")["ready"] == 2


def test_a_command_that_can_not_be_run_says_why(short_path):
    configuration = '[pools.x]\nkind = "exec"\ncommand = ["/no/such/program"]\nmax_restarts = 1\n'
    with Procmand(short_path, configuration, ready=False) as daemon:
        daemon.wait(lambda: "/no/such/program" in daemon.log, "the reason to be in the log")
        daemon.stop(signal.SIGTERM)


def test_what_would_be_in_vain_is_refused(short_path):
    stubborn = TWO_SLEEPERS.replace('"sleep", "1000"', '"sh", "-c", "trap : TERM; while :; do sleep 0.1; done"')
    with Procmand(short_path, stubborn) as daemon:
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_said("STOPPING=1")
        run = daemon.procmanctl("reload", "sleeper")
        assert run.returncode == 5
        assert "the daemon is stopping" in run.stderr
        assert daemon.stop(signal.SIGTERM) == 0


def test_signals_that_mean_nothing_here_are_survived(short_path):
    with Procmand(short_path, TWO_SLEEPERS) as daemon:
        for signum in (signal.SIGUSR1, signal.SIGWINCH, signal.SIGPIPE, signal.SIGXCPU):
            daemon.process.send_signal(signum)
        daemon.wait(lambda: "SIGXCPU" in daemon.log, "the last signal to be told")
        assert daemon.pool("sleeper")["ready"] == 2


def test_json_logs_are_json_line_by_line(short_path):
    with Procmand(short_path, '[procman]\nlog_format = "json"\n' + TWO_SLEEPERS) as daemon:
        daemon.stop()
        records = [json.loads(line) for line in daemon.log.splitlines()]
    alive = [record for record in records if record.get("event") == "ready"]
    assert {record["worker"] for record in alive} == {"sleeper.1", "sleeper.2"}
    assert all(record["message"].startswith("Worker sleeper.") for record in alive)


def test_the_service_manager_hears_ready_and_stopping(short_path):
    with Procmand(short_path, TWO_SLEEPERS) as daemon:
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_said("STOPPING=1")
        assert daemon.process.wait(30) == 0


def test_the_environment_and_the_policy_of_a_pool_reach_its_command(short_path):
    configuration = """
[pools.x]
kind = "exec"
command = ["sh", "-c", "echo $COLOUR $(umask) $(pwd) $PROCMAN_WORKER > out; exec sleep 1000"]
env = { COLOUR = "green" }
umask = "077"
start_seconds = 0.5
"""
    with Procmand(short_path, configuration) as daemon:
        daemon.wait(lambda: (short_path / "out").exists() and (short_path / "out").read_text(), "the output")
        assert (short_path / "out").read_text().split() == ["green", "0077", str(short_path), "x.1"]


def test_a_command_may_say_by_itself_when_it_is_ready(short_path):
    say = "import os, socket, time; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
    say += "open('started', 'w').close(); "
    say += "[time.sleep(0.01) for _ in iter(lambda: os.path.exists('go'), True)]; "
    say += "s.sendto(b'READY=1', chr(0) + os.environ['NOTIFY_SOCKET'][1:]); time.sleep(1000)"
    configuration = f"""
[pools.x]
kind = "exec"
command = ["{sys.executable}", "-c", "{say}"]
ready = "notify"
start_seconds = 0.01
"""
    with Procmand(short_path, configuration, ready=False) as daemon:
        daemon.wait(lambda: (short_path / "started").exists(), "the command to run")
        assert daemon.pool("x")["ready"] == 0
        (short_path / "go").touch()
        daemon.wait_said("READY=1")
        assert daemon.pool("x")["ready"] == 1
