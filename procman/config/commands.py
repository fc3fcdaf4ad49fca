"""Types of values about commands: when one is ready, where its output goes, what sockets it gets, its hooks."""

from __future__ import annotations

from typing import Any

from procman.config.addresses import ListenAddress, absolute, is_socket_name
from procman.config.problems import Code, Problem, Wrong, quoted, suggestion
from procman.config.values import Duration, Given, Text, Type, Word, toml_string
from procman.config.words import Command
from procman.core.command import INHERIT, LOG, NULL
from procman.core.spec import ALIVE, NOTIFY, Address, Probe, ProbeKind
from procman.core.target import target

_KINDS = tuple(kind.value for kind in ProbeKind)


class HookCommand(Type[tuple[str, ...]]):
    """A command, or an empty list: none."""

    expected = 'a list such as ["sh", "-c", "…"]'
    _command = Command()

    def read(self, given: Given) -> tuple[str, ...]:
        return () if given.value == [] else self._command.read(given)

    def write(self, value: tuple[str, ...]) -> str:
        return self._command.write(value)


class Ready(Type[str | Probe]):
    """When an executed command counts as ready: a word, or a table that makes a probe."""

    expected = '"alive", "notify", or a probe: { http = "URL" }, { tcp = "ADDRESS" } or { command = […] }'
    _word = Word((ALIVE, NOTIFY), str)

    def read(self, given: Given) -> str | Probe:
        if isinstance(given.value, str):
            return self._word.read(given)
        if not isinstance(given.value, dict):
            raise given.unexpected(Code.WRONG_TYPE, self.expected)
        known = (*_KINDS, "interval", "timeout")
        unknown = [
            Problem(Code.UNKNOWN_KEY, (*given.path, name), f"unknown key{suggestion(name, known)}", at_key=True)
            for name in given.value
            if name not in known
        ]
        if unknown:
            raise Wrong(*unknown)
        kinds = [kind for kind in ProbeKind if kind.value in given.value]
        if len(kinds) != 1:
            raise given.wrong(Code.CONTRADICTION, f"expected one of http, tcp and command, got {len(kinds)} of them")
        return self._probe(given, kinds[0])

    def _probe(self, given: Given, kind: ProbeKind) -> Probe:
        item = given.item(kind.value, given.value[kind.value])
        words = Command().read(item) if kind is ProbeKind.COMMAND else (Text().read(item),)
        if kind is ProbeKind.TCP and words[0].startswith("unix:"):
            words = (f"unix:{absolute(words[0].removeprefix('unix:'), given.base)}",)
        times = {
            name: Duration().read(given.item(name, given.value[name]))
            for name in ("interval", "timeout")
            if name in given.value
        }
        probe = Probe(kind=kind, target=words, **times)
        if kind is not ProbeKind.COMMAND:
            try:
                target(probe, 1)
            except ValueError as error:
                raise item.wrong(Code.ADDRESS, f"{quoted(words[0])}: {error}") from None
        return probe

    def write(self, value: str | Probe) -> str:
        if isinstance(value, str):
            return quoted(value)
        command = value.kind is ProbeKind.COMMAND
        asked = Command().write(value.target) if command else toml_string(value.target[0])
        seconds = Duration()
        return (
            f"{{ {value.kind} = {asked}, "
            f"interval = {seconds.write(value.interval)}, timeout = {seconds.write(value.timeout)} }}"
        )


class Output(Type[str]):
    """Where the output goes: a word, or the path of a file."""

    expected = '"inherit", "null", "log" or the path of a file'

    def read(self, given: Given) -> str:
        text = Text(self.expected).read(given)
        return text if text in (INHERIT, NULL, LOG) else absolute(text, given.base)

    def write(self, value: str) -> str:
        return toml_string(value)


class Sockets(Type[tuple[tuple[str, Address], ...]]):
    """Listening sockets by name, in the order in which they are passed."""

    expected = 'a table such as { web = "127.0.0.1:8000" }'

    def read(self, given: Given) -> tuple[tuple[str, Address], ...]:
        if not isinstance(given.value, dict):
            raise given.unexpected(Code.WRONG_TYPE, self.expected)
        pairs: list[tuple[str, Address]] = []
        problems: list[Problem] = []
        for name, value in given.value.items():
            item = given.item(name, value)
            if not is_socket_name(name):
                message = f"the name of a socket is printable ASCII without colons and spaces, got {quoted(name)}"
                problems.append(Problem(Code.NAME, item.path, message, at_key=True))
                continue
            try:
                pairs.append((name, ListenAddress().read(item)))
            except Wrong as wrong:
                problems += wrong.problems
        if problems:
            raise Wrong(*problems)
        return tuple(pairs)

    def write(self, value: tuple[tuple[str, Any], ...]) -> str:
        pairs = [f"{toml_string(name)} = {ListenAddress().write(address)}" for name, address in value]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
