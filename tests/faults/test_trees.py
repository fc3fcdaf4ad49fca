"""Whatever a worker has started ends with it: children, sessions of their own, daemons, and those who fight back."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from tests.support.daemon import Procmand, processes_in, wait_until

IDLE = """
import signal, time
for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(signum, signal.SIG_IGN)
time.sleep(1000)
"""

# A child, one with a session of its own, a daemon with and without being executed, and one of whom nothing tells.
FAMILY = """
import os, subprocess, sys, time

here = os.path.dirname(os.path.abspath(__file__))
idle = [sys.executable, f"{here}/idle.py"]

def family(*, hidden=False):
    subprocess.Popen([*idle, "child"])
    subprocess.Popen([*idle, "session"], start_new_session=True)
    if hidden:
        subprocess.Popen([*idle, "hidden"], start_new_session=True, env={})
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            subprocess.Popen([*idle, "grandchild"], start_new_session=True, env={})
            os.execv(idle[0], [*idle, "daemon"])
        os._exit(0)
    os.wait()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
    os.wait()
"""

COMMAND = (
    FAMILY
    + """
family(hidden="hidden" in sys.argv)
if "exit" in sys.argv:
    while not os.path.exists(f"{here}/go"):
        time.sleep(0.01)
    sys.exit(5)
time.sleep(1000)
"""
)

APPLICATION = (
    FAMILY
    + """
def application(environ, start_response):
    if environ["PATH_INFO"] == "/family":
        family(hidden=True)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"served"]
"""
)

MODULES = {"idle.py": IDLE, "command.py": COMMAND, "app.py": APPLICATION}


def command(directory, *arguments, script="command.py", **more):
    words = ", ".join(f'"{word}"' for word in (sys.executable, f"{directory}/{script}", *arguments))
    text = f'[pools.one]\nkind = "exec"\ncommand = [{words}]\nstart_seconds = 0\nstop_timeout = 5\n'
    return text + "".join(f"{key} = {value}\n" for key, value in more.items())


def idlers(directory):
    """What the family's members that are executed are called."""
    found = []
    for pid in processes_in(directory):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")[:-1]
        except OSError:
            continue
        if any(word.endswith(b"/idle.py") for word in words):
            found.append(words[-1].decode())
    return sorted(found)


def all_there(daemon, *names):
    daemon.wait(lambda: idlers(daemon.directory) == sorted(names), "the family")


FOUND = ("child", "session", "daemon", "grandchild")


@pytest.mark.parametrize("how", ["stop", "kill", "shutdown"])
def test_nothing_of_a_command_s_family_is_left(short_path, how):
    text = command(short_path, "hidden")
    with Procmand(short_path, text, modules=MODULES) as daemon:
        all_there(daemon, *FOUND, "hidden")
        if how == "stop":
            assert daemon.procmanctl("stop", "one").returncode == 0
            assert idlers(short_path) == []
        elif how == "kill":
            pid = daemon.worker("one.1")["pid"]
            assert daemon.procmanctl("kill", "one.1").returncode == 0
            daemon.wait_replaced("one.1", pid)
            all_there(daemon, *FOUND, "hidden")


def test_nothing_is_left_of_a_command_that_dies_by_itself(short_path):
    with Procmand(short_path, command(short_path, "exit", max_restarts=1000), modules=MODULES) as daemon:
        all_there(daemon, *FOUND)
        pid = daemon.worker("one.1")["pid"]
        (short_path / "go").touch()
        daemon.wait(lambda: "Worker one.1 " + f"({pid}) exited: crashed, status 5" in daemon.log, "its end")
        (short_path / "go").unlink()
        daemon.wait(lambda: idlers(short_path) == sorted(FOUND), "the family of one and no other")


