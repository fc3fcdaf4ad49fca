"""Full disks, no descriptors, no processes, floods, ten thousand crashes: the arbiter outlives everything."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import zmq

from procman.config import keyfiles
from procman.control.client import Client
from procman.control.crowd import MOST_PEERS
from procman.control.curve import arm_client
from procman.control.subscriber import Subscription
from tests.support.daemon import Procmand
from tests.support.traffic import Traffic
from tests.support.wild import APPLICATION, CONFIGURATION, anonymous_memory, descriptors, templates, try_to_ask

MODULES = {"app.py": APPLICATION}
MANY_LIVES = CONFIGURATION + "max_restarts = 1000000\nbackoff = { first = 0.001, most = 0.001, lived = 0.001 }\n"


def replace_worker(daemon, name="http.1"):
    pid = daemon.worker(name)["pid"]
    os.kill(pid, signal.SIGKILL)
    return daemon.wait_replaced(name, pid)


# -- disks ------------------------------------------------------------------------------------------------


def test_a_log_on_a_full_disk_stops_nothing(short_path):
    with Procmand(short_path, CONFIGURATION, modules=MODULES, log_to="/dev/full") as daemon:
        replace_worker(daemon)
        assert daemon.procmanctl("reload", "http").returncode == 0
        assert daemon.procmanctl("dumpstacks", "http").returncode == 0
        assert daemon.request("GET", "/")[0] == 200
        assert daemon.stop() == 0


def test_a_log_that_nobody_reads_any_more_stops_nothing(short_path):
    reader, writer = os.pipe()
    os.close(reader)
    with Procmand(short_path, CONFIGURATION, modules=MODULES, log_to=f"/proc/self/fd/{writer}") as daemon:
        os.close(writer)
        replace_worker(daemon)
        assert daemon.procmanctl("reload", "http").returncode == 0
        assert daemon.request("GET", "/")[0] == 200


def small_disk(directory):
    """A command that runs its arguments where ``directory`` is a disk of 1 MiB; None if we may not mount."""
    script = f'mount -t tmpfs -o size=1m tmpfs {directory} && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh"]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], check=False, capture_output=True).returncode:
        return None
    return command


def test_a_state_directory_that_is_full_at_the_start_is_told_plainly(short_path):
    (short_path / "var").mkdir(mode=0o700)
    prefix = small_disk(short_path / "var")
    if prefix is None:
        pytest.skip("mounting a small disk needs privileges that this account does not have")
    fill = ["sh", "-c", f'head -c 1048576 /dev/zero > {short_path}/var/filler; exec "$@"', "sh"]
    with Procmand(short_path, CONFIGURATION, modules=MODULES, ready=False, prefix=[*prefix, *fill]) as daemon:
        assert daemon.process.wait(30) == 1
        assert "No space left on device" in daemon.log
        assert str(short_path / "var") in daemon.log
        assert "Traceback" not in daemon.log


def test_a_state_directory_that_fills_up_later_stops_nothing(short_path):
    (short_path / "var").mkdir(mode=0o700)
    prefix = small_disk(short_path / "var")
    if prefix is None:
        pytest.skip("mounting a small disk needs privileges that this account does not have")
    with Procmand(short_path, MANY_LIVES, modules=MODULES, prefix=prefix) as daemon:
        # Its mounts are its own: we get to the directory, and to its control socket, by way of the process.
        inside = f"/proc/{daemon.process.pid}/root{short_path}/var"
        with contextlib.suppress(OSError), open(f"{inside}/filler", "wb", buffering=0) as filler:
            while filler.write(bytes(1024)):
                pass
        daemon.control = f"ipc://{inside}/control.sock"
        address = daemon.address()
        replace_worker(daemon)
        assert daemon.ctl("reload", name=["http"], waiting=True)["status"] == "ok"
        assert daemon.request_at(address)[0] == 200


# -- descriptors and processes ----------------------------------------------------------------------------


def with_limit(number, most):
    """A command that runs its arguments with this limit."""
    script = (
        f"import os, resource, sys; resource.setrlimit({number}, ({most}, {most})); os.execv(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-c", script]


def test_a_daemon_without_descriptors_for_all_its_workers_keeps_those_it_has(short_path):
    sleepers = '[pools.sleeper]\nkind = "exec"\ncommand = ["sleep", "1000"]\nworkers = 100\nstart_seconds = 0.1\n'
    prefix = with_limit(resource.RLIMIT_NOFILE, 80)
    with Procmand(short_path, CONFIGURATION + sleepers, modules=MODULES, ready=False, prefix=prefix) as daemon:
        daemon.wait(lambda: "Too many open files" in daemon.log, "the limit to be reached")
        daemon.process.send_signal(signal.SIGHUP)  # reading a file takes a descriptor too
        daemon.wait(lambda: "is parked" in daemon.log, "the pool that wants too much to be parked", timeout=30)
        assert daemon.process.poll() is None
        assert daemon.stop(signal.SIGTERM) == 0


def test_a_template_that_may_not_fork_says_so_and_goes_on(short_path):
    forbid = (
        "\nimport resource\nif os.geteuid() == 0:\n    os.setresuid(65534, 65534, 65534)  # root's are not counted\n"
    )
    forbid += "resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))\n"
    configuration = CONFIGURATION + "max_restarts = 1\n"
    with Procmand(short_path, configuration, modules={"app.py": APPLICATION + forbid}, ready=False) as daemon:
        daemon.wait(lambda: "is parked" in daemon.log, "the pool to be parked")
        assert "cannot fork: " in daemon.log
        assert "Traceback" not in daemon.log
        assert len(templates(daemon)) == 1


def test_children_get_the_limit_of_descriptors_that_the_daemon_was_started_with(short_path):
    out = '[pools.x]\nkind = "exec"\ncommand = ["sh", "-c", "ulimit -n > limit; exec sleep 1000"]\n'
    prefix = [sys.executable, "-c", "import os, resource, sys; h = resource.getrlimit(7)[1]; "]
    prefix[-1] += "resource.setrlimit(7, (min(h, 777), h)); os.execv(sys.argv[1], sys.argv[1:])"
    with Procmand(short_path, out, prefix=prefix) as daemon:
        assert (short_path / "limit").read_text().strip() == "777"
        limits = Path(f"/proc/{daemon.process.pid}/limits").read_text()
    assert int(re.search(r"Max open files +(\d+)", limits)[1]) > 777


# -- leaks ------------------------------------------------------------------------------------------------


def test_two_hundred_deaths_and_twenty_reloads_leave_nothing(short_path):
    with Procmand(short_path, MANY_LIVES, modules=MODULES) as daemon:

        def wear(kills, reloads):
            for _ in range(kills):
                replace_worker(daemon)
            for _ in range(reloads):
                assert daemon.ctl("reload", name=["http"], waiting=True)["status"] == "ok"
            daemon.wait(lambda: len(daemon.pool("http")["workers"]) == 2, "the old workers to go")
            daemon.wait(lambda: len(templates(daemon)) == 1, "the old template to go")

        def numbers_and_kinds():
            worker = daemon.worker("http.2")["pid"]
            kinds = Counter(re.sub(r"\d+", "", target) for target in descriptors(daemon.process.pid).values())
            kinds["of a worker"] = len(descriptors(worker))
            kinds["of the template"] = len(descriptors(templates(daemon)[0]))
            return kinds

        def sizes():
            return anonymous_memory(daemon.process.pid), anonymous_memory(daemon.worker("http.2")["pid"])

        wear(20, 5)
        before, sizes_before = numbers_and_kinds(), sizes()
        wear(180, 15)
        # Not at once: ZeroMQ closes the connection of the last command when it gets round to it. Before, too, there may
        # have been one more than are needed, as of a template that has ended and was not reaped yet.
        daemon.wait(lambda: numbers_and_kinds() <= before, f"the descriptors to be {before}", timeout=10)
        assert all(after < once * 1.05 for after, once in zip(sizes(), sizes_before, strict=True))


def test_workers_and_commands_have_only_the_descriptors_they_need(short_path):
    sleeper = '[pools.x]\nkind = "exec"\ncommand = ["sleep", "1000"]\nstart_seconds = 0.1\n'
    with open("/dev/null") as stray, Procmand(short_path, CONFIGURATION + sleeper, modules=MODULES) as daemon:
        os.set_inheritable(stray.fileno(), True)
        assert set(descriptors(daemon.worker("x.1")["pid"])) == {0, 1, 2}
        for worker in daemon.pool("http")["workers"]:
            rest = {fd: to for fd, to in descriptors(worker["pid"]).items() if fd > 2}
            kinds = sorted(re.sub(r"\d+", "", to.replace(str(short_path), "")) for to in rest.values())
            assert kinds == [
                "/memfd:stacks of http. (deleted)",
                "/var/scoreboard",
                "/var/scoreboard",  # and its mapping has one of its own (mmap, CPython)
                "anon_inode:[eventpoll]",
                "socket:[]",  # the listener
                "socket:[]",  # the channel
                "socket:[]",  # a pair that signals wake it by
                "socket:[]",
            ]


def test_nobody_gets_the_descriptors_that_whoever_started_the_daemon_forgot(short_path):
    sleeper = '[pools.x]\nkind = "exec"\ncommand = ["sleep", "1000"]\nstart_seconds = 0.1\n'
    forgetful = ["sh", "-c", 'exec 7</dev/null; exec "$@"', "sh"]
    with Procmand(short_path, CONFIGURATION + sleeper, modules=MODULES, prefix=forgetful) as daemon:
        assert set(descriptors(daemon.worker("x.1")["pid"])) == {0, 1, 2}


# -- crash loops ------------------------------------------------------------------------------------------


def test_fifty_workers_that_crash_at_once_are_parked_alone(short_path):
    crashing = '[pools.crashing]\nkind = "exec"\ncommand = ["false"]\nworkers = 50\nmax_restarts = 3\n'
    with Procmand(short_path, MANY_LIVES + crashing, modules=MODULES, ready=False) as daemon:
        daemon.wait(lambda: " starts 2 pools " in daemon.log, "the control socket")
        daemon.wait(lambda: daemon.pool("http")["ready"] == 2, "the other pool")
        with Traffic(daemon.address()) as traffic:
            daemon.wait(lambda: daemon.pool("crashing")["state"] == "parked", "the pool to be parked", timeout=30)
            traffic.wait_for(20)
            replace_worker(daemon)
        assert len(traffic.lost) <= traffic.clients, "at most those whose connection the killed worker had"
        assert daemon.log.count("Worker crashing.1 (") <= 2 * (3 + 1 + 1)
        daemon.wait(lambda: daemon.pool("crashing")["workers"] == [], "the last ones to end")


# -- floods -----------------------------------------------------------------------------------------------


def test_a_flooded_control_socket_is_no_trouble_for_the_workers(short_path):
    with Procmand(short_path, MANY_LIVES, modules=MODULES) as daemon, Traffic(daemon.address()) as traffic:
        stop = threading.Event()
        path = str(short_path / "var/control.sock")
        half_open = [socket.socket(socket.AF_UNIX) for _ in range(300)]
        for peer in half_open:
            peer.connect(path)
        flooders = [threading.Thread(target=flood, args=(daemon.endpoint, kind, stop)) for kind in ("json", "garbage")]
        for flooder in flooders:
            flooder.start()
        try:
            traffic.wait_for(50)
            for _ in range(3):
                died = daemon.worker("http.1")["pid"]
                os.kill(died, signal.SIGKILL)
                daemon.wait_replaced("http.1", died)
            traffic.wait_for(50)
        finally:
            stop.set()
            for flooder in flooders:
                flooder.join()
            for peer in half_open:
                peer.close()
        # Whoever was being served by one of the three that were killed.
        assert len(traffic.lost) <= 3 * traffic.clients
        assert {status for status, _ in traffic.answers} == {200}
        assert daemon.ctl("check")["ready"]


def flood(endpoint, kind, stop):
    """Ten thousand messages at least, as fast as they are taken."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
        peer.set(zmq.LINGER, 0)
        peer.connect(endpoint)
        message = json.dumps({"id": "x", "command": "stats", "properties": {}}).encode()
        sent = 0
        while sent < 10_000 or not stop.is_set():
            parts = [message] if kind == "json" else [b"\\x00\\xff" * 20, os.urandom(30)]
            with contextlib.suppress(zmq.Again):
                peer.send_multipart(parts, zmq.NOBLOCK)
                sent += 1
            with contextlib.suppress(zmq.Again):
                while peer.recv_multipart(zmq.NOBLOCK):
                    pass


