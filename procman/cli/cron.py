"""`procmanctl cron`: the entries of the schedule, what became of their runs, and whether they run at all.

The rows of the databases are read and written from here, by the configuration: the daemon has no connection to them.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import click

from procman.cli import cron_text
from procman.cli import database as databases
from procman.cli.control_command import ControlCommand
from procman.errors import ControlError, TimedOut

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from procman.cli.settings import Settings

PATIENCE = 120.0  # seconds for `cron run`
_LOOK_EVERY = 0.1


class CronGroup(click.Group):
    command_class = ControlCommand


@click.group(cls=CronGroup)
def cron() -> None:
    """Scheduled work: what there is, when it is due, what became of it.

    Entries are looked for in all databases of the configuration.
    """


_entry = click.argument("name", metavar="NAME")
_database = click.option("--database", metavar="NAME", help="Only in this database.")


@cron.command(name="list")
@_database
@click.pass_obj
def list_(settings: Settings, database: str | None) -> None:
    """The entries, with their schedule, their next call, and how the last one went."""
    from procman.crontab import report

    with databases.opened(settings.config, os.environ, database) as there:
        found, problems = databases.ask_each(there, report.listing)
    rows = [{"database": name, **entry} for name, entries in found.items() for entry in entries]
    settings.show({"entries": rows, "problems": problems}, cron_text.listing)
    _complain(problems)


@cron.command()
@_entry
@click.option("--limit", "-n", metavar="N", type=click.IntRange(1, 10_000), default=20, help="So many (default: 20).")
@click.option("--full", is_flag=True, help="With tracebacks, and the stacks of runs that were killed.")
@_database
@click.pass_obj
def history(settings: Settings, name: str, limit: int, full: bool, database: str | None) -> None:
    """The last runs of an entry, the latest first."""
    from procman.crontab import report

    with databases.opened(settings.config, os.environ, database) as there:
        chosen = _those_with(name, there)
        found, problems = databases.ask_each(chosen, lambda one: report.history(one, name, limit))
    runs = [{"database": one, **run} for one, runs in found.items() for run in runs]
    runs.sort(key=lambda run: str(run["began"]), reverse=True)
    show = cron_text.history_in_full if full else cron_text.history
    settings.show({"runs": runs[:limit], "problems": problems}, show)
    _complain(problems)


@cron.command()
@_entry
@_database
@click.pass_obj
def run(settings: Settings, name: str, database: str | None) -> None:
    """Have an entry run now, besides its schedule, and wait for the end of that run.

    A worker of a cron pool runs it; when it is being run already, once more after that. The exit code is 1 when the run
    fails. With --no-wait it is only asked for.
    """
    from procman.crontab import report

    with databases.opened(settings.config, os.environ, database) as there:
        chosen = _those_with(name, there)
        if len(chosen) > 1:
            raise ControlError(f"{name!r} is in several databases: {', '.join(chosen)}; say in which by --database")
        (one,) = chosen
        _check_enabled(one, name)
        since = _asked(one, lambda: report.trigger(one, name))
        if not settings.wait:
            settings.show({"database": one, "name": name}, lambda reply: f"{reply['name']} is asked to run")
            return
        patience = PATIENCE if settings.timeout is None else settings.timeout
        deadline = time.monotonic() + patience
        while (done := _asked(one, lambda: report.run_since(one, name, since))) is None:
            if time.monotonic() >= deadline:
                raise TimedOut(
                    f"{name} has not run to its end within {patience:g} s; it is asked for, and `procmanctl cron list` "
                    "says what it does"
                )
            time.sleep(_LOOK_EVERY)
    settings.show({"database": one, **done}, cron_text.outcome)
    if done["outcome"] in ("failed", "killed"):
        click.get_current_context().exit(1)


@cron.command()
@_entry
@_database
@click.pass_obj
def enable(settings: Settings, name: str, database: str | None) -> None:
    """Have an entry run again that was disabled, or deactivated for its failures: from its next regular time on."""
    from procman.crontab import report

    _switch(settings, name, database, lambda one: report.enable(one, name), "enabled", "is enabled already")


@cron.command()
@_entry
@_database
@click.pass_obj
def disable(settings: Settings, name: str, database: str | None) -> None:
    """Have an entry run no more, in all databases, until it is enabled. A run that has begun goes on.

    Triggers are kept until then.
    """
    from procman.crontab import report

    reason = f"by {_user()}"
    _switch(settings, name, database, lambda one: report.disable(one, name, reason), "disabled", "is disabled already")


def _switch(
    settings: Settings, name: str, database: str | None, move: Callable[[str], bool], word: str, already: str
) -> None:
    with databases.opened(settings.config, os.environ, database) as there:
        moved, problems = databases.ask_each(_those_with(name, there), move)
    reply = {"name": name, "databases": [one for one, changed in moved.items() if changed], "problems": problems}

    def text(reply: Mapping[str, Any]) -> str:
        if not reply["databases"]:
            return f"{name} {already}"
        return f"{name} is {word} in {', '.join(reply['databases'])}"

    settings.show(reply, text)
    _complain(problems)


def _those_with(name: str, there: Sequence[str]) -> list[str]:
    """The databases that have the entry. Raises ControlError when none has."""
    from procman.control.protocol import did_you_mean
    from procman.crontab import report

    known, problems = databases.ask_each(there, report.names)
    found = [one for one, names in known.items() if name in names]
    if found:
        return found
    everything = sorted({one for names in known.values() for one in names})
    where = f"database {there[0]}" if len(there) == 1 else f"any of the databases {', '.join(there)}"
    hint = did_you_mean(name, everything)
    if not everything and not problems:
        hint = "; no cron worker has been there yet"
    complaints = "".join(f"\ndatabase {one} could not be asked: {text}" for one, text in problems.items())
    raise ControlError(f"there is no cron entry {name!r} in {where}{hint}{complaints}")


def _check_enabled(database: str, name: str) -> None:
    from procman.crontab import report

    for entry in _asked(database, lambda: report.listing(database, name)):
        if entry["state"] == "disabled":
            raise ControlError(
                f"{name} is disabled ({entry['disabled_reason']}); `procmanctl cron enable` has it run again"
            )


def _asked(database: str, ask: Callable[[], Any]) -> Any:
    answers, problems = databases.ask_each([database], lambda _: ask())
    if problems:
        raise ControlError(problems[database])
    return answers[database]


def _complain(problems: Mapping[str, str]) -> None:
    """Say what could not be asked; the exit code is 1 then. In JSON it has been said."""
    for name, text in problems.items():
        click.echo(f"procmanctl: database {name}: {text}", err=True)
    if problems:
        click.get_current_context().exit(1)


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return f"user {os.getuid()}"
