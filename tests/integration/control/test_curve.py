"""Control over tcp: who has no key does not get in, and who may only read does nothing else."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from contextlib import ExitStack, closing, contextmanager

import pytest
import zmq

from procman.config import keyfiles
from procman.control.client import Client
from procman.control.curve import Authority
from procman.control.publisher import Publisher
from procman.control.server import ControlServer
from procman.control.subscriber import Subscription
from procman.core.spec import AuthSpec, ClientSpec, Role
from procman.errors import AddressError, ConfigurationError, NotReachable, Refused, TimedOut
from tests.support.daemon import Procmand, program, wait_until

SLEEPER = (
    '[pools.x]\nkind = "exec"\ncommand = ["sleep", "1000"]\nstart_seconds = 0.1\nenv = { PASSWORD = "tops3cret" }\n'
)


class World:
    """A daemon over tcp whose configuration the tests write, with files of keys beside it."""

    def __init__(self, directory):
        self.directory = directory
        self.server = self.keys("daemon")
        self.clients = {}

    def path(self, name):
        return str(self.directory / f"{name}.keys")

    def keys(self, name, server=None):
        made = keyfiles.generate(server)
        keyfiles.write(self.path(name), made)
        return made

    def client(self, name, role):
        self.clients[name] = (self.keys(name, self.server.public).public, role)
        return self.path(name)

    def configuration(self):
        lines = ["[procman]", 'control = ["ipc://var/control.sock", "tcp://127.0.0.1:0"]']
        lines += ['events = ["ipc://var/events.sock", "tcp://127.0.0.1:0"]', "[procman.auth]", 'keys = "daemon.keys"']
        lines += ["[procman.auth.clients]"]
        lines += [f'{name} = {{ key = "{key}", role = "{role}" }}' for name, (key, role) in self.clients.items()]
        return "\n".join(lines) + "\n" + SLEEPER


@pytest.fixture
def world(short_path):
    return World(short_path)


@contextmanager
def running(world):
    with Procmand(world.directory, world.configuration()) as daemon:
        control, events = [
            line.rpartition(" ")[2] for line in daemon.log.splitlines() if "Clients with keys may connect to" in line
        ]
        daemon.tcp, daemon.events = control, events
        yield daemon


def asking(daemon, keys, timeout=30.0):
    return Client(daemon.tcp, keys=keys, timeout=timeout)


# -- who gets in ------------------------------------------------------------------------------------------


def test_a_client_whose_key_is_known_does_all_that_it_may_do_locally(world):
    keys = world.client("alice", "full")
    with running(world) as daemon, asking(daemon, keys) as client:
        assert client.call("check")["ready"]
        pid = daemon.worker("x.1")["pid"]
        assert client.call("restart", name="x", waiting=True)["status"] == "ok"
        assert daemon.worker("x.1")["pid"] != pid
        assert "alice" in {one["by"] for one in client.call("operations")["operations"]}


def test_a_client_that_may_only_read_does_nothing_else(world):
    keys = world.client("grafana", "read-only")
    with running(world) as daemon, asking(daemon, keys) as client:
        assert client.call("stats")["pools"]["x"]["ready"] == 1
        for command, properties in (("stop", {"name": "x"}), ("dumpstacks", {}), ("shutdown", {})):
            with pytest.raises(Refused, match=f"{command}: the key of grafana is for reading only"):
                client.call(command, **properties)
        assert daemon.pool("x")["state"] == "running"


def test_a_key_that_nobody_knows_is_told_so_at_once(world):
    world.client("alice", "full")
    world.keys("mallory", world.server.public)
    with running(world) as daemon:
        began = time.monotonic()
        with asking(daemon, world.path("mallory")) as client, pytest.raises(Refused, match="does not accept this key"):
            client.call("stats")
        assert time.monotonic() - began < 10
        assert "the key is not among the clients" in daemon.log


def test_a_client_does_not_speak_to_somebody_who_only_says_to_be_the_daemon(world):
    world.client("alice", "full")
    world.keys("lost", keyfiles.generate().public)
    with (
        running(world) as daemon,
        asking(daemon, world.path("lost")) as client,
        pytest.raises(Refused, match="is server_key the daemon's"),
    ):
        client.call("stats")


def test_without_keys_nobody_gets_in(world):
    world.client("alice", "full")
    with running(world) as daemon:
        with pytest.raises(ConfigurationError, match=r"give --keys FILE or \$PROCMAN_KEYS"):
            Client(daemon.tcp)
        with pytest.raises(ConfigurationError, match="keys of a daemon, not of a client"):
            Client(daemon.tcp, keys=world.path("daemon"))
        with zmq.Context() as context, context.socket(zmq.DEALER) as plain:
            plain.linger = 0
            plain.connect(daemon.tcp)
            plain.send(json.dumps({"id": "1", "command": "stop", "properties": {}}).encode())
            assert not plain.poll(1000)
        assert daemon.pool("x")["state"] == "running"


def test_whoever_is_struck_off_the_list_is_out_at_once_with_his_subscriptions(world):
    alice, bob = world.client("alice", "full"), world.client("bob", "full")
    with running(world) as daemon, ExitStack() as stack:
        clients = {name: stack.enter_context(asking(daemon, keys)) for name, keys in (("a", alice), ("b", bob))}
        listening = {
            name: stack.enter_context(Subscription(daemon.events, keys)) for name, keys in (("a", alice), ("b", bob))
        }
        for client in clients.values():
            client.call("check")
        wait_heard(daemon, listening.values())

        del world.clients["bob"]
        daemon.file.write_text(world.configuration())
        assert daemon.procmanctl("reload").returncode == 0
        assert clients["a"].call("check")["ready"], "it comes back by itself"
        with pytest.raises(Refused):
            clients["b"].call("check")
        wait_heard(daemon, [listening["a"]])
        with pytest.raises(Refused):
            list(iter(lambda: listening["b"].receive(30.0), None))
        assert "Fewer clients may connect" in daemon.log


def wait_heard(daemon, subscriptions):
    """Make things happen until each of them has heard of something that happened after this call."""
    for subscription in subscriptions:
        while subscription.receive(0) is not None:
            pass

        def heard(subscription=subscription):
            daemon.ctl("kill", name="x.1", signum="KILL", waiting=True)
            return subscription.receive(0.5)

        wait_until(heard, "an event")


def test_a_client_less_becomes_a_reader_and_one_more_gets_in(world):
    keys = world.client("alice", "full")
    with running(world) as daemon, asking(daemon, keys) as client:
        client.call("check")
        world.clients["alice"] = (world.clients["alice"][0], "read-only")
        other = world.client("bob", "full")
        daemon.file.write_text(world.configuration())
        assert daemon.procmanctl("reload").returncode == 0
        with pytest.raises(Refused, match="for reading only"):
            client.call("stop", name="x")
        with asking(daemon, other) as newcomer:
            assert newcomer.call("check")["ready"]


# -- what goes over the wire ------------------------------------------------------------------------------


def test_a_deadline_holds_although_the_clocks_of_the_machines_differ(short_path):
    # The server lives an hour in the future, as seen by the client.
    world = World(short_path)
    keys = world.client("alice", "full")
    context = zmq.Context()
    clients = [ClientSpec(name="alice", key=world.clients["alice"][0], role=Role.FULL)]
    authority = Authority(AuthSpec(keys=world.path("daemon"), clients=tuple(clients)), context)
    server = ControlServer(["tcp://127.0.0.1:0"], context, authority=authority, clock=lambda: time.time() + 3600)
    try:
        with serving(server, authority), Client(server.endpoints[0], keys=keys, timeout=20) as client:
            assert client.call("check")["status"] == "ok"
    finally:
        server.close()
        authority.close()
        context.term()


@contextmanager
def serving(server, authority):
    """Answer in a thread whatever is asked."""
    import threading

    done = threading.Event()

    def loop():
        while not done.is_set():
            authority.attend()
            for call in server.receive():
                call.reply({})
            time.sleep(0.002)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_tcp_without_an_authority_is_refused(short_path):
    with pytest.raises(AddressError, match="a tcp endpoint needs CURVE keys"):
        ControlServer([f"ipc://{short_path}/c.sock", "tcp://127.0.0.1:0"])
    assert not (short_path / "c.sock").exists(), "what had been opened was closed"
    with pytest.raises(AddressError, match="a tcp endpoint needs CURVE keys"):
        Publisher(["tcp://127.0.0.1:0"])


def test_an_address_in_use_is_told(world):
    world.client("alice", "full")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text = world.configuration().replace("tcp://127.0.0.1:0", f"tcp://127.0.0.1:{taken.getsockname()[1]}", 1)
        with Procmand(world.directory, text, ready=False) as daemon:
            assert daemon.process.wait(60) == 1
            assert "Address already in use" in daemon.log


def test_a_daemon_whose_keys_others_may_read_does_not_start(world):
    world.client("alice", "full")
    (world.directory / "daemon.keys").chmod(0o644)
    with Procmand(world.directory, world.configuration(), ready=False) as daemon:
        assert daemon.process.wait(60) == 78
        assert "error[P038]: procman.auth.keys: others may use the keys" in daemon.log


def test_nobody_is_there(world):
    keys = world.client("alice", "full")
    with socket.create_server(("127.0.0.1", 0)) as gone:
        endpoint = f"tcp://127.0.0.1:{gone.getsockname()[1]}"
    with pytest.raises(NotReachable, match="Connection refused"):
        Client(endpoint, keys=keys)
    with pytest.raises(NotReachable, match="expected an endpoint such as tcp://"):
        Client("tcp://nonsense", keys=keys)


def test_somebody_who_speaks_something_else_is_there(world):
    keys = world.client("alice", "full")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with closing(Client(endpoint, keys=keys, timeout=0.5)) as client, pytest.raises((TimedOut, Refused)):
            client.call("stats")


# -- as a user --------------------------------------------------------------------------------------------


def run(*arguments, directory, **environ):
    return subprocess.run(
        [program("procmanctl"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=directory,
        check=False,
        env={"PATH": "/usr/bin:/bin", **environ},
    )


def test_from_nothing_to_a_command_over_tcp(short_path):
    """As the documentation has it: what `keys` prints is what goes into the configuration."""
    made = run("keys", "daemon.keys", directory=short_path)
    assert made.returncode == 0, made.stderr
    table, _, command = made.stdout.partition("[procman.auth]")[2].partition("Its clients")
    command = command.strip().splitlines()[-1]
    shell = command.replace("NAME", "alice").replace("procmanctl", program("procmanctl"), 1) + " --role full"
    client = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, cwd=short_path, check=True)
    clients = client.stdout.partition("\n\n")[2]
    text = '[procman]\ncontrol = "tcp://127.0.0.1:0"\nevents = "tcp://127.0.0.1:0"\n[procman.auth]' + table + clients
    with Procmand(short_path, text + SLEEPER) as daemon:
        endpoint = next(line for line in daemon.log.splitlines() if "Clients with keys" in line).rpartition(" ")[2]
        where = {"PROCMAN_ENDPOINT": endpoint, "PROCMAN_KEYS": "alice.keys"}
        assert run("check", directory=short_path, **where).stdout == "ok\n"
        by_option = run("--endpoint", endpoint, "--keys", "alice.keys", "scale", "x", "2", directory=short_path)
        assert by_option.stdout == "x: 2 workers\n"
        assert run("events", "--json", directory=short_path, **where).returncode == 0
        following = subprocess.Popen(
            [program("procmanctl"), "events", "--follow"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=short_path,
            env={"PATH": "/usr/bin:/bin", **where},
        )
        assert "x" in following.stdout.readline()
        assert run("shutdown", directory=short_path, **where).stdout == "the daemon has ended\n"
        assert following.wait(60) == 0
        following.stdout.close()


def test_what_can_be_wrong_with_keys_has_its_exit_code(short_path):
    assert run("keys", "d.keys", directory=short_path).returncode == 0
    public = json.loads(run("--json", "keys", "e.keys", directory=short_path).stdout)["public_key"]
    for arguments, code, message in (
        (["keys", "d.keys"], 78, "File exists"),
        (["keys", "a.keys", "--client", "a"], 2, "give --server"),
        (["keys", "a.keys", "--server", public], 2, "give --client"),
        (["keys", "a.keys", "--client", "a", "--server", "x"], 2, "expected a public key"),
        (["keys", "a.keys", "--client", "a b", "--server", public], 2, "expected a letter"),
        (["--endpoint", "tcp://127.0.0.1:1", "stats"], 3, "no daemon"),
        (["keys", "a.keys", "--client", "a", "--server", "d.keys", "--role", "full"], 0, ""),
    ):
        done = run(*arguments, directory=short_path)
        assert (done.returncode, message in done.stderr) == (code, True), (arguments, done)
