"""Nothing is killed without a word about what it did: templates, workers that start, workers killed by hand."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.daemon import Procmand
from tests.support.wild import APPLICATION, CONFIGURATION, templates

STUCK = {
    "python": ("def wait_for_godot():\n    import time\n    time.sleep(1000)\nwait_for_godot()\n", "time.sleep(1000)"),
    "c": ("def wait_for_godot():\n    sum(iter(int, 1))\nwait_for_godot()\n", "in wait_for_godot"),
    "stopped": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n", "state T (stopped)"),
}


@pytest.mark.parametrize("how", STUCK)
def test_a_reload_that_is_stuck_in_the_import_shows_where(short_path, how):
    code, evidence = STUCK[how]
    with Procmand(short_path, CONFIGURATION + "start_timeout = 8\n", modules={"app.py": APPLICATION}) as daemon:
        (daemon.directory / "app.py").write_text(code)
        run = daemon.procmanctl("reload", "http")
        assert run.returncode == 1
        assert "the application was not imported within 8 s" in run.stderr
        assert evidence in run.stderr
        log = daemon.log
        begun = log.index("Stacks before the kill:\n  Template http@2 (")
        assert evidence in log[begun : log.index("Template http@2 is gone")]
        (event,) = [e for e in daemon.ctl("events")["events"] if e["topic"] == "pool.http.stacks"]
        assert event["stacks"]["worker"] == "http@2"
        assert daemon.request("GET", "/")[0] == 200


CLOSES_THE_CHANNEL = """
import os, socket, stat, time
for fd in range(3, 100):
    try:
        if stat.S_ISSOCK(os.fstat(fd).st_mode) and socket.socket(fileno=os.dup(fd)).type == socket.SOCK_SEQPACKET:
            os.close(fd)
    except OSError:
        pass
time.sleep(1000)
"""


def test_a_template_that_nobody_can_speak_with_shows_what_it_does(short_path):
    with Procmand(short_path, CONFIGURATION, modules={"app.py": APPLICATION}) as daemon:
        (daemon.directory / "app.py").write_text(CLOSES_THE_CHANNEL)
        run = daemon.procmanctl("reload", "http")
        assert run.returncode == 1
        assert "channel was closed, by the application as it seems" in run.stderr
        assert "app.py" in run.stderr
        assert daemon.request("GET", "/")[0] == 200


def test_a_template_that_does_not_fork_shows_what_it_does_instead(short_path):
    with Procmand(short_path, CONFIGURATION, modules={"app.py": APPLICATION}) as daemon:
        (template,) = templates(daemon)
        os.kill(template, signal.SIGSTOP)
        # The process in between was there before; the next worker would need another one.
        for _ in range(2):
            victim = daemon.worker("http.1")["pid"]
            os.kill(victim, signal.SIGKILL)
            daemon.wait_replaced("http.1", victim)
        log = daemon.log
        assert f"Stacks before the kill:\n  Template http@1 ({template})" in log
        assert "state T (stopped)" in log


LONGPOLL = """
[database]
url = "embedded"

[pools.longpoll]
kind = "gevent-longpolling"
app = "app:application"
bind = "127.0.0.1:0"
start_timeout = 10  # enough for a loaded machine to come to where it is stuck
stop_timeout = 1
max_restarts = 1
"""


def test_an_executed_worker_that_does_not_get_ready_shows_where_it_is(short_path):
    modules = {"app.py": STUCK["python"][0]}
    with Procmand(short_path, LONGPOLL, modules=modules, ready=False) as daemon:
        daemon.wait(lambda: "is killed: boot_timeout" in daemon.log, "the end of its patience")
        log = daemon.log
        stacks = log.index("Stacks before the kill")
        assert "time.sleep(1000)" in log[stacks : log.index("is killed: boot_timeout")]


def test_an_interpreter_that_does_not_come_up_does_not_die_of_the_question(short_path):
    """SIGQUIT ends a process that has no handler for it yet, and leaves a core file."""
    configuration = LONGPOLL + f'env = {{ PYTHONPATH = "{short_path}/early" }}\n'
    (short_path / "early").mkdir()
    (short_path / "early" / "sitecustomize.py").write_text("import time\ntime.sleep(1000)\n")
    with Procmand(short_path, configuration, ready=False) as daemon:
        daemon.wait(
            lambda: "longpoll.1" in daemon.log and "exited: boot_timeout" in daemon.log, "the end of its patience"
        )
        log = daemon.log
        assert "(no answer; the kernel says: state S (sleeping)" in log
        assert "exited: boot_timeout, signal 9" in log


def test_who_is_killed_by_hand_says_what_it_was_doing(short_path):
    with Procmand(short_path, CONFIGURATION, modules={"app.py": APPLICATION}) as daemon:
        victim = daemon.worker("http.2")["pid"]
        assert daemon.procmanctl("kill", "http.2").returncode == 0
        daemon.wait_replaced("http.2", victim)
        log = daemon.log
        assert log.index("Stacks before the kill") < log.index("is killed: killed_by_user")
        assert "procman/workers/http.py" in log


def test_a_command_that_is_killed_is_said_to_have_been_in_what_the_kernel_says(short_path):
    command = '["sh", "-c", "trap : TERM; while :; do sleep 1000; done"]'
    configuration = f'[pools.deaf]\nkind = "exec"\ncommand = {command}\nstart_seconds = 0.2\nstop_timeout = 0.5\n'
    with Procmand(short_path, configuration) as daemon:
        pid = daemon.worker("deaf.1")["pid"]
        assert daemon.procmanctl("stop", "deaf").returncode == 0
        log = daemon.log
        said = log.index(f"Worker deaf.1 ({pid}) before the kill: state S (sleeping), waiting in ")
        assert log.index("is killed: grace_expired") < log.index(f"Worker deaf.1 ({pid}) exited")
        assert said < log.index(f"Worker deaf.1 ({pid}) exited")