def test_a_flooded_readiness_socket_is_no_trouble_for_the_workers(short_path):
    sleeper = '[pools.x]\nkind = "exec"\ncommand = ["sh", "-c", "echo $NOTIFY_SOCKET > where; exec sleep 1000"]\n'
    with Procmand(short_path, MANY_LIVES + sleeper + 'ready = "notify"\n', modules=MODULES, ready=False) as daemon:
        where = short_path / "where"
        daemon.wait(lambda: where.exists() and where.read_text().strip(), "the command to run")
        address = "\0" + where.read_text().strip()[1:]
        stop = threading.Event()

        def shout():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
                peer.setblocking(False)
                while not stop.is_set():
                    with contextlib.suppress(BlockingIOError):
                        peer.sendto(b"READY=1", address)

        shouting = threading.Thread(target=shout)
        shouting.start()
        try:
            daemon.wait(lambda: daemon.pool("http")["ready"] == 2, "the other pool")
            replace_worker(daemon)
            assert daemon.pool("x")["ready"] == 0, "it was a stranger who said so"
        finally:
            stop.set()
            shouting.join()


def test_nonsense_from_a_worker_is_survived(short_path):
    nonsense = APPLICATION + (
        "\ndef do_nonsense():\n"
        "    import socket\n"
        "    for fd in range(3, 100):\n"
        "        try:\n"
        "            channel = socket.socket(fileno=os.dup(fd))\n"
        "        except OSError:\n"
        "            continue\n"
        "        if channel.type == socket.SOCK_SEQPACKET:\n"
        "            for data in (b'[' * 100_000, b'{}', b'\\xff', b'{\"is\": \"Forked\", \"pid\": 1}',\n"
        "                         b'{\"is\": \"Retiring\", \"reason\": [1]}', b'null', b'1' * 5000):\n"
        "                channel.send(data)\n"
        "        channel.close()\n"
    )
    with Procmand(short_path, CONFIGURATION, modules={"app.py": nonsense}) as daemon:
        before = {worker["pid"] for worker in daemon.pool("http")["workers"]}
        assert try_to_ask(daemon, "/nonsense")[0] == 200
        daemon.wait(lambda: "Nonsense from http." in daemon.log, "the complaint")
        assert {worker["pid"] for worker in daemon.pool("http")["workers"]} == before


