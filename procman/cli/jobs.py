"""`procmanctl jobs`: what became of jobs, and what can be done about them.

The rows of the databases are read and written from here, by the configuration: the daemon has no connection to them. It
is asked for what only its job runners know.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from procman.cli import database as databases
from procman.cli import jobs_text, names
from procman.cli.control_command import ControlCommand
from procman.cli.jobs_meant import (
    JobName,
    check_channels,
    complain,
    hint_at_channel,
    in_database,
    known_channels,
    locate,
    one_job,
    which_jobs,
)
from procman.errors import ConfigurationError, ControlError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from procman.cli.settings import Settings

# As in procman.jobs.report, which takes a database driver to import.
STATES = ("wait_dependencies", "pending", "enqueued", "started", "done", "failed", "cancelled")

READING = 5.0  # seconds: the daemon answers from what it knows, and its runners within two


class JobsGroup(click.Group):
    command_class = ControlCommand


@click.group(cls=JobsGroup)
def jobs() -> None:
    """Background jobs: what there is, what became of it, what it waits for.

    They are looked for in all databases of the configuration. A job is named by its uuid, or by as much of its
    beginning as no other job has.
    """


# -- looking ----------------------------------------------------------------------------------------------


@jobs.command(name="list")
@click.option(
    "--state",
    "states",
    metavar="STATE",
    type=click.Choice(STATES),
    multiple=True,
    help=f"Only those in this state, which may be given several times: {', '.join(STATES)}.",
)
@which_jobs
@click.option(
    "--limit",
    "-n",
    metavar="N",
    type=click.IntRange(1, 100_000),
    default=50,
    help="At most so many of each database, the youngest (default: 50).",
)
@in_database
@click.pass_obj
def list_(settings: Settings, /, database: str | None, limit: int, **which: Any) -> None:
    """The jobs, the youngest first."""
    from procman.jobs import report

    wanted = report.Wanted(**which, limit=limit)
    with databases.opened(settings.config, os.environ, database) as there:
        found, problems = databases.ask_each(there, lambda name: report.listing(wanted, name))
        if wanted.channel is not None and not any(found.values()):
            hint_at_channel(wanted.channel, known_channels(settings, there))
    rows = [{"database": name, **job} for name, jobs in found.items() for job in jobs]
    rows.sort(key=lambda job: str(job["date_created"]), reverse=True)
    settings.show({"jobs": rows, "problems": problems}, jobs_text.listing)
    complain(problems)


@jobs.command()
@one_job
@in_database
@click.pass_obj
def show(settings: Settings, job: str, database: str | None) -> None:
    """All about one job.

    Its progress and result, each attempt with its worker, end and stacks, and its relatives.
    """
    settings.show(_details(settings, job, database), jobs_text.details)


@jobs.command()
@one_job
@in_database
@click.pass_obj
def why(settings: Settings, job: str, database: str | None) -> None:
    """What a job waits for.

    Its time, its turn, a slot of its channel, another job, a worker, the runner. The job runners of the daemon
    are asked, which alone know how full a channel is and who comes first. Where none
    answers, it is told what the rows say.
    """
    from procman.cli import jobs_why

    try:
        reply = _why(settings, job, database)
    except ControlError as error:
        if len(job.replace("-", "")) < 32:
            raise
        # The runner may know it, as it does those of an Odoo; it may reach the database, or say why it does not.
        runners, problem = _ask_runners(settings, job, database)
        reply = jobs_why.from_afar(job, str(error), runners, problem)
        if reply["runner"] is None and not isinstance(error, databases.NotAsked):
            raise
    settings.show(reply, jobs_why.text)


def _why(settings: Settings, job: str, database: str | None) -> dict[str, Any]:
    from procman.cli import jobs_why
    from procman.jobs import report

    with databases.opened(settings.config, os.environ, database) as there:
        name, uuid = locate(there, job)
        answers, problems = databases.ask_each(
            [name], lambda name: (report.details(uuid, name), report.circumstances(name))
        )
        details, circumstances = answers.get(name, (None, {}))
        if details is None and problems:
            raise databases.NotAsked(problems[name])
        if details is None:
            raise ControlError(f"job {uuid} has just been deleted")
        details = {"database": name, **details}
        runners, problem = _ask_runners(settings, uuid, name) if details["state"] == "pending" else ([], None)
        reply = jobs_why.compose(details, circumstances, runners, problem)
        _name_jobs(reply["waits_for"])
    return reply


def _ask_runners(settings: Settings, uuid: str, database: str | None) -> tuple[list[dict[str, Any]], str | None]:
    """What the job runners of the daemon answer, or why they can't be asked."""
    try:
        return settings.ask("jobwhy", READING, uuid=uuid, database=database)["runners"], None
    except (ControlError, ConfigurationError) as error:
        return [], f"the daemon could not be asked: {error}"


