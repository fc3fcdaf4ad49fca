"""What every command of procmanctl has: the shared options, and errors that become a word and an exit code."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

from procman.cli import output
from procman.cli.settings import Settings, bare
from procman.control.client import CommandFailed
from procman.errors import ConfigurationError, ControlError

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIGURATION = 78  # EX_CONFIG of sysexits(3)


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None and param.name is not None:
        setattr(ctx.ensure_object(Settings), param.name, value)


def _shared_options() -> list[click.Option]:
    """Fresh ones for each command: `procmanctl --json stats` and `procmanctl stats --json` are the same."""
    options: dict[str, Any] = {"expose_value": False, "callback": _keep, "default": None}
    return [
        click.Option(["-c", "--config", "config"], metavar="FILE", help="The daemon's configuration file.", **options),
        click.Option(
            ["--endpoint"], metavar="EP", help="The daemon's control socket, ipc://PATH or tcp://HOST:PORT.", **options
        ),
        click.Option(["--keys"], metavar="FILE", help="Your keys, for tcp; or $PROCMAN_KEYS.", **options),
        click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON document.", **options),
        click.Option(
            ["--timeout"],
            metavar="S",
            type=click.FloatRange(min=0, min_open=True, max=86400),
            help="Give up after S seconds; the daemon then does not begin with the command any more.",
            **options,
        ),
        click.Option(["--wait/--no-wait", "wait"], help="Wait for the end of the operation (default).", **options),
    ]


class ControlCommand(click.Command):
    """A command with the shared options, whose errors become exit codes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(_shared_options())

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        try:
            return super().invoke(ctx)
        except ConfigurationError as error:
            _report(ctx, str(error), CONFIGURATION)
        except ControlError as error:
            _report(ctx, str(error), error.exit_code, error.reply if isinstance(error, CommandFailed) else {})


def _report(ctx: click.Context, reason: str, code: int, reply: Mapping[str, Any] | None = None) -> None:
    """Say what went wrong and exit. With --json that, too, is a document on the standard output."""
    detail = bare(reply or {})
    if ctx.ensure_object(Settings).as_json:
        click.echo(json.dumps({**detail, "status": "error", "reason": reason, "exit_code": code}))
    elif ends := (output.reload_text if ctx.info_name == "reload" else output.outcomes)(detail):
        click.echo(ends)
    trace = output.tracebacks(detail)
    if trace:
        click.echo(trace, err=True)
    click.echo(f"procmanctl: {reason}", err=True)
    ctx.exit(code)


class ControlGroup(click.Group):
    command_class = ControlCommand

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params[:0] = _shared_options()