# -- the same over tcp --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["silent", "garbage", "wrong greeting", "no keys", "unknown key", "greeting and silence"]
)
def test_strangers_at_the_tcp_endpoint_are_no_trouble_for_the_workers(short_path, kind):
    alice = keyfiles.generate()
    configuration, daemon_keys = over_tcp(short_path, alice)
    keyfiles.write(str(short_path / "alice.keys"), replace(alice, server=daemon_keys.public))
    with Procmand(short_path, configuration, modules=MODULES) as daemon, Traffic(daemon.address()) as traffic:
        endpoint = tcp_endpoint(daemon)
        with strangers(kind, endpoint, daemon_keys.public):
            traffic.wait_for(50)
            replace_worker(daemon)
            traffic.wait_for(50)
            assert daemon.ctl("check")["ready"]
        # Whoever has the right key gets through when they have gone, or have been dropped.
        with Client(endpoint, keys=str(short_path / "alice.keys"), timeout=30.0) as client:
            assert client.call("check")["ready"]
        assert len(traffic.lost) <= traffic.clients, "at most those whose connection the killed worker had"


def test_a_thousand_silent_strangers_cost_the_daemon_no_more_than_a_few_descriptors(short_path):
    alice = keyfiles.generate()
    configuration, daemon_keys = over_tcp(short_path, alice)
    path = str(short_path / "alice.keys")
    keyfiles.write(path, replace(alice, server=daemon_keys.public))
    with Procmand(short_path, configuration, modules=MODULES, prefix=with_limit(resource.RLIMIT_NOFILE, 800)) as daemon:
        endpoint = tcp_endpoint(daemon)
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        before = len(descriptors(daemon.process.pid))
        with contextlib.ExitStack() as stack, Client(endpoint, keys=path, timeout=60.0) as client:
            assert client.call("check")["ready"]
            for _ in range(1000):
                stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
            replace_worker(daemon)
            daemon.wait(lambda: "connections to tcp://" in daemon.log, "the strangers to be sent away")
            assert len(descriptors(daemon.process.pid)) < before + 2 * MOST_PEERS
            assert client.call("check")["ready"], "it has come back by itself"
        daemon.wait(lambda: len(descriptors(daemon.process.pid)) <= before + 2, "their descriptors to be closed")


