"""procmanctl: ask the daemon, over its control socket, and say by the exit code how it went.

0 ok · 1 the operation failed · 2 usage · 3 daemon not reachable · 4 timed out · 5 refused · 78 configuration

Starting up is most of what a command costs, so what only some commands need is imported where it is needed.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

from procman.cli import names, output
from procman.cli.control_command import CONFIGURATION, ControlCommand, ControlGroup
from procman.cli.cron import cron
from procman.cli.jobs import jobs
from procman.cli.settings import Settings, bare
from procman.errors import ControlError, NotReachable, TimedOut
from procman.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from procman.control.client import Client

READING = 5.0  # seconds: the daemon answers from what it knows
STACKS = 15.0  # every worker is asked, and the stuck ones are given up first
OPERATION = 120.0  # workers start and stop in it


@click.group(cls=ControlGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="procmanctl", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Steer a procmand over its control socket.

    The daemon is found by --endpoint, -c, $PROCMAN_ENDPOINT, $PROCMAN_CONFIG, ./procman.toml or
    /etc/procman/procman.toml, in this order.

    Exit codes: 0 ok, 1 the operation failed, 2 usage, 3 daemon not reachable, 4 timed out, 5 refused,
    78 configuration.
    """
    ctx.ensure_object(Settings)


# -- looking ----------------------------------------------------------------------------------------------


@main.command()
@click.argument("pool", required=False, type=names.POOLS)
@click.pass_obj
def status(settings: Settings, pool: str | None) -> None:
    """State of the daemon and its pools, and the last exits."""
    settings.show(settings.ask("status", READING, name=pool), output.status_text)


@main.command()
@click.argument("target", metavar="[POOL|WORKER]", required=False, type=names.TARGETS)
@click.pass_obj
def stats(settings: Settings, target: str | None) -> None:
    """Figures of every worker: what it does, memory, CPU, requests."""
    reply = settings.ask("stats", READING, name=target, infos=False)
    settings.show({name: reply[name] for name in ("arbiter", "pools") if name in reply}, output.stats_text)


@main.command()
@click.pass_obj
def top(settings: Settings) -> None:
    """A live view: pools, workers, what each is doing and for how long, memory, CPU, requests per second, last exits.

    Keys: q quits; the arrow keys, Page Up and Page Down select a worker; Enter takes its stacks; s and S sort by the
    next or the column before, r reverses; / shows only some pools, by name, kind or state; p pauses.
    """
    from procman.cli import top as view

    if not view.usable():
        raise click.UsageError("top needs a terminal to draw on; `procmanctl stats` prints the same figures once")
    try:
        view.run(lambda: settings.client(READING))
    except KeyboardInterrupt:
        pass


@main.command()
@click.option("--follow", "-f", is_flag=True, help="Go on with the events to come, until interrupted.")
@click.option(
    "--last",
    "-n",
    metavar="N",
    type=click.IntRange(min=0),
    help="Begin with the last N events. Default: 10 with --follow, else all that the daemon keeps (100).",
)
@click.pass_obj
def events(settings: Settings, follow: bool, last: int | None) -> None:
    """What has happened, one line per event, oldest first.

    When events were missed (this program was too slow, or was stopped), a line says how many. With --follow and
    --json, each line is one JSON document. Following ends, with exit code 0, when the daemon ends.
    """
    if follow:
        _follow(settings, 10 if last is None else last)
        return
    reply = settings.ask("events", READING)
    kept = reply["events"]
    reply["events"] = kept if last is None else kept[max(0, len(kept) - last) :]
    settings.show(
        reply, lambda reply: "\n".join(map(output.event_line, reply["events"])) or "Nothing has happened yet."
    )


def _follow(settings: Settings, last: int) -> None:
    from procman.control.subscriber import follow

    with settings.client(READING) as client:
        try:
            for event in follow(client, last):
                # One by one, and flushed by echo: somebody may read them through a pipe.
                click.echo(json.dumps(event) if settings.as_json else output.event_line(event))
        except KeyboardInterrupt:
            return
        click.echo("procmanctl: the daemon has ended", err=True)


