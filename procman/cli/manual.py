"""``python -m procman.cli.manual docs/man``: the manual pages, made from the commands and the tables of keys.

They are written in the man macros (groff_man(7)), of which a dozen are enough. procmand(8), procmanctl(1) and
procman.toml(5) say the same as docs/cli.md and docs/configuration.md, from the same sources.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from procman.cli import procmanctl, procmand
from procman.config.keys import KINDS, TABLES
from procman.config.problems import Code
from procman.config.reference import default_of, kinds_of
from procman.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from procman.config.keys import Key, Table

SIGNALS = (
    ("INT", "Stop gracefully: every unit finishes within its own limits."),
    ("TERM", "Stop within `stop_timeout`: what is not finished by then is ended, after its stacks were taken."),
    ("INT or TERM, a second time", "Stop now."),
    ("HUP", "Read the configuration again, apply the difference and reload every pool, as `procmanctl reload` does."),
    ("QUIT", "The stacks of every worker into the log."),
    ("USR1", "The statistics of the caches of every worker into the log."),
    ("USR2", "Execute the daemon anew in place, as `procmanctl upgrade` does; every worker is kept."),
    ("TTIN, TTOU", "One worker more, one fewer in every http pool."),
    ("WINCH", "Drain the machine: the workers of every http pool finish what they have and go."),
)
EXIT_CODES = (
    ("0", "It is done."),
    (
        "1",
        "The operation failed; what became of it is printed, with the traceback of code that can't be loaded.",
    ),
    ("2", "The command line can't be understood."),
    ("3", "The daemon can't be reached."),
    ("4", "There was no answer in time."),
    ("5", "The daemon refuses."),
    ("78", "The configuration is wrong; every problem is printed with its place."),
)
ENVIRONMENT = (
    ("PROCMAN_CONFIG", "The configuration file."),
    ("PROCMAN_ENDPOINT", "Where the daemon's control socket is (procmanctl)."),
    ("PROCMAN_KEYS", "The file of the client's keys, for a `tcp://` endpoint (procmanctl)."),
    ("PROCMAN_DATABASE_URL", "Overrides `[database] url` (procmand)."),
    ("NO_COLOR", "When it is not empty, nothing is coloured (procmanctl)."),
)
FILES = (
    ("./procman.toml", "The configuration, when it is not named otherwise."),
    ("/etc/procman/procman.toml", "The configuration, when there is none in the working directory."),
    ("var/", "State beside the configuration: the sockets, the scoreboard, the embedded database."),
)


def pages() -> dict[str, str]:
    """The text of each page by the name of its file."""
    return {
        "procmand.8": _page("procmand", 8, "process manager for Python applications", _daemon()),
        "procmanctl.1": _page("procmanctl", 1, "steer a procmand", _control()),
        "procman.toml.5": _page("procman.toml", 5, "configuration of procmand", _configuration()),
    }


def _page(name: str, section: int, what: str, body: Iterator[str]) -> str:
    head = [
        '.\\" Made by python -m procman.cli.manual; do not edit.',
        f'.TH {name.upper()} {section} "" "procman {__version__}" "procman"',
        ".SH NAME",
        f"{name} \\- {what}",
    ]
    return "\n".join([*head, *body]) + "\n"


# -- the pages --------------------------------------------------------------------------------------------


def _daemon() -> Iterator[str]:
    command = procmand.main
    yield from _synopsis(command, "procmand")
    yield ".SH DESCRIPTION"
    yield from _prose(inspect.cleandoc(command.help or ""))
    yield ".SH OPTIONS"
    yield from _options(command)
    yield ".SH SIGNALS"
    yield from _items(SIGNALS)
    yield ".SH EXIT STATUS"
    yield from _items(
        [EXIT_CODES[0], ("1", "It could not start, or an `essential` pool was given up."), EXIT_CODES[-1]]
    )
    yield from _end((ENVIRONMENT[0], ENVIRONMENT[3]), "procmanctl(1), procman.toml(5)")


def _control() -> Iterator[str]:
    group = procmanctl.main
    context = click.Context(group, info_name="procmanctl")
    yield from _synopsis(group, "procmanctl")
    yield ".SH DESCRIPTION"
    yield from _prose(inspect.cleandoc(group.help or ""))
    yield ".SH OPTIONS"
    yield "Every command takes them, before its name or after it."
    yield from _options(group)
    yield ".SH COMMANDS"
    shared = {option for param in group.params for option in param.opts}
    yield from _commands(group, context, shared)
    yield ".SH EXIT STATUS"
    yield from _items(EXIT_CODES)
    yield from _end(ENVIRONMENT[:3] + ENVIRONMENT[4:], "procmand(8), procman.toml(5)")


def _commands(group: click.Group, context: click.Context, shared: set[str]) -> Iterator[str]:
    for word in group.list_commands(context):
        command = group.get_command(context, word)
        if command is None:
            continue
        child = click.Context(command, info_name=word, parent=context)
        if isinstance(command, click.Group):
            yield from _commands(command, child, shared)
            continue
        arguments = " ".join(piece for piece in command.collect_usage_pieces(child) if piece != "[OPTIONS]")
        yield ".SS " + _escape(f"{child.command_path.partition(' ')[2]} {arguments}".rstrip())
        yield from _prose(inspect.cleandoc(command.help or ""))
        yield from _options(command, shared)


def _configuration() -> Iterator[str]:
    yield ".SH DESCRIPTION"
    yield from _prose(
        "One TOML file, in UTF-8. Keys are closed: one that does not exist is an error, with a suggestion; all errors "
        "are reported at once, each with its place and its code.\n\n"
        'A duration is a number of seconds, or `"250ms"`, `"30s"`, `"5m"`, `"2h"`. A size is a number of bytes, or '
        '`"640MiB"`. A path is relative to the directory of the file. `"${NAME}"` and `"${NAME:-default}"` stand for a '
        'variable of the environment; `"$${"` is a literal `${`. A limit that is left out, or `"none"`, does not exist.'
    )
    for table in TABLES:
        yield ".SH " + _escape(f"[{table.title}]")
        yield from _prose(table.doc)
        yield from _items((key.name, _describe(key, table)) for key in table.keys)
    yield ".SH ERRORS"
    yield from _items((code.code, code.meaning) for code in Code)
    yield from _end((ENVIRONMENT[0], ENVIRONMENT[3]), "procmand(8), procmanctl(1)")


def _describe(key: Key, table: Table) -> str:
    default = default_of(key)
    kinds = "" if key.kinds == KINDS or not table.title.startswith("pools") else f" Pools of kind {kinds_of(key)}."
    needed = "Required." if default == "required" else f"Default: {default}."
    return f"{key.doc} Expected: {key.type.expected}. {needed}{kinds}".strip()


def _end(variables: tuple[tuple[str, str], ...], also: str) -> Iterator[str]:
    yield ".SH ENVIRONMENT"
    yield from _items(variables)
    yield ".SH FILES"
    yield from _items(FILES)
    yield ".SH SEE ALSO"
    yield ",\n".join(re.sub(r"([\w.]+)\((\d)\)", r".BR \1 (\2)", one) for one in also.split(", ")).replace(
        ",\n", " ,\n"
    )


# -- roff -------------------------------------------------------------------------------------------------


def _synopsis(command: click.Command, name: str) -> Iterator[str]:
    yield ".SH SYNOPSIS"
    pieces = " ".join(command.collect_usage_pieces(click.Context(command, info_name=name)))
    yield f".B {name}"
    yield _escape(pieces)


def _options(command: click.Command, shared: set[str] | None = None) -> Iterator[str]:
    for option in command.params:
        if isinstance(option, click.Option) and option.opts[0] not in (shared or ()) and not option.hidden:
            spelled = ", ".join([*option.opts, *option.secondary_opts])
            yield from _items([(spelled if option.is_flag else f"{spelled} {option.metavar or ''}", option.help or "")])


def _items(items: Iterator[tuple[str, str]] | list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> Iterator[str]:
    for name, meaning in items:
        yield ".TP"
        yield f".B {_escape(name.strip())}"
        yield _text(meaning)


def _prose(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ".PP"
        yield _text(" ".join(paragraph.split()))


def _text(text: str) -> str:
    """One paragraph, with what Markdown has in backticks in bold, and of a link its words."""
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text)
    parts = re.split(r"`([^`]*)`", text)
    return (
        "".join(f"\\fB{_escape(part)}\\fR" if index % 2 else _escape(part) for index, part in enumerate(parts)) or "\\&"
    )


def _escape(text: str) -> str:
    """Text that means itself: no escapes, no requests at the beginning of a line, hyphens that can be copied."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    text = text.replace("^", "\\(ha").replace("~", "\\(ti").replace('"', "\\(dq")
    text = "".join(one if one.isascii() else f"\\[u{ord(one):04X}]" for one in text)
    return f"\\&{text}" if text.startswith((".", "'")) else text


def main(directory: str) -> None:
    """Write the pages."""
    for name, text in pages().items():
        (Path(directory) / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
