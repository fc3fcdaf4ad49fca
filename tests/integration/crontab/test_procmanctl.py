"""`procmanctl cron`, the real program, with real workers beside it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

from procman.db.connection import connect, url_for
from procman.db.migrate import migrate
from tests.integration.crontab.harness import until
from tests.support import procmanctl

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.crontab.harness import Gate, Pool

# The keys are promised to programs.
ENTRY = {
    *("database", "name", "schedule", "state", "next_call", "planned", "cause", "priority", "misfire", "jitter"),
    *("timeout", "last_call", "last_seconds", "last_status", "last_worker", "last_error", "failure_count"),
    *("first_failure", "runs", "done", "remaining", "disabled_since", "disabled_reason", "triggers"),
    *("running_since", "running_worker", "running_host", "running_pid"),
}
RUN = {
    *("database", "name", "number", "cause", "planned", "due", "began", "seconds", "outcome", "reason", "worker"),
    *("host", "pid", "done", "remaining", "error", "stacks"),
}


@pytest.fixture
def ctl(pool: Pool, tmp_path: Path) -> Callable[..., Any]:
    """Run procmanctl cron in an empty directory, with the database in its environment."""

    def ctl(*arguments: str, code: int = 0, url: str = pool.url) -> Any:
        done = procmanctl.run(tmp_path, url, "cron", *arguments, code=code)
        if "--json" in arguments:
            return json.loads(done.stdout)
        return done.stdout + done.stderr

    return ctl


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    directory = tmp_path / "orders"
    directory.mkdir()
    return directory


def migrated(url: str) -> None:
    """As a worker leaves it."""
    connection = connect(url)
    migrate(connection)
    connection.close()


def entry(ctl: Callable[..., Any], name: str) -> dict[str, Any]:
    return next(one for one in ctl("list", "--json")["entries"] if one["name"] == name)


def test_a_run_is_asked_for_and_waited_for(pool: Pool, orders: Path, ctl: Callable[..., Any]) -> None:
    pool.start("course", ORDERS=str(orders))
    assert ctl("run", "triggered").startswith("triggered is done, after ")
    document = ctl("run", "yearly", "--json")
    assert set(document) == RUN
    assert (document["outcome"], document["cause"], document["worker"]) == ("done", "trigger", "cron.1")
    (orders / "fail").touch()
    said = ctl("run", "triggered", code=1)
    assert said.startswith("triggered has failed, after ")
    assert "LookupError: as ordered" in said
    (orders / "fail").unlink()
    assert ctl("--help").count("Scheduled work") == 1


def test_what_is_being_run_is_run_once_more(pool: Pool, orders: Path, gate: Gate, ctl: Callable[..., Any]) -> None:
    (orders / "hold").touch()
    worker = pool.start("course", ORDERS=str(orders), GATE=gate.path)
    assert ctl("run", "triggered", "--no-wait") == "triggered is asked to run\n"
    with gate.held():
        shown = entry(ctl, "triggered")
        assert (shown["state"], shown["running_worker"], shown["running_pid"]) == ("running", "cron.1", worker.pid)
        assert "cron.1 on" in ctl("list")
        said = ctl("run", "triggered", "--timeout", "0.3", code=4)
        assert "has not run to its end within 0.3 s" in said
    with gate.held():
        pass
    until(lambda: entry(ctl, "triggered")["runs"] == 2, pool.logs)
    assert entry(ctl, "triggered")["state"] == "waiting"


def test_entries_and_their_history_are_listed(pool: Pool, orders: Path, ctl: Callable[..., Any]) -> None:
    assert "it has no tables of procman's" in ctl("list", code=1)
    migrated(pool.url)
    assert ctl("list") == "There is no cron entry.\n"
    pool.start("course", "failing", ORDERS=str(orders))
    until(lambda: entry(ctl, "failing")["runs"] > 3, pool.logs)
    document = ctl("list", "--json")
    assert document["problems"] == {}
    assert all(set(one) == ENTRY for one in document["entries"])
    lines = ctl("list").splitlines()
    assert lines[0].split() == ["NAME", "STATE", "SCHEDULE", "NEXT", "LAST", "TOOK"]
    yearly = next(line for line in lines if line.startswith("yearly"))
    assert yearly.split()[:6] == ["yearly", "waiting", "0", "0", "1", "1"]
    runs = ctl("history", "failing", "-n", "1000", "--json")["runs"]
    assert all(set(one) == RUN for one in runs)
    assert [run["outcome"] for run in runs[::-1]][:4] == ["failed"] * 3 + ["done"]
    shown = ctl("history", "failing", "-n", "1000")
    assert "LookupError: on purpose" in shown
    assert "Traceback" not in shown
    assert "Traceback" in ctl("history", "failing", "-n", "1000", "--full")
    assert ctl("history", "yearly") == "It has never run, as far as its history goes.\n"


def test_disabled_entries_do_not_run_until_they_are_enabled(pool: Pool, ctl: Callable[..., Any]) -> None:
    pool.start("hourly")
    pool.await_rows("SELECT 1 FROM ran")
    assert "hourly is disabled in t_" in ctl("disable", "hourly")
    assert ctl("disable", "hourly") == "hourly is disabled already\n"
    shown = entry(ctl, "hourly")
    assert (shown["state"], shown["disabled_reason"].startswith("by ")) == ("disabled", True)
    assert "`procmanctl cron enable` has it run again" in ctl("run", "hourly", code=1)
    pool.ask("UPDATE procman.cron SET next_call = now() - interval '90 min', planned = now() - interval '90 min'")
    pool.ask("UPDATE procman.cron SET failure_count = 3, first_failure = now()")
    assert "hourly is enabled in t_" in ctl("enable", "hourly")
    assert ctl("enable", "hourly") == "hourly is enabled already\n"
    # Not at once for what it has missed: at its next time.
    (minutes,) = pool.ask("SELECT round(extract(epoch FROM next_call - now()) / 60)::int FROM procman.cron LIMIT 1")
    assert minutes == 30
    assert entry(ctl, "hourly")["failure_count"] == 0
    assert len(pool.ask("SELECT 1 FROM ran")) == 1


def test_disabling_waits_for_nobody_and_what_runs_goes_on(
    pool: Pool, orders: Path, gate: Gate, ctl: Callable[..., Any]
) -> None:
    (orders / "hold").touch()
    pool.start("course", ORDERS=str(orders), GATE=gate.path)
    ctl("run", "triggered", "--no-wait")
    with gate.held():
        ctl("disable", "triggered")
        ctl("enable", "triggered")
        ctl("disable", "triggered")
    until(lambda: entry(ctl, "triggered")["runs"] == 1, pool.logs)


def test_names_that_are_none(pool: Pool, ctl: Callable[..., Any]) -> None:
    migrated(pool.url)
    said = ctl("run", "hourly", code=1)
    assert "there is no cron entry 'hourly' in database t_" in said
    assert "no cron worker has been there yet" in said
    pool.start("hourly")
    for command in ("run", "history", "enable", "disable"):
        assert ", did you mean 'hourly'?" in ctl(command, "hurly", code=1)
    assert "no database is called 'x'" in ctl("run", "hourly", "--database", "x", code=1)
    assert "Missing argument 'NAME'" in ctl("run", code=2)


def test_several_databases(pool: Pool, tmp_path: Path, ctl: Callable[..., Any]) -> None:
    main = str(psycopg2.extensions.parse_dsn(pool.url)["dbname"])
    other = f"{main}_other"
    pool.ask(f'CREATE DATABASE "{other}" TEMPLATE "{main}"')
    try:
        pool.start("hourly", databases=(other,))
        for url in (pool.url, url_for(pool.url, other)):
            until(lambda url=url: len(pool.ask("SELECT 1 FROM ran", url=url)) == 1, pool.logs)
        configuration = f'[database]\nurl = "{pool.url}"\ndatabases = ["{other}", "missing"]\n'
        (tmp_path / "procman.toml").write_text(configuration)
        document = ctl("list", "--json", code=1)
        assert [one["database"] for one in document["entries"]] == [main, other]
        assert list(document["problems"]) == ["missing"]
        said = ctl("run", "hourly", code=1)
        assert f"'hourly' is in several databases: {main}, {other}; say in which by --database" in said
        ctl("run", "hourly", "--database", other)
        assert len(pool.ask("SELECT 1 FROM ran", url=url_for(pool.url, other))) == 2
        assert len(pool.ask("SELECT 1 FROM ran")) == 1
        assert ctl("disable", "hourly") == f"hourly is disabled in {main}, {other}\n"
    finally:
        pool.close()
        pool.workers.clear()
        pool.ask(f'DROP DATABASE "{other}" WITH (FORCE)')
