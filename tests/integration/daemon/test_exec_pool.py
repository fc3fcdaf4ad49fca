"""Commands of exec pools: how they become ready, what they inherit, where their output goes, and their hooks."""

from __future__ import annotations

import json
import os
import socket
import sys

import pytest

from procman.errors import NotReachable
from tests.support.daemon import Procmand

SERVER = """
import http.server, os, socket, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ready = os.path.exists(sys.argv[2])
        self.send_response(204 if ready else 503)
        self.end_headers()
    def log_message(self, *args):
        pass

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

ACTIVATED = """
import json, os, socket
for number, name in enumerate(os.environ["LISTEN_FDNAMES"].split(":"), 3):
    sock = socket.socket(fileno=number)
    if name == "web":
        web = sock
    else:
        admin = sock
about = {
    "pid": os.getpid(),
    "listen_pid": int(os.environ["LISTEN_PID"]),
    "listen_fds": int(os.environ["LISTEN_FDS"]),
    "names": os.environ["LISTEN_FDNAMES"],
    "blocking": os.get_blocking(web.fileno()),
    "argument": __import__("sys").argv[1:],
    "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
}
while True:
    peer, _ = web.accept()
    with peer:
        peer.sendall(json.dumps(about).encode())
"""

NOTE = """
import json, os, sys
with open("notes", "a") as file:
    told = {name: value for name, value in os.environ.items() if name.startswith("PROCMAN_")}
    file.write(json.dumps({"cwd": os.getcwd(), "slot": sys.argv[1:], **told}) + "\\n")
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def exec_pool(name, command, **more):
    """A table with a pool."""
    keys = {"kind": "exec", "command": command, **more}
    return f"[pools.{name}]\n" + "\n".join(f"{key} = {toml(value)}" for key, value in keys.items()) + "\n"


def toml(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)


def python(script, *arguments):
    return [sys.executable, script, *arguments]


# -- readiness --------------------------------------------------------------------------------------------


def test_an_http_probe_is_ready_when_it_answers_well_and_not_before(short_path):
    port = free_port()
    ready = {"http": f"http://127.0.0.1:{port}/ready", "interval": 0.05}
    text = exec_pool("web", python("server.py", str(port), "go"), ready=ready)
    with Procmand(short_path, text, modules={"server.py": SERVER}, ready=False) as daemon:
        daemon.wait(lambda: reaches(port), "the server to answer")
        assert daemon.pool("web")["ready"] == 0
        (short_path / "go").touch()
        daemon.wait_said("READY=1")
        assert daemon.pool("web")["ready"] == 1


def parked(daemon, pool):
    """Wait until the pool is given up, from before the daemon can be asked on."""

    def is_parked():
        try:
            return daemon.pool(pool)["state"] == "parked"
        except NotReachable:
            return False

    daemon.wait(is_parked, "the pool to be parked")


