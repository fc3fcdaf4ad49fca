"""Channels that change under a real daemon: the runner stays, and so does all that waits and runs."""

from __future__ import annotations

from pathlib import Path

import psycopg2
import pytest

from tests.support.daemon import Procmand

APPLICATION = """
import os, time
import procman

@procman.job
def hold(name):
    open(f"began.{name}", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)

def application(environ, start_response):
    start_response("200 OK", [])
    return []
"""

CONFIGURATION = """
[database]
url = "{url}"

[pools.http]
kind = "http"
app = "app:application"
bind = "127.0.0.1:0"
workers = 4

[pools.jobrunner]
kind = "jobrunner"
capacity = 10
channels = {channels}
"""


class World:
    def __init__(self, daemon: Procmand, url: str) -> None:
        self.daemon = daemon
        self.url = url
        self.connection = psycopg2.connect(url)
        self.connection.autocommit = True

    def enqueue(self, channel: str, *names: str) -> None:
        with self.connection.cursor() as cr:
            cr.execute(
                "INSERT INTO procman.job (function, args, channel) "
                "SELECT 'app:hold', jsonb_build_array(n), %s FROM unnest(%s) AS n",
                (channel, list(names)),
            )

    def states(self) -> dict[str, int]:
        with self.connection.cursor() as cr:
            cr.execute("SELECT state, count(*) FROM procman.job GROUP BY state")
            return dict(cr.fetchall())

    def wait(self, states: dict[str, int]) -> None:
        self.daemon.wait(lambda: self.states() == states, f"{states} instead of {self.states()}")

    def began(self) -> list[str]:
        return sorted(path.suffix[1:] for path in Path(self.daemon.directory).glob("began.*"))

    def reload(self, channels: str) -> str:
        self.daemon.file.write_text(CONFIGURATION.format(url=self.url, channels=channels))
        run = self.daemon.procmanctl("reload")
        assert run.returncode == 0, run.stderr
        return run.stdout


@pytest.fixture
def world(short_path, database_url):
    text = CONFIGURATION.format(url=database_url, channels="{ root = 4, mail = { paused = true } }")
    with Procmand(short_path, text, modules={"app.py": APPLICATION}) as daemon:
        world = World(daemon, database_url)
        daemon.wait(lambda: "this one starts its jobs" in daemon.log, "the runner")
        yield world
        (Path(daemon.directory) / "go").touch()
        world.connection.close()


def test_new_channels_act_on_what_waits_and_leave_what_runs(world):
    pid = world.daemon.worker("jobrunner.1")["pid"]
    world.enqueue("root", "a")
    world.enqueue("root.mail", "b", "c", "d")
    world.wait({"started": 1, "pending": 3})
    assert "jobrunner: goes on with its new settings" in world.reload('"root:4,mail:1"')
    world.wait({"started": 2, "pending": 2})
    world.reload('{ root = 3, "root.mail" = 3 }')
    world.wait({"started": 3, "pending": 1})
    assert world.began() == ["a", "b", "c"]
    (Path(world.daemon.directory) / "go").touch()
    world.wait({"done": 4})
    assert world.daemon.worker("jobrunner.1")["pid"] == pid


def test_other_settings_of_the_pool_take_a_new_runner_that_loses_nothing(world):
    pid = world.daemon.worker("jobrunner.1")["pid"]
    world.enqueue("root", "a")
    world.enqueue("root.mail", "b")
    world.wait({"started": 1, "pending": 1})
    text = world.daemon.file.read_text().replace("capacity = 10", "capacity = 9")
    world.daemon.file.write_text(text.replace("{ paused = true }", "1"))
    run = world.daemon.procmanctl("reload")
    assert run.returncode == 0, run.stderr
    world.wait({"started": 2})
    assert world.daemon.worker("jobrunner.1")["pid"] != pid
    (Path(world.daemon.directory) / "go").touch()
    world.wait({"done": 2})
