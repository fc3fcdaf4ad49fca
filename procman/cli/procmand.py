"""``procmand``: read the configuration, then run the daemon, or only say what is wrong with it or what it comes to."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from procman import config
from procman.errors import ConfigurationError
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
@click.version_option(__version__, prog_name="procmand", message="%(prog)s %(version)s")
def main(explicit: str | None, check: bool, print_config: bool) -> NoReturn:
    """Run the pools of workers that the configuration describes, and keep them running."""
    try:
        path = config.find(explicit, os.environ)
        spec = config.check(path, os.environ) if check else config.read(path, os.environ)
    except ConfigurationError as error:
        click.echo(str(error), err=True)
        sys.exit(CONFIGURATION_EXIT)
    if print_config:
        click.echo(config.render(spec), nl=False)
    elif check:
        pools = len(spec.pools)
        click.echo(f"{path}: ok ({pools} {'pool' if pools == 1 else 'pools'})")
    if check or print_config:
        sys.exit(0)
    # Not before: checking a file needs nothing of what running it needs.
    from procman.daemon.main import run

    sys.exit(run(spec))
