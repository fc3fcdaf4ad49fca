"""The daemon becomes its own next version, and nothing is lost by it: no worker, no request, no number, no death."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading

import pytest

from procman.control.client import Client
from tests.support.daemon import PATIENCE, Procmand, program, wait_until
from tests.support.releases import HELD, Releases
from tests.support.traffic import Traffic

APPLICATION = """
import os, time

while os.path.exists("slow-import"):
    time.sleep(0.01)

def application(environ, start_response):
    while environ["PATH_INFO"] == "/slow" and not os.path.exists("go"):
        time.sleep(0.01)
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"""

HTTP = """
[pools.http]
kind = "http"
app = "app:application"
bind = ["127.0.0.1:0", "unix:web.sock"]
workers = 2
"""

OTHERS = """
[pools.sleeper]
kind = "exec"
command = ["sh", "-c", "while :; do echo alive; sleep 0.1; done"]
stdout = "log"
start_seconds = 0.1

[pools.sick]
kind = "exec"
command = ["false"]
max_restarts = 1
backoff = { first = 0.01, most = 0.01 }

[pools.off]
kind = "exec"
command = ["sleep", "1000"]
autostart = false
"""


@pytest.fixture
def releases(short_path):
    return Releases(short_path)


@pytest.fixture
def start(short_path, releases):
    """Start a daemon from the current release."""
    daemons = []

    def start(configuration=HTTP, **more):
        daemon = Procmand(
            short_path, configuration, modules={"app.py": APPLICATION}, env=releases.env, ready=False, **more
        )
        daemons.append(daemon.__enter__())
        wait_until((short_path / "var" / "control.sock").exists, "the daemon to start")
        return daemon

    yield start
    for daemon in daemons:
        daemon.__exit__(None, None, None)


@pytest.fixture
def daemon(start):
    daemon = start()
    daemon.wait_said("READY=1")
    return daemon


def upgrade(daemon):
    done = daemon.procmanctl("upgrade")
    assert done.returncode == 0, (done, daemon.log)
    return done


def pids(daemon):
    return {w["name"]: w["pid"] for pool in daemon.ctl("stats")["pools"].values() for w in pool["workers"]}


POOL = ("kind", "state", "generation", "target", "ready", "listens", "parked", "exits")
WORKER = ("name", "pid", "generation", "state", "requests")


def everything(daemon):
    """What must be the same after an upgrade."""
    return {
        name: [
            {key: pool[key] for key in POOL},
            [{key: worker[key] for key in WORKER} for worker in pool["workers"]],
        ]
        for name, pool in daemon.ctl("status")["pools"].items()
    }


# -- what is kept -----------------------------------------------------------------------------------------


def test_workers_sockets_and_numbers_are_kept(start, releases):
    daemon = start(HTTP + OTHERS)
    daemon.wait(lambda: daemon.pool("sick")["state"] == "parked", "the sick pool to be parked")
    daemon.wait(lambda: daemon.pool("http")["ready"] == 2, "workers")
    daemon.ctl("scale", name="http", count=3, waiting=True)
    daemon.ctl("reload", name="http", waiting=True)
    daemon.ctl("kill", name="http.2", waiting=True)
    daemon.wait(lambda: daemon.pool("http")["ready"] == 3, "the killed one to be replaced")
    for _ in range(5):
        daemon.request("GET", "/")
    before, started = everything(daemon), daemon.ctl("stats")["arbiter"]
    operations, seq = daemon.ctl("operations")["operations"], daemon.ctl("events")["seq"]

    releases.make("second", version="9.9")
    releases.install("second")
    assert upgrade(daemon).stdout.strip() == "upgraded"

    arbiter = daemon.ctl("stats")["arbiter"]
    assert (arbiter["pid"], arbiter["version"]) == (started["pid"], "9.9")
    assert arbiter["uptime"] > started["uptime"]
    assert everything(daemon) == before
    assert daemon.ctl("operations")["operations"][: len(operations)] == operations
    events = daemon.ctl("events")["events"]
    assert [event["seq"] for event in events] == list(range(events[0]["seq"], events[-1]["seq"] + 1))
    new = [event["topic"] for event in events if event["seq"] > seq]
    assert new == ["arbiter.upgrading", "arbiter.upgraded"]
    # It is supervised as before: who dies is replaced, from the template of before.
    victim = daemon.worker("http.1")["pid"]
    os.kill(victim, signal.SIGKILL)
    daemon.wait_replaced("http.1", victim)
    assert daemon.ctl("start", name="off", waiting=True)["pools"]["off"]["outcome"] == "done"
    # What the command writes is still read.
    lines = daemon.log.count(": alive")
    daemon.wait(lambda: daemon.log.count(": alive") > lines, "the command to write on")
    assert daemon.ctl("reload", name="http", waiting=True)["pools"]["http"]["generation"] == 3


def test_no_request_is_lost_over_upgrades(daemon, releases):
    with Traffic(daemon.address()) as kept, Traffic(daemon.address(), keep_alive=False) as new:
        for number in range(3):
            releases.make(f"r{number}", version=f"9.{number}")
            releases.install(f"r{number}")
            kept.wait_for(50)
            upgrade(daemon)
            new.wait_for(50)
    assert kept.lost == new.lost == []
    assert daemon.ctl("stats")["arbiter"]["version"] == "9.2"


def test_usr2_is_an_upgrade_too(daemon, releases):
    before = pids(daemon)
    releases.make("second", version="9.9")
    releases.install("second")
    daemon.process.send_signal(signal.SIGUSR2)
    daemon.wait(lambda: daemon.ctl("stats")["arbiter"]["version"] == "9.9", "the next version")
    assert pids(daemon) == before


def test_the_service_manager_hears_of_it(daemon, releases):
    upgrade(daemon)
    daemon.wait_said("READY=1")
    assert daemon.stop(signal.SIGTERM) == 0


def test_descriptors_do_not_pile_up(daemon):
    def descriptors():
        return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))

    upgrade(daemon)
    before = descriptors()
    for _ in range(3):
        upgrade(daemon)
    wait_until(lambda: descriptors() <= before, "descriptors to be closed")


# -- while it happens -------------------------------------------------------------------------------------


@pytest.fixture
def held(daemon, releases, short_path):
    """An upgrade that waits, after the exec, until `hold` is gone."""
    releases.make(
        "held",
        ("daemon/main.py", "    data = image.read_memory(remains)\n", HELD + "    data = image.read_memory(remains)\n"),
    )
    releases.install("held")
    (short_path / "hold").touch()
    client = threading.Thread(target=lambda: daemon.procmanctl("upgrade"))
    client.start()
    wait_until((short_path / "taking-over").exists, "the next image")
    yield daemon
    (short_path / "hold").unlink(missing_ok=True)
    client.join()


def go_on(daemon):
    (daemon.directory / "hold").unlink()


def test_a_worker_killed_meanwhile_is_replaced_and_has_its_record(held, short_path):
    pid = int(held.request_at(str_address(held))[1])
    os.kill(pid, signal.SIGKILL)
    go_on(held)
    held.wait(lambda: pid not in pids(held).values() and held.pool("http")["ready"] == 2, "the replacement")
    (record,) = held.pool("http")["exits"]
    assert (record["pid"], record["reason"], record["status"]) == (pid, "killed_by_user", -9)


def str_address(daemon):
    """Where it listens, from the log: nobody answers at the control socket."""
    return re.search(r"listens on (127\S+)", daemon.log)[1]


def test_requests_are_answered_as_if_nothing_happened(held):
    assert all(held.request_at(str_address(held))[0] == 200 for _ in range(20))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_meanwhile_is_obeyed(held, signum):
    held.process.send_signal(signum)
    go_on(held)
    assert held.process.wait(PATIENCE) == 0


def test_a_command_that_comes_meanwhile_waits_for_its_answer(held):
    answers = []
    asking = threading.Thread(target=lambda: answers.append(held.ctl("stats")))
    asking.start()
    go_on(held)
    asking.join(PATIENCE)
    assert answers[0]["arbiter"]["state"] == "running"


def test_whoever_waits_for_a_reload_gets_its_answer(daemon, releases, short_path):
    (short_path / "slow-import").touch()
    reload = subprocess.Popen(
        [program("procmanctl"), "-c", str(daemon.file), "--json", "reload", "http"], stdout=subprocess.PIPE, text=True
    )
    daemon.wait(lambda: daemon.ctl("operations")["operations"], "the reload to begin")
    upgrade(daemon)
    assert reload.poll() is None
    (short_path / "slow-import").unlink()
    said = json.loads(reload.communicate(timeout=PATIENCE)[0])
    assert said["pools"]["http"]["generation"] == 2
    assert [o["operation"] for o in daemon.ctl("operations")["operations"]] == ["reload-1", "upgrade-2"]


def test_a_client_of_circus_is_told_that_its_operation_goes_on(daemon, short_path):
    from circus.client import CallError, CircusClient

    (short_path / "slow-import").touch()
    client = CircusClient(endpoint=daemon.endpoint, timeout=PATIENCE)
    said = []

    def reload():
        try:
            said.append(client.call({"command": "reload", "properties": {"name": "http", "waiting": True}}))
        except CallError as error:
            said.append({"reason": str(error)})

    waiting = threading.Thread(target=reload)
    waiting.start()
    daemon.wait(lambda: daemon.ctl("operations")["operations"], "the reload to begin")
    upgrade(daemon)
    waiting.join(PATIENCE)
    client.stop()
    assert "reload-1 goes on" in said[0]["reason"]
    (short_path / "slow-import").unlink()
    assert daemon.ctl("wait", operation="reload-1")["pools"]["http"]["generation"] == 2


def test_a_request_in_flight_and_its_connection_are_kept(daemon, short_path):
    answers = []
    slow = threading.Thread(target=lambda: answers.append(daemon.request("GET", "/slow")))
    slow.start()
    busy = daemon.wait(lambda: [w for w in daemon.pool("http")["workers"] if w["busy"]], "the request to be served")
    upgrade(daemon)
    assert [w["pid"] for w in daemon.pool("http")["workers"] if w["busy"]] == [busy[0]["pid"]]
    (short_path / "go").touch()
    slow.join()
    assert answers == [(200, str(busy[0]["pid"]).encode())]


def test_followers_of_events_miss_none(daemon):
    follow = subprocess.Popen(
        [program("procmanctl"), "-c", str(daemon.file), "--json", "events", "--follow", "-n", "1"],
        stdout=subprocess.PIPE,
        text=True,
    )
    seen = [json.loads(follow.stdout.readline())]
    upgrade(daemon)
    upgrade(daemon)
    last = daemon.ctl("events")["seq"]
    while seen[-1]["seq"] < last:
        seen.append(json.loads(follow.stdout.readline()))
    follow.terminate()
    follow.communicate()
    numbers = [event["seq"] for event in seen]
    assert numbers == list(range(numbers[0], last + 1))
    assert [e["topic"] for e in seen].count("arbiter.upgraded") == 2


def test_a_hook_and_its_worker_survive(start, short_path):
    daemon = start(
        """