def _name_jobs(reasons: Sequence[dict[str, Any]]) -> None:
    """Put uuids and functions in the place of the ids by which runners know jobs."""
    from procman.jobs import report

    others = [other for one in reasons for other in _others(one)]
    for place in {other["database"] for other in others}:
        ids = [other["key"] for other in others if other["database"] == place and isinstance(other["key"], int)]
        found, _ = databases.ask_each([place], lambda name, ids=ids: report.named(ids, name))  # type: ignore[misc]
        for other in others:
            other.update(found.get(place, {}).get(other["key"], {}) if other["database"] == place else {})
    for one in reasons:
        for other in _others(one):
            if "uuid" in other:
                where = f", in {other['worker']}" if other["worker"] else ""
                old = f"{other['key']} of {other['database']}"
                one["text"] = one["text"].replace(old, f"{other['function']} {other['uuid']}{where}")


def _others(reason: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*reason.get("jobs", ()), *reason.get("failed", ()), *([reason["earlier"]] if "earlier" in reason else [])]


@jobs.command()
@click.argument("channels", metavar="[CHANNEL]...", nargs=-1, type=names.CHANNELS)
@in_database
@click.pass_obj
def stats(settings: Settings, channels: tuple[str, ...], database: str | None) -> None:
    """What goes on in the channels.

    Their capacity, how many jobs run, wait and have failed in each, how old the oldest is, how fast it goes.
    The daemon is asked, which has these figures from its job runners, at most a second old. Without it, the
    rows are
    counted: then capacities and speeds are not known.
    """
    from procman.cli import jobs_stats
    from procman.core.channels import full_name

    meant = [full_name(channel) for channel in channels]
    problem = None
    try:
        pools = settings.ask("stats", READING)["pools"]
    except (ControlError, ConfigurationError) as error:
        pools, problem = {}, str(error)
    reply = jobs_stats.of_runners(pools, meant, database)
    if reply is None:
        from procman.jobs import report

        with databases.opened(settings.config, os.environ, database) as there:
            rows, problems = databases.ask_each(there, report.by_channel)
        reply = jobs_stats.of_rows(rows, meant, problems, problem)
    if meant and not reply["channels"]:
        with databases.opened(settings.config, os.environ, database) as there:
            check_channels(meant, known_channels(settings, there), hint="")
    settings.show(reply, jobs_stats.text)
    complain(reply["problems"])


def _details(settings: Settings, prefix: str, database: str | None) -> dict[str, Any]:
    from procman.jobs import report

    with databases.opened(settings.config, os.environ, database) as there:
        name, uuid = locate(there, prefix)
        answers, problems = databases.ask_each([name], lambda name: report.details(uuid, name))
    found = answers.get(name)
    if found is None:
        raise ControlError(problems.get(name, f"job {uuid} has just been deleted"))
    return {"database": name, **found}


# -- steering ---------------------------------------------------------------------------------------------

_jobs = click.argument("jobs", metavar="[UUID]...", nargs=-1, type=JobName())
_all = click.option("--all", "everything", is_flag=True, help="All that the other options leave, instead of UUIDs.")


@jobs.command()
@_jobs
@_all
@which_jobs
@click.option("--done", is_flag=True, help="Also what is done: it is done once more.")
@in_database
@click.pass_obj
def retry(settings: Settings, /, database: str | None, done: bool, **which: Any) -> None:
    """Have failed or cancelled jobs tried again.

    They get all their tries once more. Either these jobs, or with --all every one that failed, of those that
    --channel, --function and --since leave. What
    is tried again by itself, as after the death of a worker, needs no such command.
    """
    from procman.jobs import steering

    def move(cr: Any, uuids: Sequence[str]) -> list[Any]:
        return steering.requeue(cr, uuids, done=done)

    states = ("failed", "done") if done else ("failed",)
    _steer(settings, database, move, states, {**_NOT_RETRIED, **({"done": _TWIN} if done else {})}, **which)


@jobs.command()
@_jobs
@_all
@which_jobs
@click.option("--running", is_flag=True, help="Also what runs: its transaction is ended, so that nothing of it stays.")
@in_database
@click.pass_obj
def cancel(settings: Settings, /, database: str | None, running: bool, **which: Any) -> None:
    """Cancel jobs that wait, or have failed.

    And what waits for them to be done. Either these jobs, or with --all every one that waits, of those that
    --channel, --function and --since leave.
    """
    from procman.jobs import steering

    def move(cr: Any, uuids: Sequence[str]) -> list[Any]:
        try:
            return steering.cancel(cr, uuids, running=running, by=_user())
        except TimeoutError as error:
            raise ControlError(str(error)) from error

    waiting = ("wait_dependencies", "pending", "enqueued")
    _steer(settings, database, move, (*waiting, "started") if running else waiting, _NOT_CANCELLED, **which)


