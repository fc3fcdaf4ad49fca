"""What the options that every command of procmanctl has ask for: whom to ask, how long to wait, how to tell.

It knows no command, and nothing of what is answered.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from procman.cli import endpoint as endpoints
from procman.control.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(slots=True)
class Settings:
    """The options that every command has, wherever they stand on the command line."""

    config: str | None = None
    endpoint: str | None = None
    keys: str | None = None
    as_json: bool = False
    timeout: float | None = None
    wait: bool = True

    def client(self, timeout: float) -> Client:
        """A connection to the daemon that is meant; ``timeout`` is the default of the command."""
        return self._connect(timeout if self.timeout is None else self.timeout)

    def ask(self, command: str, timeout: float, **properties: Any) -> dict[str, Any]:
        """One call, without the part of the answer that belongs to the protocol."""
        with self.client(timeout) as client:
            return bare(client.call(command, **properties))

    def ask_quickly(self, command: str, budget: float) -> dict[str, Any]:
        """The same, for completion: within ``budget`` seconds whatever the timeout is."""
        with self._connect(budget) as client:
            return bare(client.call(command))

    def show(self, reply: Mapping[str, Any], text: Callable[[Mapping[str, Any]], str]) -> None:
        """The answer, as JSON or as ``text`` puts it for people."""
        click.echo(json.dumps(reply) if self.as_json else text(reply))

    def _connect(self, timeout: float) -> Client:
        endpoint = endpoints.find(self.endpoint, self.config, os.environ)
        # Only tcp needs keys: on the daemon's own machine no file is read for them.
        tcp = endpoint.startswith("tcp://")
        keys = endpoints.find_keys(self.keys, self.config, os.environ) if tcp else None
        return Client(endpoint, timeout=timeout, keys=keys)


def bare(reply: Mapping[str, Any]) -> dict[str, Any]:
    """The answer without the part that belongs to the protocol."""
    return {name: value for name, value in reply.items() if name not in ("id", "status", "time", "tb")}
