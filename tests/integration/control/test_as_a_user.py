"""procmanctl against a real daemon, as a person or a script uses it: what it says, how it exits, what it completes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

from procman.cli.procmanctl import main
from procman.control.client import Client
from procman.errors import TimedOut
from tests.support.daemon import Procmand, program, wait_until

CONFIGURATION = """
[pools.web]
kind = "exec"
command = ["sleep", "1000"]
workers = 2
start_seconds = 0.1

[pools.slow]
kind = "exec"
command = ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]
start_seconds = 0.1
stop_timeout = "8s"

[pools.off]
kind = "exec"
command = ["sleep", "1000"]
autostart = false
start_seconds = 0.1
"""
COMMANDS = sorted(main.commands)
ARGUMENTS = {
    "db": ["sql"],
    "dumpstacks": ["web"],
    "kill": ["web.1"],
    "restart": ["web"],
    "scale": ["web", "2"],
    "signal": ["CONT", "web"],
    "start": ["web"],
    "stop": ["off"],
    "wait": ["{operation}"],
}
NOT_HERE = {
    "events --follow",
    "invalidate",
    "jobs",
    "cron",
    "keys",
    "shutdown",
    "top",
    "upgrade",
}  # in tests of their own


@pytest.fixture(scope="module")
def daemon():
    with (
        tempfile.TemporaryDirectory(prefix="pm", dir="/tmp") as directory,
        Procmand(Path(directory), CONFIGURATION) as daemon,
    ):
        yield daemon


@pytest.fixture(autouse=True)
def rest(request):
    """Each test begins with everything as it was configured."""
    yield
    if "daemon" in request.fixturenames:
        daemon = request.getfixturevalue("daemon")
        daemon.ctl("start", name=["web", "slow"], waiting=True)
        daemon.ctl("scale", name="web", count=2, waiting=True)


# -- exit codes and documents -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in NOT_HERE])
def test_every_command_exits_with_0_and_prints_one_document(daemon, command):
    operation = daemon.ctl("scale", name="web", count=2)["operation"]
    arguments = [one.replace("{operation}", operation) for one in ARGUMENTS.get(command, [])]
    done = daemon.procmanctl(command, *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout.strip()
    assert "\x1b" not in done.stdout, "colours are for a terminal"
    as_json = daemon.procmanctl("--json", command, *arguments)
    assert (as_json.returncode, as_json.stderr) == (0, "")
    assert isinstance(json.loads(as_json.stdout), dict)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["stats", "webb"], 1, "no pool or worker is called 'webb', did you mean 'web'?"),
        (["reload", "wbe"], 1, "no pool is called 'wbe', did you mean 'web'?"),
        (["kill", "web.11"], 1, "no pool or worker is called 'web.11', did you mean 'web.1'?"),
        (["stop", "nothing-like-it"], 1, "no pool is called 'nothing-like-it'; there are web, slow, off"),
        (["wait", "reload-4711"], 1, "no operation 'reload-4711'"),
        (["scale", "web", "-3"], 1, "web has 2 workers, it can't have -1"),
        (["frobnicate"], 2, "No such command"),
        (["stop"], 2, "Missing argument"),
        (["scale", "web", "many"], 2, "is no number of workers"),
        (["kill", "web"], 2, "kill takes a worker such as web.1"),
        (["signal", "TREM", "web"], 2, "did you mean 'TERM'?"),
        (["stats", "--timeout", "0"], 2, "Invalid value for '--timeout'"),
        (["top"], 2, "needs a terminal"),
        (["--endpoint", "ipc:///nonexistent/control.sock", "stats"], 3, "there is no such socket"),
        (["--endpoint", "nonsense", "stats"], 3, "expected an endpoint"),
        (["--timeout", "0.5", "stop", "slow"], 4, "goes on: `procmanctl wait stop-"),
        (["scale", "web", "100000"], 5, "web can have"),
        (["-c", "no-such.toml", "stats"], 78, "No such file"),
        (["--endpoint", "tcp://127.0.0.1:1", "--keys", "no.keys", "stats"], 3, "Connection refused"),
    ],
)
def test_each_situation_has_its_exit_code_and_its_words(daemon, arguments, code, message):
    done = daemon.procmanctl(*arguments)
    assert (done.returncode, message in done.stderr) == (code, True), done
    assert "Traceback" not in done.stderr
    if code not in (0, 2):
        as_json = daemon.procmanctl("--json", *arguments)
        if as_json.returncode == code:
            document = json.loads(as_json.stdout)
            assert (document["status"], document["exit_code"]) == ("error", code)


def test_a_reload_that_fails_exits_with_1_and_prints_why(short_path):
    text = '[pools.http]\nkind = "http"\napp = "app:application"\nbind = "127.0.0.1:0"\n'
    application = "def application(e, s):\n    s('200 OK', [])\n    return [b'']\n"
    with Procmand(short_path, text, modules={"app.py": application}) as daemon:
        (short_path / "app.py").write_text("import nothing_of_this_name\n")
        done = daemon.procmanctl("reload", "http")
        assert (done.returncode, done.stdout) == (1, "http: failed, generation 1 goes on serving\n")
        assert "ModuleNotFoundError: No module named 'nothing_of_this_name'" in done.stderr
        daemon.file.write_text(text + "nonsense = 1\n")
        done = daemon.procmanctl("reload")
        assert done.returncode == 1
        assert "procman.toml:5:1: error[P010]: pools.http.nonsense: unknown key" in done.stderr


def test_check_tells_what_a_reload_would_refuse(short_path):
    text = '[pools.x]\nkind = "exec"\ncommand = ["sleep", "1000"]\nstart_seconds = 0.1\n'
    with Procmand(short_path, text) as daemon:
        assert daemon.procmanctl("check").stdout == "ok\n"
        daemon.file.write_text(text + "nonsense = 1\n")
        done = daemon.procmanctl("check")
        assert (done.returncode, done.stdout) == (
            78,
            f"{daemon.file}:5:1: error[P010]: pools.x.nonsense: unknown key\n",
        )
        assert json.loads(daemon.procmanctl("check", "--json").stdout)["ready"]
        daemon.ctl("stop", name="x", waiting=True)
        daemon.file.unlink()
        assert "No such file" in daemon.ctl("check", configuration=True)["configuration"][0]
        daemon.file.write_text(text)
        assert daemon.procmanctl("check").returncode == 0


# -- time -------------------------------------------------------------------------------------------------


def test_a_command_that_its_client_has_given_up_never_happens(daemon):
    with Client(daemon.endpoint) as client:
        client.call("check")
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            assert daemon.procmanctl("--timeout", "0.5", "stop", "web").returncode == 4
            client.timeout = 0.5
            with pytest.raises(TimedOut):
                client.call("stop", name="web", waiting=True)
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        daemon.wait(lambda: "Command stop came after its deadline" in daemon.log, "the command to be dropped")
    assert daemon.pool("web")["ready"] == 2
    stops = [one for one in daemon.ctl("operations")["operations"] if one["command"] == "stop"]
    assert not [one for one in stops if one["state"] == "running"]


def test_a_pool_that_takes_eight_seconds_to_stop_holds_up_nobody_else(daemon):
    began = time.monotonic()
    operation = daemon.procmanctl("--no-wait", "stop", "slow").stdout.strip()
    assert f"slow: {operation} is under way, 1 worker still there" in daemon.procmanctl("status").stdout
    assert daemon.procmanctl("restart", "web").returncode == 0
    assert daemon.procmanctl("scale", "web", "4").stdout == "web: 4 workers\n"
    assert daemon.procmanctl("start", "off").returncode == 0
    pid = daemon.worker("web.1")["pid"]
    os.kill(pid, signal.SIGKILL)
    daemon.wait_replaced("web.1", pid)
    assert daemon.procmanctl("stop", "off").returncode == 0
    running = [one["operation"] for one in daemon.ctl("operations")["operations"] if one["state"] == "running"]
    elapsed = time.monotonic() - began
    assert running == [operation] or elapsed > 8, "all of that happened while the slow one was stopping"
    done = daemon.procmanctl("wait", operation)
    assert (done.returncode, done.stdout) == (0, "slow: done\n")
    assert time.monotonic() - began >= 8
    exits = daemon.pool("slow")["exits"]
    assert exits[-1]["reason"] == "grace_expired"


def test_two_clients_who_want_opposite_things_both_get_an_answer(daemon):
    answers = []

    def ask(command):
        answers.append(daemon.procmanctl("--json", command, "web"))

    for _ in range(3):
        threads = [threading.Thread(target=ask, args=(command,)) for command in ("stop", "start", "restart", "reload")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(answers) == 12
    for done in answers:
        assert done.returncode in (0, 1), done
        document = json.loads(done.stdout)
        assert document["pools"]["web"]["outcome"] in ("done", "failed", "superseded")
    assert daemon.procmanctl("start", "web").returncode == 0
    assert daemon.pool("web")["ready"] == 2
    assert not [one for one in daemon.ctl("operations")["operations"] if one["state"] == "running"]


def test_a_stop_that_is_taken_back_is_answered(daemon):
    operation = daemon.ctl("stop", name="slow")["operation"]
    assert daemon.procmanctl("start", "slow").returncode == 0
    done = daemon.procmanctl("wait", operation)
    assert (done.returncode, done.stdout) == (1, "slow: superseded\n")
    assert "started again before it had stopped" in done.stderr


def test_a_reload_of_what_does_not_run_says_so(daemon):
    assert daemon.procmanctl("reload", "off").stdout == (
        "off: nothing runs that could be replaced; it will start with the new code\n"
    )


# -- completion -------------------------------------------------------------------------------------------


def complete(daemon, *words):
    """What bash would offer for the last of the words."""
    environ = {
        "PATH": "/usr/bin:/bin",
        "_PROCMANCTL_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["procmanctl", "-c", str(daemon.file), *words]),
        "COMP_CWORD": str(2 + len(words)),
    }
    done = subprocess.run([program("procmanctl")], capture_output=True, text=True, env=environ, timeout=30, check=False)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def offered(daemon, *words, expected):
    """The daemon has 200 ms for it, which a loaded machine may not give it: try again."""
    return wait_until(lambda: (found := complete(daemon, *words)) == expected and found, f"{expected} to be offered")


def test_names_are_completed_from_the_daemon(daemon):
    offered(daemon, "reload", "w", expected=["web"])
    offered(daemon, "stop", "web", "s", expected=["slow"])
    offered(daemon, "kill", "web.", expected=["web.1", "web.2"])
    offered(daemon, "dumpstacks", "sl", expected=["slow", "slow.1"])
    assert "reload" in complete(daemon, "re")
    operation = daemon.ctl("scale", name="web", count=2)["operation"]
    offered(daemon, "wait", operation, expected=[operation])


def test_without_a_daemon_nothing_is_offered_and_nothing_is_said(short_path):
    class Nobody:
        file = short_path / "procman.toml"

    Nobody.file.write_text("")
    assert complete(Nobody, "reload", "w") == []
    Nobody.file.write_text("nonsense")
    assert complete(Nobody, "reload", "w") == []


def test_a_daemon_that_hangs_does_not_hold_up_who_types(daemon):
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert complete(daemon, "reload", "w") == []
        assert time.monotonic() - began < 10  # 200 ms, and the start of a program on a loaded machine
    finally:
        daemon.process.send_signal(signal.SIGCONT)


# -- terminals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_are_for_terminals_and_for_those_who_want_them(daemon, environ, coloured):
    master, slave = os.openpty()
    try:
        done = subprocess.run(
            [program("procmanctl"), "-c", str(daemon.file), "status"], stdin=slave, stdout=slave, stderr=slave,
            env={"PATH": "/usr/bin:/bin", "TERM": "xterm", **environ}, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0
        assert ("\x1b[" in os.read(master, 65536).decode()) is coloured
    finally:
        os.close(master)
        os.close(slave)