_TWIN = "another job of its identity key waits, which will do the work"
_WAITS = "it waits to be run as it is"
_NOT_RETRIED = {
    "wait_dependencies": _WAITS,
    "pending": _WAITS,
    "enqueued": _WAITS,
    "started": "it runs",
    "done": "it is done; --done has it done once more",
    "failed": _TWIN,
    "cancelled": _TWIN,
}
_NOT_CANCELLED = {
    "started": "it runs; --running ends it",
    "done": "it is done",
    "cancelled": "it is cancelled already",
}
_PORTION = 1000


def _steer(
    settings: Settings,
    database: str | None,
    move: Callable[[Any, Sequence[str]], list[Any]],
    states: Sequence[str],
    reasons: Mapping[str, str],
    *,
    jobs: Sequence[str],
    everything: bool,
    **filters: Any,
) -> None:
    """Move these jobs, or all in ``states`` that the filters leave, and say what became of each."""
    from procman.jobs import report

    _check_choice(jobs, everything, filters)
    moved: list[dict[str, str]] = []
    left: list[dict[str, str]] = []

    def move_in(name: str) -> None:
        if everything:
            these = report.uuids(report.Wanted(**filters, states=states, limit=None), name)
        else:
            these = [uuid for place, uuid in chosen if place == name]
        for start in range(0, len(these), _PORTION):
            moved.extend(_moved(name, these[start : start + _PORTION], move))
        others = [] if everything else [uuid for uuid in these if uuid not in {one["uuid"] for one in moved}]
        for uuid, state in report.states_of(others, name).items():
            left.append({"database": name, "uuid": uuid, "state": state, "reason": reasons.get(state, "it is in use")})

    with databases.opened(settings.config, os.environ, database) as there:
        chosen = [locate(there, prefix) for prefix in jobs]
        _, problems = databases.ask_each(there if everything else {name for name, _ in chosen}, move_in)
    settings.show({"jobs": moved, "left": left, "problems": problems}, jobs_text.moved)
    complain(problems)
    if left:
        click.get_current_context().exit(1)


def _moved(
    name: str, uuids: Sequence[str], move: Callable[[Any, Sequence[str]], list[Any]]
) -> Iterable[dict[str, str]]:
    from procman import signaling

    with signaling.lend(name) as connection, connection.cursor() as cr:
        found = move(cr, uuids)
    return [{"database": name, "uuid": one.uuid, "was": one.was, "state": one.state} for one in found]


def _check_choice(jobs: Sequence[str], everything: bool, filters: Mapping[str, Any]) -> None:
    if not jobs and not everything:
        raise click.UsageError("say which jobs: their UUIDs, or --all")
    if jobs and (everything or any(value is not None for value in filters.values())):
        raise click.UsageError("either UUIDs, or --all with --channel, --function and --since")


# -- channels ---------------------------------------------------------------------------------------------

_channels = click.argument("channels", metavar="CHANNEL...", nargs=-1, required=True, type=names.CHANNELS)
_anyway = click.option("--anyway", is_flag=True, help="Also a channel that nobody knows yet.")


@jobs.command()
@_channels
@_anyway
@in_database
@click.pass_obj
def pause(settings: Settings, channels: tuple[str, ...], anyway: bool, database: str | None) -> None:
    """Pause channels.

    No more jobs of theirs and of those below them are started, until they are resumed; what runs goes on. It is
    kept in the databases: it outlives restarts, and every job runner on every machine obeys it at once.
    """
    _say(settings, channels, database, paused=True, anyway=anyway)


@jobs.command()
@_channels
@_anyway
@in_database
@click.pass_obj
def resume(settings: Settings, channels: tuple[str, ...], anyway: bool, database: str | None) -> None:
    """Go on with paused channels, by `pause` or by the configuration."""
    _say(settings, channels, database, paused=False, anyway=anyway)


def _say(settings: Settings, channels: Sequence[str], database: str | None, *, paused: bool, anyway: bool) -> None:
    from procman import signaling
    from procman.core.channels import full_name
    from procman.jobs import pausing

    meant = [full_name(channel) for channel in channels]
    write = pausing.pause if paused else pausing.resume

    def write_in(name: str) -> None:
        with signaling.lend(name) as connection, connection.cursor() as cr:
            for channel in meant:
                write(cr, channel, _user())

    with databases.opened(settings.config, os.environ, database) as found:
        if not anyway:
            check_channels(meant, known_channels(settings, found))
        written, problems = databases.ask_each(found, write_in)
    reply = {
        "channels": [{"name": channel, "paused": paused} for channel in meant],
        "databases": list(written),
        "problems": problems,
    }
    word = "paused" if paused else "goes on"
    settings.show(reply, lambda reply: "\n".join(f"{one['name']}: {word}" for one in reply["channels"]))
    complain(problems)


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return f"user {os.getuid()}"
