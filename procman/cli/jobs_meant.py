"""Which jobs, channels and databases a command of `procmanctl jobs` means: its arguments, and what they find."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from procman.cli import database as databases
from procman.cli import names
from procman.errors import ControlError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from procman.cli.settings import Settings

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


class JobName(click.ParamType[str]):
    """A uuid or the beginning of one."""

    name = "uuid"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).strip().lower()
        if not re.fullmatch(r"[0-9a-f-]*[0-9a-f][0-9a-f-]*", text) or len(text.replace("-", "")) > 32:
            self.fail(f"{value!r} is no uuid, nor the beginning of one", param, ctx)
        return text


class Ago(click.ParamType[float]):
    """``2h``, ``1d``, or a date; as seconds before now."""

    name = "ago"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        if found := re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?) ?([smhdw])", str(value), re.ASCII):
            return float(found[1]) * _UNITS[found[2]]
        try:
            at = datetime.fromisoformat(str(value)).astimezone()
        except ValueError:
            self.fail(
                f"{value!r}: expected for how long, such as 30m, 2h or 7d, or a date such as 2026-11-21", param, ctx
            )
        return max(0.0, (datetime.now().astimezone() - at).total_seconds())


def which_jobs(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which jobs."""
    for option in (
        click.option(
            "--since", metavar="WHEN", type=Ago(), help="Only those made since then: 30m, 2h or 7d ago, or a date."
        ),
        click.option("--function", metavar="TEXT", help="Only those of functions with this in their name."),
        click.option("--channel", metavar="NAME", help="Only those of this channel and of those below it."),
    ):
        command = option(command)
    return command


in_database = click.option("--database", metavar="NAME", help="Only in this database.")
one_job = click.argument("job", metavar="UUID", type=JobName())


def locate(there: Sequence[str], prefix: str) -> tuple[str, str]:
    """(database, uuid) of the only job whose uuid begins so. Raises ControlError."""
    from procman.jobs import report

    answers, problems = databases.ask_each(there, lambda name: report.find(prefix, name))
    found = [(name, uuid) for name, uuids in answers.items() for uuid in uuids]
    if len(found) == 1 and not (problems and len(prefix.replace("-", "")) < 32):
        return found[0]
    complaints = "".join(f"\ndatabase {name} could not be asked: {text}" for name, text in problems.items())
    if not found:
        where = f"database {there[0]}" if len(there) == 1 else "any of the databases " + ", ".join(there)
        raise (databases.NotAsked if problems else ControlError)(f"there is no job {prefix} in {where}{complaints}")
    if len({uuid for _, uuid in found}) == 1 and len(found) > 1:
        where = ", ".join(name for name, _ in found)
        raise ControlError(f"job {found[0][1]} is in several databases: {where}; say in which by --database")
    listed = "\n".join(f"  {uuid}  {name}" for name, uuid in found)
    raise ControlError(f"more than one job begins with {prefix}, say more of it:\n{listed}{complaints}")


def complain(problems: Mapping[str, str]) -> None:
    """Say what could not be asked; the exit code is 1 then. In JSON it has been said."""
    for name, text in problems.items():
        click.echo(f"procmanctl: database {name}: {text}", err=True)
    if problems:
        click.get_current_context().exit(1)


def known_channels(settings: Settings, found: Sequence[str]) -> set[str]:
    """By the job runners of the daemon, if it answers, and by the rows."""
    from procman import signaling
    from procman.jobs import pausing, report

    known = {name for name, _ in names.channels_of(names.figures(settings))}

    def of_rows(name: str) -> None:
        known.update(report.by_channel(name))
        with signaling.lend(name) as connection, connection.cursor() as cr:
            known.update(one["name"] for one in pausing.said(cr))

    databases.ask_each(found, of_rows)
    return known


def hint_at_channel(channel: str, known: set[str]) -> None:
    """Perhaps nothing was found because the name is a slip."""
    from procman.control.protocol import did_you_mean
    from procman.core.channels import full_name

    if full_name(channel) not in known and (hint := did_you_mean(full_name(channel), sorted(known))):
        click.echo(f"procmanctl: no job of a channel {channel!r} is known{hint}", err=True)


def check_channels(meant: Sequence[str], known: set[str], *, hint: str = " (--anyway for one that is to come)") -> None:
    from procman.control.protocol import did_you_mean

    for channel in meant:
        if channel not in known | {"root"}:
            listed = ", ".join(sorted(known | {"root"})[:20])
            likely = did_you_mean(channel, sorted(known)) or f"; there are {listed}"
            raise ControlError(f"nobody knows a channel {channel!r}{likely}{hint}")