@main.command()
@click.argument("targets", metavar="[TARGET]...", nargs=-1, type=names.TARGETS)
@click.pass_obj
def dumpstacks(settings: Settings, targets: tuple[str, ...]) -> None:
    """The Python stacks of every thread of a pool's workers, or of one worker.

    Each worker's are headed by the unit it is in, as Odoo does it: database, user, url, query count, query time
    and Python time. A worker that is stuck inside a C call is shown, too. Without a TARGET: all workers.
    """
    from procman.observe.stacks import worker_text

    def text(reply: Mapping[str, Any]) -> str:
        return "\n\n".join(worker_text(entry) for entry in reply.get("stacks", ())) or "There is no such worker now."

    settings.show(settings.ask("dumpstacks", STACKS, name=targets or None), text)


@main.command()
@click.argument("targets", metavar="[TARGET]...", nargs=-1, type=names.TARGETS)
@click.pass_obj
def cachestats(settings: Settings, targets: tuple[str, ...]) -> None:
    """The statistics of the caches of a pool's workers, or of one worker.

    For each function decorated with @procman.cached: its group, how many results it remembers, hits and misses since
    the worker started, the share of hits, and about how much memory that takes. Without a TARGET: all workers.
    """
    from procman.observe.caches import worker_caches

    def text(reply: Mapping[str, Any]) -> str:
        return "\n\n".join(map(worker_caches, reply.get("workers", ()))) or "There is no such worker now."

    settings.show(settings.ask("cachestats", STACKS, name=targets or None), text)


@main.command()
@click.pass_obj
@click.pass_context
def check(ctx: click.Context, settings: Settings) -> None:
    """Exit with 0 when every pool has the workers it should have, else with 1, saying which has not.

    When all is well and a reload would refuse the configuration file as it is on disk now, the exit code is 78.
    """
    reply = settings.ask("check", READING, configuration=True)
    wrong = reply.get("configuration", ())
    settings.show(reply, lambda reply: "\n".join(map(str, (*reply.get("problems", ()), *wrong))) or "ok")
    ctx.exit(CONFIGURATION if reply.get("ready") and wrong else 0 if reply.get("ready") else 1)


# -- steering ---------------------------------------------------------------------------------------------


def _operate(settings: Settings, command: str, text: Callable[[Mapping[str, Any]], str], **properties: Any) -> None:
    with settings.client(OPERATION) as client:
        try:
            reply = bare(client.call(command, waiting=settings.wait, **properties))
        except TimedOut as error:
            raise TimedOut(f"{error}{_goes_on(client)}") from None
    settings.show(reply, text if settings.wait else _begun)


def _goes_on(client: Client) -> str:
    """What became of the command that was not answered in time: the daemon may have begun with it all the same."""
    deadline = client.last_deadline
    try:
        client.timeout = READING
        operations = client.call("operations")["operations"]
    except ControlError:
        return ""
    ours = [one for one in operations if one["state"] == "running" and one.get("deadline") == deadline]
    if not ours:
        return ""
    operation = ours[-1]["operation"]
    return f"; {operation} goes on: `procmanctl wait {operation}` waits for its end"


def _begun(reply: Mapping[str, Any]) -> str:
    # Nothing but the id: `procmanctl wait $(procmanctl --no-wait reload)`.
    return str(reply.get("operation", "begun"))


@main.command()
@click.argument("pools", metavar="[POOL]...", nargs=-1, type=names.POOLS)
@click.pass_obj
def reload(settings: Settings, pools: tuple[str, ...]) -> None:
    """Replace workers by a new generation with the code as it is on disk now, without losing a request.

    Without POOL the configuration is read again, and each pool does what its part of the difference takes: nothing,
    other limits and numbers at once, a new generation, or another pool. When the file says what it said before, every
    pool is reloaded.

    Returns 0 only when the new generation serves. If it can't be built, the old one goes on serving, the exit code
    is 1 and the traceback is printed.
    """
    _operate(settings, "reload", output.reload_text, name=pools or None)


