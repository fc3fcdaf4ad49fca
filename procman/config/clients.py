"""Types of values about who may connect over tcp: files of keys, and clients with their public keys and roles."""

from __future__ import annotations

import os
import re

from procman.config import keyfiles
from procman.config.problems import Code, Problem, Wrong, quoted, suggestion
from procman.config.values import Given, Text, Type, member_of, toml_string
from procman.core.spec import ClientSpec, Role
from procman.errors import ConfigurationError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")


class KeyFile(Type[str]):
    """A file with the daemon's CURVE keys: the path; whether it can be used is found out here."""

    expected = "the path of a file that `procmanctl keys` has made"

    def read(self, given: Given) -> str:
        path = os.path.normpath(os.path.join(given.base, Text(self.expected).read(given)))
        try:
            keyfiles.read(path)
        except ConfigurationError as error:
            raise given.wrong(Code.KEYS, str(error)) from None
        return path

    def write(self, value: str) -> str:
        return toml_string(value)


class Clients(Type[tuple[ClientSpec, ...]]):
    """Who may connect over tcp: a table of tables."""

    expected = 'a table such as { alice = { key = "PUBLIC KEY", role = "full" } }'
    _roles = member_of(Role)

    def read(self, given: Given) -> tuple[ClientSpec, ...]:
        if not isinstance(given.value, dict):
            raise given.unexpected(Code.WRONG_TYPE, self.expected)
        clients: list[ClientSpec] = []
        problems: list[Problem] = []
        for name, value in given.value.items():
            try:
                client = self._one(name, given.item(name, value))
                if (other := next((one for one in clients if one.key == client.key), None)) is not None:
                    message = f"this is the key of {quoted(other.name)}, too; expected one for each"
                    raise Wrong(Problem(Code.KEYS, (*given.path, name, "key"), message))
                clients.append(client)
            except Wrong as wrong:
                problems += wrong.problems
        if problems:
            raise Wrong(*problems)
        return tuple(clients)

    def _one(self, name: str, given: Given) -> ClientSpec:
        if not _NAME.fullmatch(name):
            expected = "the name of a client: a letter, then at most 31 letters, digits, - or _"
            raise Wrong(Problem(Code.NAME, given.path, f"expected {expected}, got {quoted(name)}", at_key=True))
        if not isinstance(given.value, dict):
            # Not shown, nor below: it may be a secret that was taken for a public key.
            raise given.wrong(Code.WRONG_TYPE, 'expected a table such as { key = "PUBLIC KEY", role = "read-only" }')
        for other in given.value:
            if other not in ("key", "role"):
                message = f"unknown key{suggestion(other, ('key', 'role'))}"
                raise Wrong(Problem(Code.UNKNOWN_KEY, (*given.path, other), message, at_key=True))
        if "key" not in given.value:
            raise given.wrong(Code.MISSING_KEY, "key is missing: expected the public key of the client")
        key = given.item("key", given.value["key"])
        if not isinstance(key.value, str) or not keyfiles.is_key(key.value):
            raise key.wrong(Code.KEYS, f"expected a public key of {keyfiles.KEY_LENGTH} characters of Z85")
        role = self._roles.read(given.item("role", given.value.get("role", Role.READ_ONLY.value)))
        return ClientSpec(name=name, key=str(key.value), role=role)

    def write(self, value: tuple[ClientSpec, ...]) -> str:
        each = [
            f"{one.name} = {{ key = {toml_string(one.key)}, role = {self._roles.write(one.role)} }}" for one in value
        ]
        return f"{{ {', '.join(each)} }}" if each else "{}"
