"""Listening sockets that the service manager keeps: the daemon is killed, and nobody who connects is refused."""

from __future__ import annotations

import re
import socket
import threading

import pytest

from tests.support.daemon import Procmand, processes_in, wait_until
from tests.support.manager import Manager
from tests.support.traffic import Traffic

APPLICATION = """
import os, time

def application(environ, start_response):
    while environ["PATH_INFO"] == "/slow" and not os.path.exists("go"):
        time.sleep(0.01)
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"""

CONFIGURATION = '[pools.http]\nkind = "http"\napp = "app:application"\nbind = {}\nworkers = 2\n'


@pytest.fixture
def manage(short_path):
    made = []

    def manage(binds='["127.0.0.1:0", "unix:web.sock"]', **more):
        (short_path / "procman.toml").write_text(CONFIGURATION.format(binds))
        (short_path / "app.py").write_text(APPLICATION)
        manager = Manager(short_path, **more)
        made.append(manager)
        manager.start({})
        manager.wait_ready()
        return manager

    yield manage
    for manager in made:
        (short_path / "go").touch()
        manager.close()
    wait_until(lambda: not processes_in(short_path), "the processes to go")


def address(manager):
    return re.findall(r"listens on (127\S+)", (manager.directory / "procmand.log").read_text())[-1]


def kill(manager):
    manager.process.kill()
    manager.process.wait()


def get(where, path="/"):
    return Procmand.request_at(None, where, path=path)


def test_nobody_is_refused_while_the_daemon_is_killed_and_started_again(manage, short_path):
    manager = manage()
    where = address(manager)
    assert set(manager.stored) == {"procman.http=127.0.0.1%3A0", f"procman.=unix%3A{short_path}/web.sock"}
    answers = []
    slow = threading.Thread(target=lambda: answers.append(get(where, "/slow")))
    slow.start()
    get(where)
    with Traffic(where, keep_alive=False) as traffic:
        traffic.wait_for(20)
        kill(manager)
        # An orphan finishes its request; all the others who connect now wait for the next daemon.
        manager.start({})
        manager.wait_ready()
        traffic.wait_for(20)
        (short_path / "go").touch()
        slow.join()
    assert answers[0][0] == 200
    assert [one for one in traffic.lost if "refused" in one.lower()] == []
    assert address(manager) == where  # port 0 is the same port again
    assert "FDSTORE=1" not in [line for line in manager.said if "probe" in line]


def test_a_restart_keeps_them_too(manage):
    manager = manage()
    where = address(manager)
    manager.process.terminate()
    assert manager.process.wait(60) == 0
    waiting = socket.create_connection(("127.0.0.1", int(where.rpartition(":")[2])))
    waiting.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    manager.start({})
    manager.wait_ready()
    assert waiting.makefile("rb").readline().startswith(b"HTTP/1.1 200")
    waiting.close()


def test_what_is_configured_no_more_is_dropped(manage, short_path):
    manager = manage()
    (short_path / "procman.toml").write_text(CONFIGURATION.format('"127.0.0.1:0"'))
    kill(manager)
    manager.start({})
    manager.wait_ready()
    wait_until(lambda: set(manager.stored) == {"procman.http=127.0.0.1%3A0"}, "the other one to be dropped")


def test_a_reload_that_changes_the_addresses_changes_the_store(manage, short_path):
    manager = manage()
    (short_path / "procman.toml").write_text(CONFIGURATION.format('["127.0.0.1:0", "unix:other.sock"]'))
    assert Procmand.procmanctl(_Named(manager), "reload").returncode == 0
    expected = {"procman.http=127.0.0.1%3A0", f"procman.=unix%3A{short_path}/other.sock"}
    wait_until(lambda: set(manager.stored) == expected, "the store to follow")


def test_an_upgrade_leaves_the_store_alone(manage):
    manager = manage()
    where, stored = address(manager), dict(manager.stored)
    assert Procmand.procmanctl(_Named(manager), "upgrade").returncode == 0
    assert manager.stored == stored
    kill(manager)
    manager.start({})
    manager.wait_ready()
    assert address(manager) == where
    assert get(where)[0] == 200


def test_a_manager_without_a_store_is_noticed_and_orphans_give_their_addresses_up(manage):
    manager = manage(keeps=False)
    where = address(manager)
    assert manager.stored == {}
    kill(manager)
    wait_until(lambda: _refused(where), "the orphans to give up the address")


def _refused(where):
    host, _, port = where.rpartition(":")
    with socket.socket() as sock:
        return sock.connect_ex((host, int(port))) != 0


def test_sockets_of_activation_survive_kills_and_upgrades(manage):
    listening = socket.create_server(("127.0.0.1", 0))
    where = f"127.0.0.1:{listening.getsockname()[1]}"
    manager = manage('"fd:web"', sockets={"web": listening})
    with Traffic(where, keep_alive=False) as traffic:
        traffic.wait_for(20)
        done = Procmand.procmanctl(_Named(manager), "upgrade")
        assert done.returncode == 0, done
        assert Procmand.procmanctl(_Named(manager), "reload").returncode == 0
        traffic.wait_for(20)
        kill(manager)
        manager.start({})
        manager.wait_ready()
        traffic.wait_for(20)
    assert [one for one in traffic.lost if "refused" in one.lower()] == []
    listening.close()


class _Named:
    def __init__(self, manager):
        self.file = manager.directory / "procman.toml"