def test_ten_thousand_requests_and_subscribers_that_do_not_read_over_tcp(short_path):
    alice = keyfiles.generate()
    configuration, daemon_keys = over_tcp(short_path, alice)
    path = str(short_path / "alice.keys")
    keyfiles.write(path, replace(alice, server=daemon_keys.public))
    with Procmand(short_path, configuration, modules=MODULES) as daemon, Traffic(daemon.address()) as traffic:
        events = [line.rpartition(" ")[2] for line in daemon.log.splitlines() if "Clients with keys" in line][1]
        with contextlib.ExitStack() as stack:
            for _ in range(10):
                stack.enter_context(Subscription(events, path))  # and nobody calls receive
            context = stack.enter_context(zmq.Context())
            peer = stack.enter_context(context.socket(zmq.DEALER))
            peer.set(zmq.LINGER, 0)
            arm_client(peer, keyfiles.read(path))
            peer.connect(tcp_endpoint(daemon))
            message = json.dumps({"id": "x", "command": "stats", "properties": {}}).encode()
            before = anonymous_memory(daemon.process.pid)
            for number in range(10_000):
                peer.send(message)  # and answers are not read
                if number % 2500 == 0:
                    replace_worker(daemon)
            traffic.wait_for(50)
            assert daemon.ctl("check")["ready"]
            assert anonymous_memory(daemon.process.pid) < before + 64 * 2**20, "MOST_QUEUED answers and no more"
        assert len(traffic.lost) <= 4 * traffic.clients