def reaches(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("kind", ["tcp", "unix", "command"])
def test_other_probes_find_a_command_ready(short_path, kind):
    listen = "s.bind('x1.sock')" if kind == "unix" else "s.bind(('127.0.0.1', int(sys.argv[1])))"
    family = "AF_UNIX" if kind == "unix" else "AF_INET"
    script = f"import socket, sys, time\ns = socket.socket(socket.{family})\n{listen}\ns.listen()\ntime.sleep(1000)\n"
    port = free_port()
    ready = {
        "tcp": {"tcp": f"localhost:{port}"},
        "unix": {"tcp": "unix:x${slot}.sock"},
        "command": {"command": ["sh", "-c", "echo asked $PROCMAN_WORKER ${slot}; ls x${slot}.sock || test -e go"]},
    }[kind]
    text = exec_pool("one", python("listen.py", str(port)), ready={**ready, "interval": 0.05})
    (short_path / "go").touch()
    with Procmand(short_path, text, modules={"listen.py": script}) as daemon:
        assert daemon.pool("one")["ready"] == 1
        (short_path / "x1.sock").unlink(missing_ok=True)
        assert kind != "command" or "one one.1.probe procman.output: asked one.1 1" in daemon.log


def test_one_that_is_not_ready_in_time_is_told_with_what_the_probe_said(short_path):
    port = free_port()
    text = exec_pool(
        "web",
        ["sleep", "1000"],
        ready={"http": f"http://127.0.0.1:{port}/", "interval": 0.05},
        start_timeout=2,
        max_restarts=1,
        backoff={"first": 0.01, "most": 0.01},
    )
    with Procmand(short_path, text, ready=False) as daemon:
        parked(daemon, "web")
        assert daemon.pool("web")["parked"].endswith("last: not ready: Connection refused")
        assert daemon.pool("web")["exits"][0]["reason"] == "boot_timeout"


# -- sockets ----------------------------------------------------------------------------------------------


def test_named_sockets_are_passed_and_outlive_workers_and_reloads(short_path):
    text = exec_pool(
        "web",
        python("activated.py", "--fd=${fd:web}", "${fd:admin}"),
        sockets={"admin": "unix:admin.sock", "web": "127.0.0.1:0"},
        start_seconds=0,
    )
    with Procmand(short_path, text, modules={"activated.py": ACTIVATED}) as daemon:
        address = daemon.pool("web")["listens"][1]
        first = hear(address)
        worker = daemon.worker("web.1")
        assert first["pid"] == first["listen_pid"] == worker["pid"]
        assert (first["listen_fds"], first["names"]) == (2, "admin:web")
        assert first["argument"] == ["--fd=4", "3"]
        assert first["blocking"]
        assert first["fds"] == [0, 1, 2, 3, 4, 5], "a descriptor too many (the last one reads the directory)"
        daemon.procmanctl("reload", "web")
        assert daemon.pool("web")["listens"][1] == address
        assert hear(address)["pid"] != first["pid"]
        pid = daemon.worker("web.1")["pid"]
        os.kill(pid, 9)
        # What is killed while it waits in accept(2) may yet take a connection with it.
        daemon.wait(lambda: not os.path.exists(f"/proc/{pid}"), "its end")
        assert hear(address)["pid"], "whoever connects while the worker is replaced is answered by the next"


def hear(address):
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 30) as sock:
        return json.loads(b"".join(iter(lambda: sock.recv(65536), b"")))


# -- output and policy ------------------------------------------------------------------------------------


def test_output_goes_to_files_which_a_reload_opens_anew(short_path):
    text = exec_pool(
        "one",
        ["sh", "-c", "echo out; echo err >&2; exec sleep 1000"],
        stdout="out-${slot}.log",
        stderr="null",
        start_seconds=0,
        workers=2,
    )
    with Procmand(short_path, text) as daemon:
        files = [short_path / "out-1.log", short_path / "out-2.log"]
        daemon.wait(lambda: [file.read_text() for file in files] == ["out\n", "out\n"], "the output")
        for file in files:
            file.rename(f"{file}.1")
        daemon.procmanctl("reload", "one")
        daemon.wait(lambda: [file.exists() and file.read_text() for file in files] == ["out\n"] * 2, "new files")
        assert (short_path / "out-1.log.1").read_text() == "out\n"
        assert "err" not in [line.strip() for line in daemon.log.splitlines()]


def test_output_goes_into_the_log_line_by_line(short_path):
    script = "printf 'one\\ntwo\\n' >&2; printf three; until test -e go; do sleep 0.01; done; printf ' four'"
    text = exec_pool("one", ["sh", "-c", script], stdout="log", stderr="log", start_seconds=0)
    with Procmand(short_path, text) as daemon:
        daemon.wait(lambda: "INFO one one.1 procman.output: two" in daemon.log, "the lines")
        (short_path / "go").touch()
        daemon.wait(lambda: "procman.output: three four\n" in daemon.log, "the last line")
        assert "INFO one one.1 procman.output: one\n" in daemon.log


def test_an_http_pool_has_a_log_of_its_own(short_path):
    application = """
import logging, sys
def application(environ, start_response):
    print("printed", flush=True)
    logging.getLogger("shop").warning("logged")
    start_response("200 OK", [])
    return [b""]
"""
    text = (
        '[pools.http]\nkind = "http"\napp = "app:application"\nbind = "127.0.0.1:0"\n'
        'stdout = "http.out"\nstderr = "http.log"\n'
    )
    with Procmand(short_path, text, modules={"app.py": application}) as daemon:
        assert daemon.request("GET", "/")[0] == 200
        assert (short_path / "http.out").read_text() == "printed\n"
        assert "http.1 shop: logged" in (short_path / "http.log").read_text()
        assert "shop: logged" not in daemon.log


