"""What can go wrong during a reload goes wrong, with real processes; nobody who asks the service shall notice."""

from __future__ import annotations

import os
import signal
import subprocess
import threading

import pytest

from tests.support.daemon import Procmand, program
from tests.support.traffic import Traffic
from tests.support.wild import APPLICATION, CONFIGURATION, is_alive, templates


@pytest.fixture
def daemon(short_path):
    # The import of the application lasts as long as the file `held` is there.
    environment = {"HELD_IMPORT": str(short_path / "held")}
    with Procmand(short_path, CONFIGURATION, modules={"app.py": APPLICATION}, env=environment) as running:
        yield running


class Reload:
    """`procmanctl reload` under way."""

    def __init__(self, daemon, *pools):
        command = [program("procmanctl"), "-c", str(daemon.file), "reload", *pools]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end(self):
        """(exit status, what it said)."""
        _, said = self._process.communicate(timeout=60)
        return self._process.returncode, said


def pids(daemon):
    return {worker["pid"] for worker in daemon.pool("http")["workers"]}


def hold_the_import(daemon):
    (daemon.directory / "held").touch()


def let_it_go(daemon):
    (daemon.directory / "held").unlink()


def new_template(daemon, old):
    return daemon.wait(lambda: next(iter(set(templates(daemon)) - {old}), None), "the new template")


def test_a_template_killed_during_its_import_rejects_the_reload(daemon):
    before, (old,) = pids(daemon), templates(daemon)
    with Traffic(daemon.address()) as traffic:
        hold_the_import(daemon)
        reload = Reload(daemon, "http")
        os.kill(new_template(daemon, old), signal.SIGKILL)
        status, said = reload.end()
        traffic.wait_for(20)
    assert traffic.lost == []
    assert status == 1
    assert "signal 9" in said
    assert pids(daemon) == before
    assert templates(daemon) == [old]
    let_it_go(daemon)
    assert Reload(daemon, "http").end()[0] == 0


def test_the_old_template_killed_during_a_reload_costs_nothing(daemon):
    (old,) = templates(daemon)
    with Traffic(daemon.address()) as traffic:
        hold_the_import(daemon)
        reload = Reload(daemon, "http")
        new_template(daemon, old)
        os.kill(old, signal.SIGKILL)
        daemon.wait(lambda: not is_alive(old), "it to die")
        let_it_go(daemon)
        assert reload.end() == (0, "")
        traffic.wait_for(20)
    assert traffic.lost == []
    daemon.wait(lambda: len(templates(daemon)) == 1, "one template to remain")


def test_a_canary_killed_before_it_serves_rejects_the_reload(short_path):
    # Its first deed is to wait: on a pipe that nobody writes to, after the fork and before it serves.
    held = short_path / "held-worker"
    slow = APPLICATION + (
        "\nimport procman.workers.http as http\n"
        "serve = http.serve\n"
        "def slow(child, application):\n"
        f"    while os.path.exists({str(held)!r}):\n"
        "        time.sleep(0.01)\n"
        "    serve(child, application)\n"
        "http.serve = slow\n"
    )
    with Procmand(short_path, CONFIGURATION, modules={"app.py": slow}) as daemon:
        before = pids(daemon)
        held.touch()
        with Traffic(daemon.address()) as traffic:
            reload = Reload(daemon, "http")
            canary = daemon.wait(
                lambda: next((w["pid"] for w in daemon.pool("http")["workers"] if w["generation"] == 2), None),
                "the canary",
            )
            os.kill(canary, signal.SIGKILL)
            status, said = reload.end()
            traffic.wait_for(20)
        assert traffic.lost == []
        assert status == 1
        assert "did not become ready: signal 9" in said
        assert pids(daemon) == before


def test_a_newer_reload_supersedes_the_one_that_is_stuck(daemon):
    (old,) = templates(daemon)
    hold_the_import(daemon)
    first = Reload(daemon, "http")
    stuck = new_template(daemon, old)
    let_it_go_soon = threading.Timer(0.3, let_it_go, [daemon])
    let_it_go_soon.start()
    second = Reload(daemon, "http")
    assert second.end() == (0, "")
    status, said = first.end()
    # The file may go before the second command comes: then the first one has simply been done.
    assert (status, "newer reload" in said) in [(1, True), (0, False)]
    daemon.wait(lambda: not is_alive(stuck) or templates(daemon) == [stuck], "only one template to remain")


def test_the_daemon_stops_in_the_middle_of_a_reload(daemon):
    (old,) = templates(daemon)
    hold_the_import(daemon)
    reload = Reload(daemon, "http")
    new_template(daemon, old)
    assert daemon.stop(signal.SIGTERM) == 0
    status, said = reload.end()
    assert status != 0
    assert "stopping" in said


def test_another_address_is_bound_before_the_old_one_is_given_up(daemon):
    before = daemon.address()
    daemon.file.write_text(CONFIGURATION.replace('"127.0.0.1:0"', f'["unix:{daemon.directory}/web.sock"]'))
    assert Reload(daemon).end() == (0, "")
    assert daemon.pool("http")["listens"] == [f"unix:{daemon.directory}/web.sock"]
    with pytest.raises(ConnectionRefusedError):
        daemon.request_at(before)
    daemon.file.write_text(CONFIGURATION)
    assert Reload(daemon).end() == (0, "")
    assert daemon.request("GET", "/")[0] == 200
    assert not (daemon.directory / "web.sock").exists()


def test_a_rejected_change_of_address_is_taken_back(daemon):
    address = daemon.address()
    daemon.file.write_text(CONFIGURATION.replace('"127.0.0.1:0"', f'["unix:{daemon.directory}/web.sock"]'))
    (daemon.directory / "app.py").write_text("raise RuntimeError('no')")
    assert Reload(daemon).end()[0] == 1
    assert daemon.address() == address
    assert daemon.request("GET", "/")[0] == 200
    assert not (daemon.directory / "web.sock").exists()


def test_a_pool_may_become_one_of_another_kind_and_back(daemon):
    command = '[pools.http]\nkind = "exec"\ncommand = ["sleep", "1000"]\nstart_seconds = 0.1\n'
    for text, kind in ((command, "exec"), (CONFIGURATION, "http"), (command, "exec"), (CONFIGURATION, "http")):
        daemon.file.write_text(text)
        assert Reload(daemon).end() == (0, ""), daemon.log
        assert (daemon.pool("http")["kind"], daemon.pool("http")["state"]) == (kind, "running")
    assert daemon.request("GET", "/")[0] == 200
    assert len(templates(daemon)) == 1


def test_pools_come_and_go_with_the_configuration(daemon):
    other = '[pools.other]\nkind = "exec"\ncommand = ["sleep", "1000"]\nstart_seconds = 0.1\nautostart = {}\n'
    for autostart in ("true", "false"):
        daemon.file.write_text(CONFIGURATION + other.format(autostart))
        assert Reload(daemon).end() == (0, "")
        assert daemon.pool("other")["ready"] == (autostart == "true")
        daemon.file.write_text(CONFIGURATION)
        assert Reload(daemon).end() == (0, "")
        daemon.wait(lambda: list(daemon.ctl("stats")["pools"]) == ["http"], "the other pool to be gone")
