"""Cron runs that do not end, that take their workers with them, and that fail for ever: under a real daemon."""

from __future__ import annotations

import os
import signal

import pytest

from procman.db.connection import connect
from tests.support.daemon import Procmand, wait_until

APPLICATION = """
import os
import time
import procman

ORDERS = os.environ["PM_TEST_DIR"]

def ordered(what):
    return os.path.exists(os.path.join(ORDERS, what))

@procman.cron("never", name="sleeps", timeout="700ms")
def sleeps():
    if ordered("long"):
        time.sleep(600)

@procman.cron("never", name="queries", timeout="700ms")
def queries():
    if ordered("long"):
        with procman.cursor() as cr:
            cr.execute("SELECT pg_sleep(600)")

@procman.cron("never", name="stubborn", timeout="700ms")
def stubborn():
    while ordered("long"):
        try:
            time.sleep(600)
        except BaseException:
            pass

@procman.cron("never", name="waits")
def waits():
    while ordered("long"):
        time.sleep(0.05)

@procman.cron("never", name="fails")
def fails():
    raise LookupError("as ever")

@procman.cron(every="1h", name="hourly")
def hourly():
    pass
"""

CONFIGURATION = """
[database]
url = "embedded"

[pools.cron]
kind = "cron"
app = "app"
kill_timeout = "4s"
backoff = { first = 0.01, most = 0.1 }

# Limits far shorter than what a cron worker sleeps.
[pools.idle]
kind = "cron"
app = "idle"
hang_timeout = "500ms"
limits = { time_real = "300ms", time_cpu = "300ms" }
"""

IDLE = """
import procman

@procman.cron("0 0 1 1 *", name="new year")
def new_year():
    pass
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cron")
    with Procmand(directory, CONFIGURATION, modules={"app.py": APPLICATION, "idle.py": IDLE}) as running:
        yield running


@pytest.fixture
def ask(daemon):
    connection = connect(f"host={daemon.directory}/var/postgres-socket port=5432 user=procman dbname=procman")

    def ask(statement, *values):
        with connection.cursor() as cr:
            cr.execute(statement, values)
            return cr.fetchall() if cr.description else []

    yield ask
    connection.close()


@pytest.fixture
def long(daemon):
    order = daemon.directory / "long"
    order.touch()
    yield order
    order.unlink(missing_ok=True)


def trigger(ask, name):
    wait_until(lambda: ask("SELECT 1 FROM procman.cron WHERE name = %s", name), "the entry to be declared")
    ask("INSERT INTO procman.cron_trigger (name, at) VALUES (%s, now())", name)


def history(ask, name):
    return ask(
        "SELECT outcome, reason, coalesce(error, ''), coalesce(stacks, '') FROM procman.cron_run WHERE name = %s "
        "ORDER BY id",
        name,
    )


def running(daemon, name):
    workers = daemon.pool("cron")["workers"]
    return next((worker for worker in workers if worker["unit"] == f"cron {name}"), None)


@pytest.mark.parametrize(("name", "where"), [("sleeps", "time.sleep(600)"), ("queries", "pg_sleep(600)")])
def test_a_run_over_its_own_time_is_ended_and_tried_again(daemon, ask, long, name, where):
    trigger(ask, name)
    wait_until(lambda: history(ask, name), "the run to be ended")
    outcome, reason, error, _ = history(ask, name)[0]
    assert (outcome, reason) == ("failed", "real_time")
    assert where in error
    (seconds,) = ask("SELECT seconds FROM procman.cron_run WHERE name = %s ORDER BY id LIMIT 1", name)[0]
    assert seconds >= 0.7
    assert ask("SELECT 1 FROM pg_stat_activity WHERE query LIKE '%%pg_sleep(600)%%' AND pid <> pg_backend_pid()") == []
    long.unlink()
    wait_until(lambda: history(ask, name)[-1][0] == "done", "the run that can end")


def test_a_run_that_does_not_heed_its_limit_is_killed_and_its_history_shows_where_it_was(daemon, ask, long):
    trigger(ask, "stubborn")
    wait_until(lambda: len(history(ask, "stubborn")) >= 1, "the run to be killed")
    long.unlink()
    wait_until(lambda: history(ask, "stubborn")[-1][0] == "done", "the run that can end")
    wait_until(lambda: history(ask, "stubborn")[0][3], "the stacks")
    outcome, reason, _, stacks = history(ask, "stubborn")[0]
    assert (outcome, reason) == ("killed", "real_time")
    assert "time.sleep(600)" in stacks
    assert "cron stubborn" in stacks


@pytest.mark.parametrize(("signum", "reason"), [(signal.SIGKILL, "killed_by_user"), (signal.SIGSEGV, "crashed")])
def test_the_history_of_a_run_that_somebody_has_killed_says_so(daemon, ask, long, signum, reason):
    ask("DELETE FROM procman.cron_run WHERE name = 'waits'")
    trigger(ask, "waits")
    os.kill(wait_until(lambda: running(daemon, "waits"), "the run")["pid"], signum)
    wait_until(lambda: history(ask, "waits"), "the run to be found dead")
    # Its successor runs it again at once, and hears from the arbiter after that why.
    long.unlink()
    wait_until(lambda: history(ask, "waits")[-1][0] == "done", "the run that can end")
    wait_until(lambda: history(ask, "waits")[0][1] == reason, "the reason")
    assert [outcome for outcome, *_ in history(ask, "waits")] == ["killed", "done"]


def test_everybody_is_told_of_an_entry_that_has_failed_for_a_week(daemon, ask):
    trigger(ask, "fails")
    wait_until(lambda: history(ask, "fails"), "the first failure")
    ask("UPDATE procman.cron SET failure_count = 9, first_failure = now() - interval '8 days' WHERE name = 'fails'")
    wait_until(lambda: ask("SELECT 1 FROM procman.cron_disabled WHERE name = 'fails'"), "the end of its patience")

    def told():
        events = daemon.ctl("events")["events"]
        return [event for event in events if event["topic"].endswith("deactivated")]

    wait_until(told, "the event")
    (event,) = told()
    assert (event["entry"], event["database"], event["pool"]) == ("fails", "procman", "cron")
    assert "Cron fails in database procman is deactivated" in daemon.log


def test_figures_of_the_entries_are_in_stats(daemon, ask):
    def figures():
        return (daemon.pool("cron")["cron"] or {}).get("procman")

    found = wait_until(figures, "the figures")
    # Both applications of the database.
    assert found["entries"] == 7
    assert set(found) == {"entries", "runs", "failing", "disabled", "due", "late"}
    assert found["late"] < 30


def test_a_sleeping_worker_is_never_taken_for_one_that_hangs(daemon):
    """Asked for a sign of life every half second, with limits far shorter than its sleep."""
    before = daemon.pool("idle")["workers"]
    asked = before[0]["uptime"]
    wait_until(lambda: daemon.pool("idle")["workers"][0]["uptime"] > asked + 4, "time to pass")
    after = daemon.pool("idle")["workers"]
    assert [worker["pid"] for worker in after] == [worker["pid"] for worker in before]
