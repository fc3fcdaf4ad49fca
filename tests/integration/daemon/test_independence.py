"""A command on one pool never delays the supervision of another one."""

from __future__ import annotations

import os
import signal
import sys

from tests.support.daemon import Procmand

SLOW = """
import signal, time

def leave(signum, frame):
    time.sleep(8)
    raise SystemExit

signal.signal(signal.SIGTERM, leave)
open("armed", "w").close()
while True:
    signal.pause()
"""

CONFIGURATION = f"""
[pools.slow]
kind = "exec"
command = ["{sys.executable}", "slow.py"]
start_seconds = 0

[pools.http]
kind = "http"
app = "app:application"
bind = "127.0.0.1:0"
workers = 2
"""

APPLICATION = """
def application(environ, start_response):
    start_response("200 OK", [])
    return [b"served"]
"""


def test_while_a_pool_takes_eight_seconds_to_stop_another_one_is_supervised_reloaded_and_scaled(short_path):
    with Procmand(short_path, CONFIGURATION, modules={"slow.py": SLOW, "app.py": APPLICATION}) as daemon:
        daemon.wait((short_path / "armed").exists, "the command to listen")
        operation = daemon.ctl("stop", name="slow", waiting=False)["operation"]
        assert daemon.pool("slow")["state"] == "stopping"

        for name in ("http.1", "http.2"):
            pid = daemon.worker(name)["pid"]
            os.kill(pid, signal.SIGKILL)
            daemon.wait_replaced(name, pid)
        assert daemon.request("GET", "/") == (200, b"served")
        assert daemon.procmanctl("reload", "http").returncode == 0
        assert daemon.procmanctl("scale", "http", "3").returncode == 0
        # All this while the first command is still under way.
        assert daemon.pool("slow")["state"] == "stopping"

        daemon.ctl("wait", operation=operation)
        assert daemon.pool("slow")["state"] == "stopped"
        assert daemon.pool("http")["ready"] == 3
