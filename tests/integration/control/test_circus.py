"""Circus's own client and command line against procmand: what it asks for it gets, in the fields where it looks."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import termios
from contextlib import closing
from pathlib import Path

import pytest
import zmq
from circus.client import CircusClient
from circus.stats.client import StatsClient

from procman.control.subscriber import Subscription
from tests.support.daemon import PATIENCE, Procmand, program

CONFIGURATION = """
[pools.http]
kind = "http"
app = "hello:application"
bind = ["127.0.0.1:0", "unix:http.sock"]
workers = 2
stop_timeout = "7s"
[pools.http.limits]
age = "1h"

[pools.sleeper]
kind = "exec"
command = ["sleep", "1000"]
start_seconds = 0.05
env = { COLOUR = "green" }
"""

HELLO = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]
"""


@pytest.fixture
def daemon(short_path):
    with Procmand(short_path, CONFIGURATION, modules={"hello.py": HELLO}) as daemon:
        yield daemon


@pytest.fixture
def client(daemon):
    client = CircusClient(endpoint=daemon.endpoint, timeout=PATIENCE)
    yield client
    client.stop()
    client.context.term()


@pytest.fixture
def circusctl(daemon):
    def run(*arguments: str, code: int = 0) -> str:
        run = subprocess.run(
            [program("circusctl"), "--endpoint", daemon.endpoint, "--timeout", "60", *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert run.returncode == code, (run.stdout, run.stderr)
        assert "Traceback" not in run.stderr
        return (run.stdout + run.stderr).strip()

    return run


def pids(client, name):
    return client.send_message("list", name=name)["pids"]


# -- reading, with the client -----------------------------------------------------------------------------


def test_names_and_numbers(client, daemon):
    assert client.send_message("list")["watchers"] == ["http", "sleeper"]
    assert client.send_message("numwatchers")["numwatchers"] == 2
    assert client.send_message("numprocesses")["numprocesses"] == 3
    reply = client.send_message("numprocesses", name="http")
    assert (reply["status"], reply["numprocesses"], reply["watcher_name"]) == ("ok", 2, "http")
    expected = [worker["pid"] for worker in daemon.pool("http")["workers"]]
    assert pids(client, "http") == client.send_message("listpids", name="http")["pids"] == expected


def test_statuses(client, daemon):
    assert client.send_message("status")["statuses"] == {"http": "active", "sleeper": "active"}
    reply = client.send_message("status", name="sleeper")
    assert (reply["status"], "statuses" in reply) == ("active", False)
    daemon.ctl("stop", name="sleeper", waiting=True)
    assert client.send_message("status", name="sleeper")["status"] == "stopped"


def test_figures_of_processes(client, daemon):
    fields = {
        *("pid", "cmdline", "username", "nice", "mem_info1", "mem_info2", "cpu", "mem", "ctime", "create_time", "age"),
        *("children", "started", "wid"),
    }
    infos = client.send_message("stats")["infos"]
    assert {name: len(info) for name, info in infos.items()} == {"http": 2, "sleeper": 1}
    (pid,) = pids(client, "sleeper")
    reply = client.send_message("stats", name="sleeper")
    info = reply["info"][str(pid)]
    assert (reply["name"], set(info), info["pid"], info["cmdline"]) == ("sleeper", fields, pid, "sleep")
    assert 0 < info["age"] < 600
    reply = client.send_message("stats", name="sleeper", process=pid, extended=True)
    assert (reply["process"], reply["info"]["pid"]) == (pid, pid)
    assert client.send_message("stats", name="sleeper", process=1)["status"] == "error"
    assert client.send_message("dstats")["info"]["pid"] == daemon.process.pid


def test_options(client, daemon):
    options = client.send_message("options", name="http")["options"]
    assert options["numprocesses"] == options["workers"] == 2
    assert (options["graceful_timeout"], options["max_age"], options["kind"]) == (7.0, 3600.0, "http")
    options = client.send_message("options", name="sleeper")["options"]
    assert (options["cmd"], options["args"], options["env"]) == ("sleep", ["1000"], {"COLOUR": "(hidden)"})
    reply = client.send_message("get", name="http", keys=["numprocesses", "limits.age"])
    assert reply["options"] == {"numprocesses": 2, "limits.age": 3600.0}
    assert "not found" in client.send_message("get", name="http", keys=["nope"])["reason"]
    options = client.send_message("globaloptions")["options"]
    assert options["endpoint"] == daemon.endpoint
    assert client.send_message("globaloptions", option="endpoint")["options"] == {"endpoint": daemon.endpoint}
    assert client.send_message("globaloptions", option="nope")["status"] == "error"


def test_sockets(client, daemon):
    sockets = client.send_message("listsockets")["sockets"]
    by_name = {sock["name"]: sock for sock in sockets}
    assert f"{by_name['http']['host']}:{by_name['http']['port']}" == daemon.address("http")
    assert by_name["http:2"]["path"] == f"{daemon.directory}/http.sock"
    assert all(isinstance(sock["fd"], int) and sock["backlog"] > 0 for sock in sockets)


# -- doing, with the client -------------------------------------------------------------------------------


def test_more_and_fewer(client, daemon):
    assert client.send_message("incr", name="http", waiting=True)["numprocesses"] == 3
    assert client.send_message("decr", name="http", nb=2, waiting=True)["numprocesses"] == 1
    assert daemon.pool("http")["target"] == 1
    assert client.send_message("set", name="http", options={"numprocesses": 2}, waiting=True)["status"] == "ok"
    assert daemon.pool("http")["ready"] == 2
    reply = client.send_message("set", name="http", options={"cmd": "sh"})
    assert reply["status"] == "error"
    assert "'cmd' can't be set in a running daemon" in reply["reason"]
    assert client.send_message("set", name="http", options={"numprocesses": "2"})["status"] == "error"


def test_stop_start_restart_by_patterns(client, daemon):
    before = pids(client, "sleeper")
    assert client.send_message("restart", name="sl*", waiting=True, match="glob")["status"] == "ok"
    after = pids(client, "sleeper")
    assert set(before).isdisjoint(after)
    assert client.send_message("stop", name="sl*", match="simple")["status"] == "error"
    assert client.send_message("stop", name="sl*", waiting=True)["status"] == "ok"
    assert daemon.pool("sleeper")["state"] == "stopped"
    assert daemon.pool("http")["state"] == "running"
    assert client.send_message("start", waiting=True)["status"] == "ok"
    assert daemon.pool("sleeper")["ready"] == 1


def test_reload(client, daemon):
    reply = client.send_message("reload", name="http", graceful=True, sequential=False, waiting=True)
    assert (reply["status"], daemon.pool("http")["generation"]) == ("ok", 2)
    before = pids(client, "http")
    client.send_message("reload", name="http", graceful=False, sequential=False, waiting=True)
    # Those of the first reload may still be finishing what they had accepted.
    daemon.wait(lambda: set(before).isdisjoint(pids(client, "http")), "every worker to be another one")
    assert daemon.pool("http")["generation"] == 2


def test_reloadconfig_applies_the_difference_and_nothing_else(client, daemon):
    def reload():
        assert client.send_message("reloadconfig", waiting=True)["status"] == "ok"
        return pids(client, "http"), pids(client, "sleeper")

    before = pids(client, "http"), pids(client, "sleeper")
    assert reload() == before
    assert daemon.pool("http")["generation"] == daemon.pool("sleeper")["generation"] == 1
    daemon.file.write_text(CONFIGURATION.replace("green", "blue"))
    http, sleeper = reload()
    assert http == before[0]
    assert set(sleeper).isdisjoint(before[1])
    daemon.file.write_text(CONFIGURATION.replace("workers = 2", "workers = 1"))
    reload()
    daemon.wait(lambda: daemon.pool("http")["target"] == 1, "the new number of workers")


def test_signals_to_workers_and_their_children(short_path):
    record = "import signal, sys, time; [signal.signal(s, lambda s, f: open(f'{sys.argv[1]}.{s}', 'w').close()) "
    record += "for s in (signal.SIGUSR1, signal.SIGUSR2)]; open(sys.argv[1], 'w').close(); "
    configuration = f"""
[pools.family]
kind = "exec"
command = ["{program("python")}", "-c", \"\"\"import subprocess, sys
child = subprocess.Popen([sys.executable, '-c', sys.argv[1] + 'time.sleep(1000)', 'child'])
sys.argv[1:] = ['parent']
exec("{record}")
[time.sleep(1) for _ in range(1000)]
\"\"\", "{record}"]
"""
    with Procmand(short_path, configuration) as daemon:
        client = CircusClient(endpoint=daemon.endpoint, timeout=PATIENCE)
        for name in ("parent", "child"):
            daemon.wait(lambda name=name: (short_path / name).exists(), f"{name} to run")
        (pid,) = pids(client, "family")
        reply = client.send_message("signal", name="family", pid=pid, signum="usr1", children=True, recursive=False)
        (child,) = reply["children"]
        assert (reply["workers"], child != pid) == ([], True)
        daemon.wait(lambda: (short_path / f"child.{signal.SIGUSR1:d}").exists(), "the child's signal")
        reply = client.send_message("signal", name="family", signum=int(signal.SIGUSR2), recursive=True)
        assert (reply["workers"], reply["children"]) == (["family.1"], [child])
        for name in ("parent", "child"):
            path = short_path / f"{name}.{signal.SIGUSR2:d}"
            daemon.wait(path.exists, f"the signal of {name}")
        assert not (short_path / f"parent.{signal.SIGUSR1:d}").exists()
        reply = client.send_message("signal", name="family", pid=pid, childpid=os.getpid(), signum=int(signal.SIGUSR1))
        assert (reply["workers"], reply["children"]) == ([], [])  # no child of it
        assert client.send_message("signal", name="family", pid=1, signum=15)["status"] == "error"
        client.stop()


def test_kill_asks_first_and_waits_no_longer_than_it_is_told(client, daemon):
    (pid,) = pids(client, "sleeper")
    assert client.send_message("kill", name="sleeper", pid=pid, waiting=True)["status"] == "ok"
    daemon.wait_replaced("sleeper.1", pid)
    first = daemon.pool("sleeper")["exits"][-1]
    assert (first["reason"], first["status"]) == ("killed_by_user", -signal.SIGTERM)
    pid = daemon.worker("sleeper.1")["pid"]
    os.kill(pid, signal.SIGSTOP)
    # Of two pending signals the kernel delivers the lower number first, and TERM is lower than STOP.
    daemon.wait(lambda: b") T " in Path(f"/proc/{pid}/stat").read_bytes(), "the process to be stopped")
    reply = client.send_message("kill", name="sleeper", signum="TERM", graceful_timeout=0.2, waiting=True)
    assert (reply["status"], reply["workers"]) == ("ok", ["sleeper.1"])
    daemon.wait_replaced("sleeper.1", pid)
    second = daemon.pool("sleeper")["exits"][-1]
    assert (second["reason"], second["status"]) == ("grace_expired", -signal.SIGKILL)


@pytest.mark.parametrize(
    ("command", "properties"),
    [
        ("add", {"name": "x", "cmd": "sh"}),
        ("rm", {"name": "http"}),
        ("ipython", {}),
    ],
)
def test_what_could_run_code_is_refused(client, daemon, command, properties):
    reply = client.send_message(command, **properties)
    assert reply["status"] == "error"
    assert "is refused" in reply["reason"]
    assert daemon.pool("http")["ready"] == 2


def test_quit(client, daemon):
    assert client.send_message("quit", waiting=True)["status"] == "ok"
    assert daemon.process.wait(PATIENCE) == 0


# -- its command line -------------------------------------------------------------------------------------


def test_the_command_line_reads(circusctl, daemon):
    assert circusctl("list") == "http,sleeper"
    assert circusctl("list", "sleeper") == str(daemon.worker("sleeper.1")["pid"])
    assert circusctl("status") == "http: active\nsleeper: active"
    assert circusctl("status", "http") == "active"
    assert circusctl("numprocesses") == "3"
    assert circusctl("numwatchers") == "2"
    everything = circusctl("stats").splitlines()
    assert everything[0] == "http:"
    assert len(everything) == 5
    assert circusctl("stats", "sleeper").startswith(f"sleeper:\n{daemon.worker('sleeper.1')['pid']}: ")
    assert " sleep " in circusctl("stats", "sleeper", str(daemon.worker("sleeper.1")["pid"]))
    assert circusctl("dstats").startswith(f"Main Process:\n    {daemon.process.pid}")
    assert "graceful_timeout: 7.0" in circusctl("options", "http").splitlines()
    assert circusctl("get", "http", "numprocesses") == "numprocesses: 2"
    assert f"endpoint: {daemon.endpoint}" in circusctl("globaloptions").splitlines()
    assert f":socket 'http' at {daemon.address()}" in circusctl("listsockets")
    assert json.loads(circusctl("--json", "numwatchers"))["numwatchers"] == 2


def test_the_command_line_does(circusctl, daemon):
    assert circusctl("incr", "http", "--waiting") == "3"
    assert circusctl("decr", "http", "--waiting") == "2"
    assert circusctl("set", "http", "numprocesses", "1", "--waiting") == "ok"
    assert daemon.pool("http")["target"] == 1
    for command in ("stop", "start", "restart", "reload"):
        assert circusctl(command, "sleeper", "--waiting") == "ok"
    assert circusctl("reload", "--terminate", "--waiting") == "ok"
    assert circusctl("reloadconfig", "--waiting") == "ok"
    pid = daemon.worker("sleeper.1")["pid"]
    assert circusctl("signal", "sleeper", str(pid), "KILL") == "ok"
    pid = daemon.wait_replaced("sleeper.1", pid)
    assert circusctl("kill", "sleeper", str(pid), "--signum", "INT", "--graceful_timeout", "1") == "ok"
    daemon.wait_replaced("sleeper.1", pid)
    assert "is refused" in circusctl("add", "x", "sh", code=3)
    assert "can't be set" in circusctl("set", "http", "cmd", "sh", code=3)
    assert "no pool is called 'nope'" in circusctl("list", "nope", code=3)
    assert circusctl("quit", "--waiting") == "ok"
    assert daemon.process.wait(PATIENCE) == 0


# -- circus-top -------------------------------------------------------------------------------------------


def test_figures_flow_while_somebody_looks_and_only_then(client, daemon):
    endpoint = client.send_message("globaloptions", option="stats_endpoint")["options"]["stats_endpoint"]
    with Subscription(endpoint) as everything:
        seen = {}
        with closing(StatsClient(endpoint).iter_messages()) as stats:
            for pool, subtopic, stat in stats:
                seen[pool, subtopic] = stat
                if {("circus", None), ("http", None), ("sleeper", None)} <= set(seen):
                    break
        (pid,) = pids(client, "sleeper")
        assert seen["sleeper", str(pid)]["name"] == "sleeper.1"
        assert seen["sleeper", None]["pid"] == [pid]
        assert seen["http", None]["mem"] > 0
        assert ("circus", str(daemon.process.pid)) in seen
        daemon.ctl("stop", name="sleeper", waiting=True)
        topic = everything.receive(PATIENCE)["topic"]
        assert topic == "pool.sleeper.retiring", "no figures for those who did not ask for them"
    # Nobody looks any more. This topic is one that figures would come under, but does not ask for them.
    with zmq.Context() as context, context.socket(zmq.SUB) as late:
        late.connect(endpoint)
        late.subscribe("sta")
        assert not late.poll(1500)


def test_circus_top(daemon):
    endpoint = daemon.ctl("events")["endpoint"]
    control, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (40, 100))
    with subprocess.Popen(
        [program("circus-top"), "--endpoint", endpoint],
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm"},
    ) as top:
        os.close(terminal)
        shown = ""
        while not all(word in shown for word in ("Circus Top", "sleeper", "http", "(http.1)", "MEMORY")):
            assert select.select([control], [], [], PATIENCE)[0], shown
            shown += os.read(control, 65536).decode("utf-8", "replace")
        top.kill()
    os.close(control)