[pools.x]
kind = "exec"
command = ["sleep", "1000"]
start_seconds = 0.1
ready = "notify"
hooks = { before_start = ["sh", "-c", "echo begun; while [ ! -e go ]; do sleep 0.02; done; echo through"] }
"""
    )
    daemon.wait(lambda: ": begun" in daemon.log, "the hook to run")
    upgrade(daemon)
    assert daemon.pool("x")["workers"][0]["state"] == "preparing"
    (short_path / "go").touch()
    daemon.wait(lambda: ": through" in daemon.log, "the hook to end")
    daemon.wait(lambda: daemon.pool("x")["workers"][0]["state"] == "starting", "the command to start")


def test_a_probe_is_asked_again(start, short_path):
    daemon = start(
        """
[pools.x]
kind = "exec"
command = ["sleep", "1000"]
ready = { command = ["sh", "-c", "touch asked; while [ ! -e go ]; do sleep 0.02; done"], timeout = 50, interval = 0.1 }
"""
    )
    wait_until((short_path / "asked").exists, "the probe to run")
    upgrade(daemon)
    (short_path / "go").touch()
    daemon.wait_said("READY=1")


SAY = """
import os, socket, time
while not os.path.exists("go"):
    time.sleep(0.02)
address = os.environ["NOTIFY_SOCKET"].replace("@", chr(0))
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", address)
time.sleep(1000)
"""


def test_a_command_that_says_ready_after_the_upgrade_is_heard(start, short_path):
    (short_path / "say.py").write_text(SAY)
    daemon = start('[pools.x]\nkind = "exec"\nready = "notify"\ncommand = ["python3", "say.py"]\n')
    daemon.wait(lambda: daemon.pool("x")["workers"], "the command to start")
    upgrade(daemon)
    (short_path / "go").touch()
    daemon.wait(lambda: daemon.pool("x")["ready"] == 1, "it to be ready")


# -- refused ----------------------------------------------------------------------------------------------

BROKEN = {
    "syntax": ([("daemon/main.py", "class Daemon:", "class Daemon(:")], "SyntaxError"),
    "import": ([("daemon/loop.py", "import heapq", "import heapq, there_is_none")], "No module named 'there_is_none'"),
    "restoring": (
        [("core/handover.py", "    arbiter = Arbiter(())\n", '    raise Unreadable("too old")\n')],
        "procmand 0.1.0 can't take over: too old",
    ),
    "format": ([("daemon/handover.py", "FORMAT = 1", "FORMAT = 0")], "in format 1, this version knows 0"),
    "older": ([("cli/procmand.py", '"--rehearse"', '"--other"')], "No such option"),
    "dies": (
        [("cli/procmand.py", "    remains = image", "    os.kill(os.getpid(), 9)\n    remains = image")],
        "signal 9",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_release_is_refused_and_nothing_has_happened(daemon, releases, how):
    patches, said = BROKEN[how]
    before = pids(daemon)
    releases.make("broken", *patches)
    releases.install("broken")
    done = daemon.procmanctl("upgrade")
    assert done.returncode == 1
    assert "the new image can't take over" in done.stderr
    assert said in done.stdout + done.stderr
    assert pids(daemon) == before
    assert daemon.request("GET", "/")[0] == 200
    releases.install("first")
    upgrade(daemon)
    assert pids(daemon) == before


def test_a_configuration_that_the_new_image_would_not_start_with_refuses_the_upgrade(daemon):
    good = daemon.file.read_text()
    daemon.file.write_text(good + "nonsense = 1\n")
    with Client(daemon.endpoint, timeout=PATIENCE) as client, pytest.raises(Exception, match="unknown key") as error:
        client.call("upgrade", waiting=True)
    assert "status 78" in str(error.value)
    daemon.file.write_text(good)
    upgrade(daemon)


def test_one_at_a_time_and_none_while_stopping(daemon, releases, short_path):
    releases.make(
        "slow", ("cli/procmand.py", "def _rehearse(fd: int) -> None:\n", "def _rehearse(fd: int) -> None:\n" + HELD)
    )
    releases.install("slow")
    (short_path / "hold").touch()
    begun = daemon.procmanctl("--no-wait", "upgrade").stdout.strip()
    again = daemon.procmanctl("upgrade")
    assert (again.returncode, begun) == (5, "upgrade-1")
    assert "an upgrade is under way already: upgrade-1" in again.stderr
    busy = threading.Thread(target=lambda: daemon.request("GET", "/slow"))
    busy.start()
    daemon.wait(lambda: daemon.pool("http")["workers"][0]["busy"] or daemon.pool("http")["workers"][1]["busy"], "it")
    daemon.process.send_signal(signal.SIGINT)
    daemon.wait(lambda: daemon.ctl("stats")["arbiter"]["state"] == "stopping", "the daemon to stop")
    (short_path / "hold").unlink()
    with Client(daemon.endpoint, timeout=PATIENCE) as client, pytest.raises(Exception, match="the daemon is stopping"):
        client.call("wait", operation="upgrade-1")
    assert daemon.procmanctl("upgrade").returncode == 5
    (short_path / "go").touch()
    busy.join()
    assert daemon.process.wait(PATIENCE) == 0


# -- versions ---------------------------------------------------------------------------------------------


def test_workers_of_another_layout_are_replaced_without_a_gap(daemon, releases):
    before = pids(daemon)
    releases.make(
        "other",
        ("observe/scoreboard.py", "_BEAT, _CPU_FROM, _BUSY_SECONDS", "_CPU_FROM, _BEAT, _BUSY_SECONDS"),
    )
    releases.install("other")
    with Traffic(daemon.address()) as traffic:
        traffic.wait_for(20)
        upgrade(daemon)
        daemon.wait(lambda: daemon.pool("http")["generation"] == 2, "the workers to be replaced")
        traffic.wait_for(20)
    assert traffic.lost == []
    assert not set(pids(daemon).values()) & set(before.values())
    releases.install("first")
    upgrade(daemon)
    daemon.wait(lambda: daemon.pool("http")["generation"] == 3, "and back")


def test_fields_of_another_version_are_no_obstacle(daemon, releases):
    before = pids(daemon)
    releases.make(
        "newer",
        ("core/pool.py", "    wanted: bool = False\n", "    wanted: bool = False\n    mood: str = 'new'\n"),
        ("core/spec.py", "    essential: bool = False\n", "    essential: bool = False\n    colour: str = 'blue'\n"),
        ("daemon/handover.py", '    operation: str = ""\n', "    operation: str = \"\"\n    weather: str = 'fine'\n"),
        version="9.9",
    )
    for name in ("newer", "first"):
        releases.install(name)
        upgrade(daemon)
        assert pids(daemon) == before
        assert daemon.pool("http")["ready"] == 2


# -- the worst case ---------------------------------------------------------------------------------------


def test_a_release_that_fails_only_for_real_still_serves(daemon, releases):
    """The rehearsal can't see everything. Then the daemon starts anew with its sockets: no connection is refused."""
    before = pids(daemon)
    releases.make(
        "treacherous",
        ("daemon/main.py", "        takeover.go_on(self, found)\n", "        raise ValueError('treason')\n"),
    )
    releases.install("treacherous")
    with Traffic(daemon.address(), keep_alive=False) as traffic:
        traffic.wait_for(20)
        daemon.process.send_signal(signal.SIGUSR2)
        daemon.wait(lambda: "it starts anew" in daemon.log, "the disaster")
        daemon.wait_said("READY=1")
        traffic.wait_for(20)
    assert traffic.lost == []
    assert "treason" in daemon.log
    assert not set(pids(daemon).values()) & set(before.values())
