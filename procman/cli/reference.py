"""``python -m procman.cli.reference > docs/cli.md``: the reference of the commands, made from the commands."""

from __future__ import annotations

import inspect
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from procman.control.commands import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from procman.control.commands import Command

PROGRAMS = {"procmand": "procman.cli.procmand", "procmanctl": "procman.cli.procmanctl"}

HEAD = """\
# Command line

Made from the commands by `python -m procman.cli.reference > docs/cli.md`; do not edit.
"""

PROTOCOL = """\
## The control protocol

What procmanctl sends, and what any ZeroMQ client may: `{"id": "…", "command": "stats", "properties": {"name": "http"}}`
to the ROUTER at the control endpoint, from a DEALER or a REQ socket. The answer repeats the `id` and has `status`
`"ok"`, or `"error"` with `reason` and `errno`. A command with a `deadline` (seconds since the epoch) that has passed is
not carried out. With `"msg_type": "cast"` there is no answer.
"""


def markdown() -> str:
    """The whole page."""
    lines = [HEAD]
    for name, module in PROGRAMS.items():
        if find_spec(module) is not None:
            lines.extend(_program(name, import_module(module).main))
    lines.append(PROTOCOL)
    for command in COMMANDS.values():
        lines.extend(_message(command))
    return "\n".join(lines).rstrip() + "\n"


def _program(name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=name)
    yield f"## {name}\n"
    yield from _command(command, context)
    if isinstance(command, click.Group):
        yield from _children(command, context, {option for param in command.params for option in param.opts})


def _children(group: click.Group, context: click.Context, shared: Container[str]) -> Iterator[str]:
    for word in group.list_commands(context):
        child = group.get_command(context, word)
        if child is None:
            continue
        within = click.Context(child, info_name=word, parent=context)
        if isinstance(child, click.Group):
            yield from _children(child, within, shared)
        else:
            yield f"### {within.command_path}\n"
            yield from _command(child, within, shared)


def _command(command: click.Command, context: click.Context, shared: Container[str] = ()) -> Iterator[str]:
    yield f"    {context.command_path} {' '.join(command.collect_usage_pieces(context))}\n"
    yield inspect.cleandoc(command.help or "") + "\n"
    options = [
        option
        for option in command.params
        if isinstance(option, click.Option) and option.opts[0] not in shared and not option.hidden
    ]
    if options:
        yield "| option | |\n|---|---|"
        yield from (f"| `{_spelling(option)}` | {_cell(option.help or '')} |" for option in options)
        yield ""


def _spelling(option: click.Option) -> str:
    spelled = ", ".join([*option.opts, *option.secondary_opts])
    return spelled if option.is_flag else f"{spelled} {option.metavar or ''}".rstrip()


def _message(command: Command) -> Iterator[str]:
    yield f"### `{command.name}`\n"
    also = f" Another way to say `{command.means}`." if command.means else ""
    yield f"{command.doc}{also}\n"
    if command.properties:
        yield "| property | value | |\n|---|---|---|"
        for wanted in command.properties:
            only = "".join(f"; only `{str(value).lower()}`" for value in wanted.only[:1]) if wanted.only else ""
            required = " (required)" if wanted.required else ""
            yield f"| `{wanted.name}`{required} | {wanted.form}{only} | {_cell(wanted.doc)} |"
        yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    print(markdown(), end="")
