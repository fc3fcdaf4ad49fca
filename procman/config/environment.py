"""Values from the environment: ``"${NAME}"`` and ``"${NAME:-default}"`` in strings, and files of variables.

As in a shell, the default also stands in for a variable that is set but empty. ``$${`` is a literal ``${``.
``${slot}`` and ``${fd:NAME}`` are no variables where a worker has them, and are left alone there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from procman.config.problems import Code, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from procman.config.problems import Path

VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_EXPANSION = re.compile(r"\$\$\{|\$\{(?P<inside>[^}]*)(?P<closed>\}?)")
_INSIDE = re.compile(rf"(?P<name>{VARIABLE_NAME.pattern})(?P<default>:-.*)?", re.DOTALL)


# What is filled in when a worker starts, and stays as it is until then; and the keys of a pool that take it.
_PLACEHOLDER = re.compile(r"(?<!\$)\$\{(?:slot|fd:[^}]*)\}")
_WITH_PLACEHOLDERS = ("command", "hooks", "ready", "stderr", "stdout")


class Expanded(str):
    """A string with something from the environment in it. Numbers and truth values may be read from such a one."""

    __slots__ = ()


class Unknown:
    """In place of a string that could not be expanded: it has been reported, and nothing more is said about it."""


UNKNOWN = Unknown()


class _Unexpandable(Exception):
    """The way out of a substitution."""

    def __init__(self, code: Code, message: str) -> None:
        self.code = code
        self.message = message


def expand_document(value: Any, environ: Mapping[str, str], problems: list[Problem], path: Path = ()) -> Any:
    """The document with every string in it expanded; what can't be is reported and becomes `UNKNOWN`."""
    match value:
        case dict():
            return {key: expand_document(item, environ, problems, (*path, key)) for key, item in value.items()}
        case list():
            return [expand_document(item, environ, problems, (*path, index)) for index, item in enumerate(value)]
        case str():
            try:
                return expand(_PLACEHOLDER.sub(r"$\g<0>", value) if _takes_placeholders(path) else value, environ)
            except _Unexpandable as error:
                problems.append(Problem(error.code, path, error.message))
                return UNKNOWN
        case _:
            return value


def _takes_placeholders(path: Path) -> bool:
    return len(path) > 2 and path[0] == "pools" and path[2] in _WITH_PLACEHOLDERS


def expand(text: str, environ: Mapping[str, str]) -> str:
    """The text with its variables replaced; an `Expanded` when there were any."""
    found = False

    def replace(match: re.Match[str]) -> str:
        nonlocal found
        if match["inside"] is None:
            return "${"
        found = True
        return _replacement(match, environ)

    result = _EXPANSION.sub(replace, text)
    return Expanded(result) if found else result


def escape(text: str) -> str:
    """The text such that `expand` gives it back."""
    return text.replace("${", "$${")


def _replacement(match: re.Match[str], environ: Mapping[str, str]) -> str:
    inside = _INSIDE.fullmatch(match["inside"])
    if inside is None or not match["closed"]:
        raise _Unexpandable(
            Code.BAD_EXPANSION,
            f'expected "${{NAME}}" or "${{NAME:-default}}", got "{match[0]}"; for a literal "${{" write "$${{"',
        )
    name, default = inside["name"], inside["default"]
    value = environ.get(name, "")
    if default is not None and not value:
        return default[2:]
    if name not in environ:
        raise _Unexpandable(
            Code.NO_VARIABLE,
            f'the environment variable {name} is not set; "${{{name}:-default}}" would give it a default',
        )
    if not _is_text(value):
        raise _Unexpandable(Code.NO_VARIABLE, f"the environment variable {name} is not UTF-8")
    return value


def _is_text(value: str) -> bool:
    """False for what came from bytes that are not UTF-8 (PEP 383)."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_env_file(path: str) -> dict[str, str]:
    """The variables of a file: ``NAME=VALUE`` lines as for systemd's EnvironmentFile= (systemd.exec(5)).

    Blank lines and lines that begin with ``#`` or ``;`` are skipped. A value may stand in single or double quotes; in
    double quotes ``\\"``, ``\\\\``, ``\\$`` and ``\\``` are escapes. Nothing is expanded.

    Raises OSError, UnicodeDecodeError, and ValueError that names the line.
    """
    with open(path, encoding="utf-8") as file:
        lines = file.read().split("\n")
    variables = {}
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        name, equals, value = line.partition("=")
        if not equals or not VARIABLE_NAME.fullmatch(name.rstrip()) or "\0" in value:
            raise ValueError(f"line {number}: expected NAME=VALUE")
        variables[name.rstrip()] = _unquoted(value.strip())
    return variables


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == "'":
        return value[1:-1]
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return re.sub(r'\\(["\\$`])', r"\1", value[1:-1])
    return value
