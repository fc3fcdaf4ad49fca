"""Which database a request is for, where a pool serves several: `database_from`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from procman.errors import NoDatabase
from procman.workers.application import load

if TYPE_CHECKING:
    from collections.abc import Callable

    Resolver = Callable[[dict[str, Any]], str | None]

KEY = "procman.database"  # in the environ of the application


def resolver(rule: str | None) -> Resolver | None:
    """What tells of an environ which database it is for: its name, None for the main one.

    ``rule`` as in the configuration. The result raises NoDatabase when a host is no one database's.
    """
    if rule is None:
        return None
    kind, _, argument = rule.partition(":")
    match kind:
        case "header":
            key = f"HTTP_{argument.upper().replace('-', '_')}"
            return lambda environ: environ.get(key) or None
        case "host":
            return lambda environ: of_host(argument, environ.get("HTTP_HOST", ""), _names())
        case _:
            found: Resolver = load(rule)
            return found


def of_host(pattern: str, host: str, names: tuple[str, ...]) -> str:
    """The one database whose name the pattern matches from its beginning, as Odoo's ``dbfilter`` does.

    ``%h`` stands for the host, ``%d`` for its first label after a "www.". Raises NoDatabase for none and for several.
    """
    host = host if host.endswith("]") else host.rpartition(":")[0] or host
    host = host.lower()
    label = host.removeprefix("www.").partition(".")[0]
    expression = re.compile(pattern.replace("%h", re.escape(host)).replace("%d", re.escape(label)))
    found = [name for name in names if expression.match(name)]
    if len(found) != 1:
        raise NoDatabase(f"{len(found) or 'no'} databases are for host {host!r}: {pattern!r}")
    return found[0]


def _names() -> tuple[str, ...]:
    from procman import signaling

    return signaling.databases()