def _pools_command(name: str, doc: str, done: str) -> None:
    @main.command(name, help=doc)
    @click.argument("pools", metavar="POOL...", nargs=-1, required=True, type=names.POOLS)
    @click.pass_obj
    def command(settings: Settings, pools: tuple[str, ...]) -> None:
        _operate(settings, name, lambda _: "\n".join(f"{pool}: {done}" for pool in pools), name=pools)


_pools_command("start", "Start pools that are stopped or parked.", "started")
_pools_command("stop", "Stop pools; each unit may finish.", "stopped")
_pools_command("restart", "Stop pools, then start them. To change code without a gap, use reload.", "restarted")


class Workers(click.ParamType[dict[str, int]]):
    """``4``, ``+1`` or ``-2``."""

    name = "workers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, int]:
        if isinstance(value, dict):
            return value
        digits = str(value).lstrip("+-")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 7 and len(str(value)) - len(digits) < 2):
            self.fail(f"{value!r} is no number of workers such as 4, +1 or -2", param, ctx)
        return {"count": int(value)} if digits == value else {"by": int(value)}


# Without ignore_unknown_options, -2 would be an option.
@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("pool", type=names.POOLS)
@click.argument("workers", metavar="N|+N|-N", type=Workers())
@click.pass_obj
def scale(settings: Settings, pool: str, workers: dict[str, int]) -> None:
    """Have N workers in a pool, or N more, or N fewer.

    A pool that scales itself (workers = { min, max }) goes on from there; a number outside of its bounds is refused.
    """

    def text(reply: Mapping[str, Any]) -> str:
        return f"{pool}: {output.workers(reply['numprocesses'])}" if "numprocesses" in reply else output.outcomes(reply)

    _operate(settings, "scale", text, name=pool, **workers)


@main.command()
@click.argument("name", metavar="NAME")
@click.argument("target", metavar="TARGET", type=names.TARGETS)
@click.pass_obj
def signal(settings: Settings, name: str, target: str) -> None:
    """Send the signal NAME (such as TERM or 15) to a worker, or to every worker of a pool.

    What it does is the worker's own affair: procman sends it and waits for nothing. TERM and INT: finish the unit and
    go; QUIT: stacks into the log; KILL, and whatever else ends a worker: it is replaced. To end a worker with its
    stacks taken first, there is `kill`; to keep workers from coming back, `stop` or `scale`.
    """
    from procman.control.protocol import did_you_mean, signal_number

    if signal_number(name) is None:
        from signal import Signals

        names = [known.removeprefix("SIG") for known in Signals.__members__]
        raise click.BadParameter(f"there is no signal {name!r}{did_you_mean(name.upper(), names)}", param_hint="NAME")
    reply = settings.ask("signal", READING, name=target, signum=name)
    settings.show(reply, lambda reply: f"sent to {', '.join(reply.get('workers', ())) or 'nobody'}")


@main.command()
@click.argument("worker", type=names.WORKERS)
@click.pass_obj
def kill(settings: Settings, worker: str) -> None:
    """End a worker now, with its unit, after its stacks were taken; it is replaced.

    It takes one worker, such as http.1, never a whole pool: to replace all workers of a pool without losing a
    request use `reload`, to end them and begin anew `restart`.
    """
    if "." not in worker:
        hint = f"kill takes a worker such as {worker}.1; for all workers of a pool there are reload and restart"
        raise click.BadParameter(hint, param_hint="WORKER")

    def text(reply: Mapping[str, Any]) -> str:
        return f"killed {', '.join(reply.get('workers', ())) or 'nobody'}"

    _operate(settings, "kill", text, name=worker, signum="KILL")