def test_a_command_killed_from_outside_takes_its_family_with_it(short_path):
    with Procmand(short_path, command(short_path), modules=MODULES) as daemon:
        all_there(daemon, *FOUND)
        pid = daemon.worker("one.1")["pid"]
        os.kill(pid, signal.SIGKILL)
        daemon.wait_replaced("one.1", pid)
        all_there(daemon, *FOUND)


@pytest.mark.parametrize("how", ["kill", "reload", "crash"])
def test_what_an_application_has_started_ends_with_its_worker(short_path, how):
    text = '[pools.http]\nkind = "http"\napp = "app:application"\nbind = "127.0.0.1:0"\n'
    with Procmand(short_path, text, modules=MODULES) as daemon:
        assert daemon.request("GET", "/family")[0] == 200
        all_there(daemon, *FOUND, "hidden")
        pid = daemon.worker("http.1")["pid"]
        if how == "reload":
            assert daemon.procmanctl("reload", "http").returncode == 0
        elif how == "kill":
            assert daemon.procmanctl("kill", "http.1").returncode == 0
        else:
            # What was hidden from all signs is found only below a worker that is told to go.
            hidden = [pid for pid in processes_in(short_path) if argument(pid) == "hidden"]
            os.kill(hidden[0], signal.SIGKILL)
            os.kill(pid, signal.SIGSEGV)
        daemon.wait_replaced("http.1", pid)
        daemon.wait(lambda: f"({pid}) exited" in daemon.log, "the end of the old worker")
        assert idlers(short_path) == []
        assert daemon.request("GET", "/") == (200, b"served")


def argument(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().split(b"\0")[-2].decode()


def test_kill_mode_process_leaves_daemons_alone_also_when_others_end(short_path):
    text = command(short_path, kill_mode='"process"')
    text += (
        text.replace("pools.one", "pools.two").replace('"process"', '"tree"').replace('command.py"', 'idle.py", "main"')
    )
    with Procmand(short_path, text, modules=MODULES) as daemon:
        all_there(daemon, *FOUND, "main")
        daemon.procmanctl("stop", "one")
        assert idlers(short_path) == sorted(["session", "daemon", "grandchild", "main"])
        daemon.procmanctl("kill", "two.1")
        assert {"session", "daemon", "grandchild"} <= set(idlers(short_path))
        daemon.stop()
        for pid in processes_in(short_path):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not processes_in(short_path), "them to go")


# Two who start each other again, in sessions of their own, as soon as the other one dies.
FIGHTERS = """
import os, subprocess, sys, time
me = [sys.executable, os.path.abspath(__file__)]
if len(sys.argv) == 1:
    subprocess.Popen([*me, "fight"], start_new_session=True)
    time.sleep(1000)
while True:
    subprocess.Popen([sys.executable, os.path.dirname(me[1]) + "/idle.py", "fighter"], start_new_session=True).wait()
"""


def test_those_who_are_started_again_and_again_end_too(short_path):
    text = command(short_path, script="fighters.py")
    with Procmand(short_path, text, modules={**MODULES, "fighters.py": FIGHTERS}) as daemon:
        all_there(daemon, "fighter")
        assert daemon.procmanctl("stop", "one").returncode == 0
        assert processes_in(short_path) == [daemon.process.pid] or idlers(short_path) == []


def test_a_hook_leaves_nothing_either(short_path):
    words = ", ".join(f'"{word}"' for word in (sys.executable, f"{short_path}/command.py"))
    text = '[pools.one]\nkind = "exec"\ncommand = ["sleep", "1000"]\nstart_seconds = 0\n'
    text += f"[pools.one.hooks]\nafter_start = [{words}]\ntimeout = 2\n"
    with Procmand(short_path, text, modules=MODULES) as daemon:
        all_there(daemon, *FOUND)
        daemon.wait(lambda: "Hook after_start of one.1 has failed: not done within 2 s" in daemon.log, "the time-out")
        daemon.wait(lambda: idlers(short_path) == [], "the family to go")
        assert daemon.pool("one")["ready"] == 1
