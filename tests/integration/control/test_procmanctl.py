"""procmanctl against a control socket: what it sends, what it prints, and how it exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from procman.cli.procmanctl import main
from procman.control.server import ControlServer

ARBITER = {"pid": 1, "version": "0.1.0", "uptime": 1.0, "rss": 0, "cpu_percent": 0.0, "state": "running"}
WORKER = {
    "name": "http.1",
    "pid": 4711,
    "generation": 1,
    "state": "ready",
    "busy": False,
    "unit": None,
    "unit_seconds": None,
    "requests": 0,
    "rss": 0,
    "cpu_percent": 0.0,
    "uptime": 1.0,
}
POOL = {
    "kind": "http",
    "state": "running",
    "generation": 1,
    "target": 1,
    "ready": 1,
    "busy": 0,
    "workers": [WORKER],
}


@pytest.fixture
def ctl(endpoint, monkeypatch, short_path):
    """Run procmanctl in this process, away from every configuration file."""
    for name in ("PROCMAN_ENDPOINT", "PROCMAN_CONFIG", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(short_path)

    def run(*args: str, where: tuple[str, ...] = ("--endpoint", endpoint), **kwargs):
        return CliRunner().invoke(main, [*where, *args], **kwargs)

    return run


# -- finding the daemon -----------------------------------------------------------------------------------


def test_by_variable(ctl, daemon, endpoint):
    daemon.answers["check"] = lambda call: call.reply({"ready": True, "problems": []})
    assert ctl("check", where=(), env={"PROCMAN_ENDPOINT": endpoint}).exit_code == 0


def test_by_the_file_in_the_current_directory(ctl, daemon, short_path):
    daemon.answers["check"] = lambda call: call.reply({"ready": True, "problems": []})
    (short_path / "procman.toml").write_text("")
    assert ctl("check", where=()).exit_code == 0


def test_by_a_file(ctl, daemon, short_path):
    daemon.answers["check"] = lambda call: call.reply({"ready": True, "problems": []})
    (short_path / "my.toml").write_text('[procman]\nstate_dir = "var"')
    assert ctl("check", where=("-c", "my.toml")).exit_code == 0
    assert ctl("check", "-c", "my.toml", where=()).exit_code == 0


# -- exit codes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args", [("frobnicate",), ("scale", "http"), ("scale", "http", "many"), ("--timeout", "0", "stats"), ("stop",)]
)
def test_2_usage(ctl, args):
    assert ctl(*args).exit_code == 2


def test_2_a_signal_that_is_none(ctl):
    result = ctl("signal", "TREM", "http")
    assert result.exit_code == 2
    assert "there is no signal 'TREM', did you mean 'TERM'?" in result.stderr


def test_3_not_reachable(ctl, endpoint):
    result = ctl("stats")
    assert result.exit_code == 3
    assert result.stdout == ""
    assert result.stderr == f"procmanctl: no daemon at {endpoint}: there is no such socket\n"


def test_4_timed_out(ctl, endpoint):
    server = ControlServer([endpoint])
    try:
        result = ctl("stats", "--timeout", "0.1")
    finally:
        server.close()
    assert result.exit_code == 4
    assert result.stderr == "procmanctl: stats: no answer within 0.1 s\n"


def test_5_refused(ctl, daemon):
    daemon.answers["scale"] = lambda call: call.refuse("there is room for 8 workers in http at the most")
    result = ctl("scale", "http", "9")
    assert result.exit_code == 5
    assert result.stderr == "procmanctl: there is room for 8 workers in http at the most\n"


@pytest.mark.parametrize("where", [("-c", "nothing.toml"), ()])
def test_78_configuration(ctl, where):
    assert ctl("stats", where=where).exit_code == 78


def test_errors_are_json_when_asked_for(ctl, daemon):
    daemon.answers["stats"] = lambda call: call.fail("no pool is called 'x'")
    result = ctl("stats", "x", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "status": "error",
        "reason": "no pool is called 'x'",
        "errno": 5,
        "exit_code": 1,
    }


# -- looking ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [("--json", "stats"), ("stats", "--json")])
def test_stats_json_has_exactly_its_shape(ctl, daemon, args):
    reply = {"arbiter": ARBITER, "pools": {"http": POOL}}
    daemon.answers["stats"] = lambda call: call.reply({**reply, "infos": {}})
    result = ctl(*args)
    assert result.exit_code == 0
    assert json.loads(result.stdout) == reply


def test_stats_of_one_worker(ctl, daemon):
    daemon.answers["stats"] = lambda call: call.reply({"arbiter": ARBITER, "pools": {"http": POOL}})
    result = ctl("stats", "http.1")
    assert daemon.calls[0].properties == {"name": "http.1", "infos": False}
    assert "http.1  4711  ready" in result.stdout


def test_status(ctl, daemon):
    exits = [{"worker": "http.2", "pid": 9, "reason": "crashed", "status": -11, "lived": 3.0, "at": 1795250000.0}]
    pool = {**POOL, "exits": exits, "parked": "too many died young", "operation": None}
    daemon.answers["status"] = lambda call: call.reply({"arbiter": ARBITER, "pools": {"http": pool}})
    result = ctl("status")
    assert "http  http  running    1/1" in result.stdout
    assert "http is parked: too many died young" in result.stdout
    assert "http.2    9  crashed  SIGSEGV" in result.stdout
    assert set(json.loads(ctl("status", "--json").stdout)) == {"arbiter", "pools"}


def test_check(ctl, daemon):
    daemon.answers["check"] = lambda call: call.reply({"ready": True, "problems": []})
    assert (ctl("check").exit_code, ctl("check").stdout) == (0, "ok\n")
    daemon.answers["check"] = lambda call: call.reply({"ready": False, "problems": ["http has 1 of 2 workers ready"]})
    assert (ctl("check").exit_code, ctl("check").stdout) == (1, "http has 1 of 2 workers ready\n")
    assert json.loads(ctl("check", "--json").stdout)["ready"] is False


def test_dumpstacks(ctl, daemon):
    unit = {"name": "GET /slow", "database": "d", "user": None, "queries": 1, "query_seconds": 0.5, "python_seconds": 1}
    stacks = [
        {"worker": "http.1", "pid": 1, "generation": 1, "unit": unit, "text": "Thread MainThread\n", "by": "python"},
        {"worker": "http.2", "pid": 2, "generation": 1, "unit": None, "text": "Thread 0x1\n", "by": "faulthandler"},
    ]
    daemon.answers["dumpstacks"] = lambda call: call.reply({"stacks": stacks})
    assert ctl("dumpstacks", "http").stdout.splitlines() == [
        "Worker http.1 (1) GET /slow (db:d uid:n/a url:/slow qc:1 qt:0.500 pt:1.000)",
        "Thread MainThread",
        "",
        "Worker http.2 (2) idle",
        "inside a call of C; innermost call first",
        "Thread 0x1",
    ]
    assert daemon.calls[0].request.names == ("http",)
    assert json.loads(ctl("dumpstacks", "http", "--json").stdout) == {"stacks": stacks}


# -- steering ---------------------------------------------------------------------------------------------


def test_reload(ctl, daemon):
    done = {"outcome": "done", "generation": 2, "reason": "", "traceback": ""}
    daemon.answers["reload"] = lambda call: call.reply({"operation": "reload-1", "pools": {"http": done}})
    result = ctl("reload", "http", "cron")
    assert (result.exit_code, result.stdout) == (0, "http: generation 2 serves\n")
    (call,) = daemon.calls
    assert call.request.names == ("http", "cron")
    assert call.request.waiting


def test_reload_of_everything(ctl, daemon):
    daemon.answers["reload"] = lambda call: call.reply({"pools": {}})
    ctl("reload")
    assert daemon.calls[0].request.names == ()


def test_a_reload_that_fails_prints_the_traceback(ctl, daemon):
    failed = {
        "outcome": "failed",
        "generation": 1,
        "reason": "boot_failed",
        "traceback": "Traceback…\nSyntaxError: x\n",
    }
    pools = {"http": failed, "cron": {"outcome": "done", "generation": 2, "reason": "", "traceback": ""}}
    daemon.answers["reload"] = lambda call: call.fail("reload http: boot_failed", fields={"pools": pools})
    result = ctl("reload")
    assert result.exit_code == 1
    assert result.stdout == "http: failed, generation 1 goes on serving\ncron: generation 2 serves\n"
    assert result.stderr == "http:\nTraceback…\nSyntaxError: x\nprocmanctl: reload http: boot_failed\n"
    document = json.loads(ctl("reload", "--json").stdout)
    assert (document["exit_code"], document["pools"]) == (1, pools)


def test_no_wait_prints_the_operation(ctl, daemon):
    daemon.answers["reload"] = lambda call: call.reply({"operation": "reload-7"})
    assert ctl("reload", "--no-wait").stdout == "reload-7\n"
    assert ctl("--no-wait", "reload").stdout == "reload-7\n"
    assert [call.request.waiting for call in daemon.calls] == [False, False]


@pytest.mark.parametrize(
    ("workers", "properties"),
    [("4", {"count": 4}), ("0", {"count": 0}), ("+1", {"by": 1}), ("-2", {"by": -2})],
)
def test_scale(ctl, daemon, workers, properties):
    daemon.answers["scale"] = lambda call: call.reply({"numprocesses": 3})
    result = ctl("scale", "http", workers)
    assert (result.exit_code, result.stdout) == (0, "http: 3 workers\n")
    assert daemon.calls[0].properties == {"name": "http", "waiting": True, **properties}


@pytest.mark.parametrize("command", ["start", "stop", "restart"])
def test_start_stop_restart(ctl, daemon, command):
    daemon.answers[command] = lambda call: call.reply({"operation": "x"})
    result = ctl(command, "http", "cron")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].startswith("http: ")
    assert daemon.calls[0].command == command
    assert daemon.calls[0].request.names == ("http", "cron")


def test_signal_and_kill(ctl, daemon):
    daemon.answers["signal"] = daemon.answers["kill"] = lambda call: call.reply({"workers": ["http.1"]})
    assert ctl("signal", "usr1", "http").stdout == "sent to http.1\n"
    assert ctl("kill", "http.1").stdout == "killed http.1\n"
    assert daemon.calls[0].properties["signum"] == 10
    assert daemon.calls[1].request.names == ("http.1",)


def test_shutdown_no_wait(ctl, daemon):
    daemon.answers["shutdown"] = lambda call: call.reply({"operation": "shutdown-1"})
    assert ctl("shutdown", "--no-wait").stdout == "shutdown-1\n"


DAEMON = """
import select, sys
from procman.control.server import ControlServer
server = ControlServer([sys.argv[1]])
print("up", flush=True)
while True:
    select.select(server.filenos(), [], [], 0 if server.pending() else None)
    for call in server.receive():
        if sys.argv[2] == "answer":
            call.reply({})
        server.close(linger=1.0)
        sys.exit(0)