def over_tcp(directory, client):
    daemon_keys = keyfiles.generate()
    keyfiles.write(str(directory / "daemon.keys"), daemon_keys)
    head = '[procman]\ncontrol = ["ipc://var/control.sock", "tcp://127.0.0.1:0"]\n'
    head += 'events = ["ipc://var/events.sock", "tcp://127.0.0.1:0"]\n[procman.auth]\nkeys = "daemon.keys"\n'
    head += f'[procman.auth.clients]\nalice = {{ key = "{client.public}", role = "full" }}\n'
    return head + MANY_LIVES, daemon_keys


def tcp_endpoint(daemon):
    return next(line for line in daemon.log.splitlines() if "Clients with keys" in line).rpartition(" ")[2]


GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01"  # ZMTP 3.1 (ZeroMQ RFC 37)


@contextlib.contextmanager
def strangers(kind, endpoint, server_key):
    """Three hundred of them, who go on as long as this lasts."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    with contextlib.ExitStack() as stack:
        if kind in ("no keys", "unknown key"):
            context = stack.enter_context(zmq.Context())
            for _ in range(100):
                peer = stack.enter_context(context.socket(zmq.DEALER))
                peer.set(zmq.LINGER, 0)
                if kind == "unknown key":
                    arm_client(peer, keyfiles.generate(server_key))
                peer.connect(endpoint)
                peer.send(b'{"id": "x", "command": "shutdown"}')
        else:
            says = {
                "silent": b"",
                "garbage": os.urandom(2000),
                "wrong greeting": GREETING + b"NULL" + bytes(16) + b"\0" + bytes(31),
                "greeting and silence": GREETING + b"CURVE" + bytes(15) + b"\0" + bytes(31),
            }[kind]
            for _ in range(300):
                peer = stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
                with contextlib.suppress(ConnectionError):
                    peer.sendall(says)
        yield
