"""Arguments that name pools, workers or operations: for the shell's completion the daemon is asked which there are.

Whoever presses the tab key waits, so the daemon has 200 ms; without an answer there are no suggestions, and nothing
is said about it, because it would stand in the middle of what is being typed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from procman.cli.settings import Settings
from procman.errors import ProcmanError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from click.shell_completion import CompletionItem

BUDGET = 0.2  # seconds
SOON = 1.0  # for who has said which command, and waits for more than a name


class Name(click.ParamType[str]):
    """Any text: whether there is such a one the daemon says when it carries out the command."""

    name = "text"

    def __init__(self, command: str, names: Callable[[Mapping[str, Any]], Iterable[tuple[str, str]]]) -> None:
        self._command = command
        self._names = names

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        try:
            # The options that stand on the line already have been read.
            reply = ctx.ensure_object(Settings).ask_quickly(self._command, BUDGET)
        except ProcmanError:
            return []
        names = [CompletionItem(name, help=doc) for name, doc in self._names(reply)]
        given = ctx.params.get(param.name or "") or ()
        return [one for one in names if one.value.startswith(incomplete) and one.value not in given]


def _pools(reply: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for name, pool in reply["pools"].items():
        yield name, f"{pool['kind']}, {pool['state']}"


def _workers(reply: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for pool in reply["pools"].values():
        for worker in pool["workers"]:
            yield worker["name"], f"{worker['state']}, pid {worker['pid']}"


def _targets(reply: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    yield from _pools(reply)
    yield from _workers(reply)


def _operations(reply: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for one in reversed(reply["operations"]):
        yield one["operation"], one["state"]


def figures(settings: Settings) -> Mapping[str, Any]:
    """What the daemon's pools say, when it answers soon."""
    try:
        return settings.ask_quickly("stats", SOON)
    except ProcmanError:
        return {"pools": {}}


def channels_of(reply: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """The channels that job runners know, and what is going on there."""
    for pool in reply["pools"].values():
        for name, channel in ((pool.get("jobs") or {}).get("channels") or {}).items():
            yield name, f"{channel['running']} running, {channel['waiting']} waiting"


POOLS = Name("stats", _pools)
WORKERS = Name("stats", _workers)
TARGETS = Name("stats", _targets)
OPERATIONS = Name("operations", _operations)
CHANNELS = Name("stats", channels_of)