def test_a_command_has_its_policy(short_path):
    script = "cat /proc/self/oom_score_adj; umask; nice; echo $A $B; exec sleep 1000"
    (short_path / "more.env").write_text("A=from the file\nB=also\n")
    text = exec_pool(
        "one",
        ["sh", "-c", script],
        stdout="out.log",
        oom_score_adj=321,
        umask="027",
        nice=3,
        env={"B": "over it"},
        env_file="more.env",
        start_seconds=0,
    )
    with Procmand(short_path, text) as daemon:
        file = short_path / "out.log"
        daemon.wait(lambda: file.exists() and file.read_text().count("\n") == 4, "the output")
        assert file.read_text().splitlines() == ["321", "0027", "3", "from the file over it"]


# -- hooks ------------------------------------------------------------------------------------------------


def hooks(**commands):
    return "[pools.one.hooks]\n" + "".join(f"{name} = {toml(command)}\n" for name, command in commands.items())


def notes(directory):
    file = directory / "notes"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


EVERY = ("before_start", "after_start", "before_stop", "after_stop", "before_reload", "after_reload")


@pytest.mark.parametrize("kind", ["exec", "http"])
def test_hooks_run_at_their_moments_and_know_of_what(short_path, kind):
    text = exec_pool("one", ["sleep", "1000"], start_seconds=0)
    if kind == "http":
        text = '[pools.one]\nkind = "http"\napp = "app:application"\nbind = "127.0.0.1:0"\n'
    text += hooks(**{name: python("note.py", "${slot}") for name in EVERY})
    modules = {"note.py": NOTE, "app.py": "def application(environ, start_response): pass"}
    with Procmand(short_path, text, modules=modules) as daemon:
        daemon.wait(lambda: len(notes(short_path)) == 2, "two hooks")
        pid = daemon.worker("one.1")["pid"]
        daemon.procmanctl("reload", "one")
        daemon.wait(lambda: len(notes(short_path)) == 8, "all hooks")
        by_name = {(note["PROCMAN_HOOK"], note["PROCMAN_GENERATION"]): note for note in notes(short_path)}
        before, after = by_name["before_start", "1"], by_name["after_stop", "1"]
        assert before["cwd"] == str(short_path)
        assert before["slot"] == ["1"]
        assert (before["PROCMAN_POOL"], before["PROCMAN_WORKER"], before["PROCMAN_SLOT"]) == ("one", "one.1", "1")
        assert "PROCMAN_PID" not in before
        assert (after["PROCMAN_PID"], after["PROCMAN_REASON"]) == (str(pid), "reload")
        assert "PROCMAN_WORKER" not in by_name["before_reload", "1"]
        assert ("after_reload", "2") in by_name
        daemon.procmanctl("stop", "one")
        assert [note["PROCMAN_HOOK"] for note in notes(short_path)][-2:] == ["before_stop", "after_stop"]


def test_a_before_start_that_fails_is_told_with_its_last_words(short_path):
    text = exec_pool("one", ["sleep", "1000"], max_restarts=1, backoff={"first": 0.01, "most": 0.01})
    text += hooks(before_start=["sh", "-c", "echo no licence; exit 7"])
    with Procmand(short_path, text, ready=False) as daemon:
        parked(daemon, "one")
        pool = daemon.pool("one")
        assert pool["parked"].endswith("last: before_start: status 7, no licence")
        assert {record["reason"] for record in pool["exits"]} == {"boot_failed"}
        assert "INFO one one.1.before_start procman.output: no licence" in daemon.log


def test_a_before_reload_that_fails_rejects_the_reload(short_path):
    text = exec_pool("one", ["sleep", "1000"], start_seconds=0) + hooks(
        before_reload=["sh", "-c", "echo migrate first; exit 1"]
    )
    with Procmand(short_path, text) as daemon:
        pid = daemon.worker("one.1")["pid"]
        result = daemon.procmanctl("reload", "one")
        assert result.returncode == 1
        assert "before_reload: status 1, migrate first" in result.stdout + result.stderr
        assert daemon.worker("one.1")["pid"] == pid


def test_a_hook_that_can_not_be_executed_says_so(short_path):
    text = exec_pool("one", ["sleep", "1000"], start_seconds=0) + hooks(after_start=["./nothing-there"])
    with Procmand(short_path, text) as daemon:
        daemon.wait(lambda: "Hook after_start of one.1 has failed" in daemon.log, "the complaint")
        assert "./nothing-there: FileNotFoundError" in daemon.log
