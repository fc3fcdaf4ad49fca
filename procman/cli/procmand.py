"""``procmand``: read the configuration, then run the daemon, or only say what is wrong with it or what it comes to."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from procman import config
from procman.errors import ConfigurationError
from procman.unix import image
from procman.version import __version__

# EX_CONFIG of sysexits.h.
CONFIGURATION_EXIT = 78


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-c",
    "--config",
    "explicit",
    metavar="FILE",
    help="The configuration. Default: $PROCMAN_CONFIG, ./procman.toml, /etc/procman/procman.toml.",
)
@click.option("--check", is_flag=True, help="Validate the configuration without starting anything.")
@click.option("--print-config", is_flag=True, help="Print the effective configuration, with every default, as TOML.")
@click.option("--rehearse", type=int, hidden=True, help="Check, and restore a copy of a running daemon's state.")
@click.version_option(__version__, prog_name="procmand", message="%(prog)s %(version)s")
def main(explicit: str | None, check: bool, print_config: bool, rehearse: int | None) -> NoReturn:
    """Run the pools of workers that the configuration describes, and keep them running.

    Exit codes: 0 stopped as asked, also by a second INT or TERM (so PID 1 of a container ends well); 1 an address or
    the state directory can't be had, or a pool that is `essential` was parked; 2 usage; 78 configuration.
    """
    remains = image.inherited(os.environ)
    if remains is not None and remains[1] == image.GO_ON:
        from procman.daemon.main import go_on

        sys.exit(go_on(remains[0]))
    check = check or rehearse is not None
    try:
        path = config.find(explicit, os.environ)
        spec = config.check(path, os.environ) if check else config.read(path, os.environ)
    except ConfigurationError as error:
        click.echo(str(error), err=True)
        sys.exit(CONFIGURATION_EXIT)
    if print_config:
        click.echo(config.render(spec), nl=False)
    elif rehearse is not None:
        _rehearse(rehearse)
    elif check:
        pools = len(spec.pools)
        click.echo(f"{path}: ok ({pools} {'pool' if pools == 1 else 'pools'})")
    if check or print_config:
        sys.exit(0)
    # Not before: checking a file needs nothing of what running it needs.
    from procman.daemon.main import run
    from procman.daemon.takeover import salvage

    if remains is None:
        sys.exit(run(spec))
    sockets = salvage(image.read_memory(remains[0]))
    image.let_signals_through()
    sys.exit(run(spec, sockets))


def _rehearse(fd: int) -> None:
    # All that a daemon imports is imported: what is missing or broken shows here.
    from procman.core.handover import Unreadable
    from procman.daemon import main as _  # noqa: F401
    from procman.daemon.takeover import rehearse

    try:
        click.echo(rehearse(image.read_memory(fd)))
    except Unreadable as error:
        click.echo(f"procmand {__version__} can't take over: {error}", err=True)
        sys.exit(1)