"""


@pytest.mark.parametrize("how", ["answer", "go"])
def test_shutdown_returns_when_the_process_has_ended(ctl, endpoint, how):
    with subprocess.Popen([sys.executable, "-c", DAEMON, endpoint, how], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        result = ctl("shutdown", "--timeout", "60")
        assert (result.exit_code, result.stdout) == (0, "the daemon has ended\n")
        # It has ended: there is a status to be had, though perhaps nobody has asked for it yet.
        assert os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


# -- as a program -----------------------------------------------------------------------------------------


def test_the_program_is_coloured_only_where_it_should_be(ctl, daemon):
    daemon.answers["stats"] = lambda call: call.reply({"arbiter": ARBITER, "pools": {"http": POOL}})
    assert "\x1b[" not in ctl("stats").stdout
    assert "\x1b[32mready" in ctl("stats", color=True).stdout
    assert "\x1b[" not in ctl("stats", color=True, env={"NO_COLOR": "1"}).stdout


def test_the_program_loads_nothing_heavy(endpoint):
    code = (
        "import sys\n"
        "from procman.cli.procmanctl import main\n"
        "try: main(['--endpoint', sys.argv[1], 'stats'])\n"
        "except SystemExit as exit: assert exit.code == 3\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, endpoint], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    heavy = {"psutil", "gevent", "psycopg2", "asyncio", "tomli", "httptools", "difflib"}
    assert heavy.isdisjoint(done.stdout.split())
