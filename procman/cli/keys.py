"""`procmanctl keys`: makes a file of keys, and says what the configuration is to have."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import click

from procman.config import keyfiles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")


def make(
    file: str, *, client: str | None, server: str | None, role: str | None
) -> tuple[dict[str, Any], Callable[[Mapping[str, Any]], str]]:
    """What was made, and how it is told to people. Raises click.UsageError and ConfigurationError."""
    if client is None:
        for option, value in (("--server", server), ("--role", role)):
            if value is not None:
                raise click.UsageError(f"{option} is for the keys of a client; give --client NAME, too")
        made = keyfiles.generate()
        keyfiles.write(file, made)
        return {"file": file, "public_key": made.public}, _of_daemon
    if not _NAME.fullmatch(client):
        raise click.BadParameter("expected a letter, then at most 31 letters, digits, - or _", param_hint="--client")
    if server is None:
        raise click.UsageError("a client has to know its daemon: give --server with the daemon's public key")
    made = keyfiles.generate(_public_key(server))
    keyfiles.write(file, made)
    return {"file": file, "client": client, "role": role or "read-only", "public_key": made.public}, _of_client


def _public_key(server: str) -> str:
    if keyfiles.is_key(server):
        return server
    if os.path.exists(server):
        return keyfiles.read(server).public
    length = keyfiles.KEY_LENGTH
    raise click.BadParameter(f"expected a public key of {length} characters of Z85, or a file", param_hint="--server")


def _of_daemon(made: Mapping[str, Any]) -> str:
    return (
        f"The keys are in {made['file']}, which only you can read. In the daemon's configuration:\n\n"
        f'[procman.auth]\nkeys = "{os.path.abspath(made["file"])}"\n\n'
        f"Its clients need its public key (in quotes, because it has signs that mean something to a shell):\n\n"
        f"procmanctl keys NAME.keys --client NAME --server '{made['public_key']}'"
    )


def _of_client(made: Mapping[str, Any]) -> str:
    return (
        f"The keys are in {made['file']}, which only you can read. In the daemon's configuration:\n\n"
        f"[procman.auth.clients]\n"
        f'{made["client"]} = {{ key = "{made["public_key"]}", role = "{made["role"]}" }}'
    )
