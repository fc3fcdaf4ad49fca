"""Files of CURVE keys (CurveZMQ, ZeroMQ RFC 26): what is in them, how they are made, and that nobody else reads them.

A file is TOML with ``public_key`` and ``secret_key``, and, for a client, the ``server_key`` of its daemon: 40
characters of Z85 each (ZeroMQ RFC 32).
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field

from procman.errors import ConfigurationError

KEY_LENGTH = 40
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_KEY = re.compile(rf"[{re.escape(_ALPHABET)}]{{{KEY_LENGTH}}}")
_MOST_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """A key pair; ``server`` is the public key of the daemon that a client speaks to, None in a daemon's own file."""

    public: str
    secret: str = field(repr=False)
    server: str | None = None


def is_key(text: str) -> bool:
    """The text is 32 bytes in Z85."""
    if not _KEY.fullmatch(text):
        return False
    values = [_ALPHABET.index(character) for character in text]
    groups = (values[start : start + 5] for start in range(0, KEY_LENGTH, 5))
    return all(_number(group) < 2**32 for group in groups)


def _number(digits: list[int]) -> int:
    number = 0
    for digit in digits:
        number = number * 85 + digit
    return number


def generate(server: str | None = None) -> Keys:
    """A new pair."""
    import zmq

    while True:
        public, secret = (key.decode("ascii") for key in zmq.curve_keypair())
        # Z85 has "$" and "{": where keys are written into a configuration, nothing in them must look like a variable.
        if "${" not in public + secret:
            return Keys(public=public, secret=secret, server=server)


def write(path: str, keys: Keys) -> None:
    """Write a new file, mode 0600. Raises ConfigurationError when it can't be, or when there is one already."""
    lines = ["# CURVE keys for procman. Whoever has the secret key is whom it belongs to: keep it to yourself."]
    lines += [f'public_key = "{keys.public}"', f'secret_key = "{keys.secret}"']
    if keys.server is not None:
        lines.append(f'server_key = "{keys.server}"')
    try:
        # Its mode from the first instant, and never through somebody's link or over an older file.
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    with open(fd, "w", encoding="ascii") as file:
        os.fchmod(fd, 0o600)
        file.write("\n".join(lines) + "\n")


def read(path: str) -> Keys:
    """The keys in the file. Raises ConfigurationError, which never shows what is in it.

    A file that others can read, or that belongs to another user than us or root, is refused.
    """
    text = _private_text(path)
    import tomli
    import zmq

    try:
        table = tomli.loads(text)
    except ValueError:
        raise ConfigurationError(f"{path} is not a file of keys; make one with procmanctl keys") from None
    for name in ("public_key", "secret_key", "server_key"):
        value = table.get(name, None if name == "server_key" else "")
        if value is not None and not (isinstance(value, str) and is_key(value)):
            raise ConfigurationError(f"{path}: {name} is not a key of {KEY_LENGTH} characters of Z85")
    if zmq.curve_public(table["secret_key"].encode("ascii")).decode("ascii") != table["public_key"]:
        raise ConfigurationError(f"{path}: public_key does not belong to secret_key")
    return Keys(public=table["public_key"], secret=table["secret_key"], server=table.get("server_key"))


def _private_text(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ConfigurationError(f"{path} is not a file")
            if found.st_mode & 0o077:
                mode = f"{stat.S_IMODE(found.st_mode):04o}"
                raise ConfigurationError(f"others may use the keys in {path}, its mode is {mode}; expected 0600")
            if found.st_uid not in (0, os.geteuid()):
                raise ConfigurationError(f"{path} belongs to somebody else (uid {found.st_uid})")
            return file.read(_MOST_BYTES)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not a file of keys; make one with procmanctl keys") from None