@main.command()
@click.argument("operation", type=names.OPERATIONS)
@click.pass_obj
def wait(settings: Settings, operation: str) -> None:
    """Wait for the end of an operation that was begun with --no-wait, and say how it ended.

    The exit code is that of the command itself: 0 when it is done, 1 when it has failed.
    """
    reply = settings.ask("wait", OPERATION, operation=operation)
    settings.show(reply, lambda reply: output.outcomes(reply) or "done")


@main.command()
@click.pass_obj
def operations(settings: Settings) -> None:
    """The operations under way, how far they are, and the last ones that have ended."""
    settings.show(settings.ask("operations", READING), output.operations_text)


@main.command()
@click.pass_obj
def upgrade(settings: Settings) -> None:
    """Have the daemon execute itself anew, in place, as it is installed now: new code, perhaps a new interpreter.

    Every worker, connection, socket and counter is kept. The new version is tried beside the running one first; if it
    can't take over, nothing has happened, the exit code is 1 and what it said is printed. Workers go on with the code
    they have; `reload` replaces them.
    """
    _operate(settings, "upgrade", lambda _: "upgraded")


@main.command()
@click.pass_obj
def shutdown(settings: Settings) -> None:
    """Stop every pool, then the daemon."""
    with settings.client(OPERATION) as client:
        try:
            # Its end can't be told by an answer, only seen: the daemon answers when it has begun.
            reply = bare(client.call("shutdown", waiting=False))
        except NotReachable:
            reply = {}  # it was quicker than its answer
        if settings.wait:
            client.await_end()
    settings.show(reply, (lambda _: "the daemon has ended") if settings.wait else _begun)


@main.command()
@click.argument("groups", metavar="GROUP...", nargs=-1, required=True)
@click.option("--database", metavar="NAME", help="One of [database] databases instead of the main one.")
@click.pass_obj
def invalidate(settings: Settings, groups: tuple[str, ...], database: str | None) -> None:
    """Have everybody compute anew what is cached in these groups (`procman.registry`: load the registry anew).

    This asks the database of the configuration, not the daemon: it reaches every daemon that shares it.
    """
    from procman.cli import database as databases

    try:
        name = databases.invalidate(databases.spec(settings.config, os.environ), database, groups)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="GROUP") from None
    settings.show(
        {"database": name, "groups": list(groups)},
        lambda made: f"invalidated in database {made['database']}: {', '.join(made['groups'])}",
    )


main.add_command(cron)
main.add_command(jobs)


@main.group(cls=click.Group)
def db() -> None:
    """The schema that procman keeps in a database."""


@db.command(cls=ControlCommand)
@click.argument("role", required=False)
@click.pass_obj
def sql(settings: Settings, role: str | None) -> None:
    """Print the SQL that installs procman's schema, for an administrator to run; with the grants for ROLE.

    procman installs and updates its schema by itself wherever its role may.
    """
    from procman.db.migrate import sql as script

    settings.show({"sql": script(role)}, lambda made: str(made["sql"]).rstrip())


@main.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--client", metavar="NAME", help="Make the keys of this client instead of the daemon's.")
@click.option("--server", metavar="KEY", help="The daemon's public key, or its file of keys; a client's file has it.")
@click.option(
    "--role",
    metavar="ROLE",
    type=click.Choice(["full", "read-only"]),
    help="What the client may do: full, or read-only (default).",
)
@click.pass_obj
def keys(settings: Settings, file: str, client: str | None, server: str | None, role: str | None) -> None:
    """Make CURVE keys for control over tcp: a FILE of mode 0600, and what to write into the configuration.

    First, beside the daemon, its own: `procmanctl keys daemon.keys`. Then a file for each client, made where the
    client is: `procmanctl keys alice.keys --client alice --server 'THE DAEMON'S PUBLIC KEY'`. Only public keys travel.
    """
    from procman.cli import keys as making

    settings.show(*making.make(file, client=client, server=server, role=role))


if __name__ == "__main__":
    main()
