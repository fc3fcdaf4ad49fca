"""An application that does to its worker whatever a request asks for, and what tests need to watch it."""

from __future__ import annotations

import contextlib
import http.client
import os
import threading
from pathlib import Path

APPLICATION = """
import os, signal, sys, threading, time

VERSION = "one"
HELD = os.environ.get("HELD_IMPORT")

while HELD and os.path.exists(HELD):
    time.sleep(0.01)


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path != "/":
        came_to = globals()["do_" + path[1:]]()
        if came_to is not None:
            start_response("200 OK", [])
            return [came_to.encode()]
    start_response("200 OK", [])
    return [f"{VERSION} {os.getpid()}".encode()]


def do_stuck():
    sum(iter(int, 1))

def do_sleep():
    time.sleep(1000)

def do_close_all():
    os.closerange(3, 1000)

def do_close_channel():
    # By mistake, as after a double close(): the one that is a SOCK_SEQPACKET.
    import socket, stat
    for fd in range(3, 100):
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue
            kind = socket.socket(fileno=os.dup(fd))
            if kind.type == socket.SOCK_SEQPACKET:
                os.close(fd)
            kind.close()
        except OSError:
            pass

def do_exit_at_once():
    os._exit(7)

def do_sys_exit():
    sys.exit(5)

def do_interrupt():
    raise KeyboardInterrupt

def do_abort():
    os.abort()

def do_fork_and_return():
    os.fork()

def do_fork_and_sys_exit():
    if os.fork() == 0:
        sys.exit(0)

def do_outliving_child():
    child = os.fork()
    if child == 0:
        time.sleep(1000)
        os._exit(0)
    return str(child)

def do_endless_threads():
    for _ in range(5):
        threading.Thread(target=time.sleep, args=(1000,)).start()

def do_own_signal_handlers():
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGXCPU, signal.SIGRTMIN + 1):
        signal.signal(signum, lambda *_: None)
    signal.signal(signal.SIGIO, signal.SIG_IGN)

def do_block_signals():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

def do_block_signals_and_stick():
    do_block_signals()
    while True:
        pass

def do_wakeup_fd():
    signal.set_wakeup_fd(-1)

def do_change_directory():
    os.chdir("/")
"""

CONFIGURATION = """
[pools.http]
kind = "http"
app = "app:application"
bind = "127.0.0.1:0"
workers = 2
keepalive = 1
kill_timeout = 1
stop_timeout = 2
"""


def ask_in_background(daemon, path):
    """Send a request that may never be answered; a list of what it comes to, and the thread that waits."""
    came_to = []
    address = daemon.address()

    def run():
        connection = http.client.HTTPConnection(address, timeout=60)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            came_to.append((response.status, response.read()))
        except (OSError, http.client.HTTPException) as error:
            came_to.append(error)
        finally:
            connection.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return came_to, thread


def try_to_ask(daemon, path):
    """A request that may cost its worker the life; what it came to."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return daemon.request("GET", path)
    return None


def busy_worker(daemon, path):
    """Wait until some worker is in a unit of this path; that worker."""

    def found():
        for worker in daemon.pool("http")["workers"]:
            if worker["unit"] and worker["unit"].endswith(path):
                return worker
        return None

    return daemon.wait(found, f"a worker to be in {path}")


def children_of(pid):
    """Its children, with zombies."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def templates(daemon):
    """The pids of the daemon's templates, the oldest first."""
    known = {worker["pid"] for worker in daemon.pool("http")["workers"]}
    found = []
    for child in children_of(daemon.process.pid):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{child}/cmdline").read_text()
            if child not in known and "procman.workers.template" in command:
                found.append(child)
    return found


def in_between(daemon, template):
    """The process that the template has forked, and which hears its next message."""

    def there():
        # Asleep: so it waits for a message, and has taken its precautions.
        return [child for child in children_of(template) if state_of(child) == "S"]

    (pid,) = daemon.wait(there, "the process in between")
    return pid


def is_alive(pid):
    """It is there and no zombie."""
    return state_of(pid) not in ("Z", None)


def state_of(pid):
    """Its state, as proc(5) abbreviates it; None: it is not there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return None


def descriptors(pid):
    """What its descriptors are: {number: target}."""
    found = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found[int(fd)] = os.readlink(f"/proc/{pid}/fd/{fd}")
    return found


def anonymous_memory(pid):
    """Bytes of private memory."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Anon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Pss_Anon")
