"""Types of values that name a place: listening addresses, control endpoints, URLs, paths."""

from __future__ import annotations

import ipaddress
import os
import re
from urllib.parse import urlsplit

from procman.config.places import LONGEST_SOCKET_PATH
from procman.config.problems import Code
from procman.config.values import Given, Text, Type, toml_string
from procman.core.spec import Address, PassedSocket, TcpAddress, UnixAddress

EMBEDDED = "embedded"

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_SOCKET_NAME = re.compile(r"[!-9;-~]{1,255}")  # sd_listen_fds(3): printable ASCII without ":"
_CONNINFO = re.compile(r"\s*(?:[a-z_]+\s*=\s*(?:'(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)+)\s*)+")


class FilePath(Type[str]):
    """A path; absolute afterwards."""

    def __init__(self, expected: str = "a path") -> None:
        self.expected = expected
        self._text = Text(expected)

    def read(self, given: Given) -> str:
        return absolute(self._text.read(given), given.base)

    def write(self, value: str) -> str:
        return toml_string(value)


def absolute(path: str, base: str) -> str:
    """The path, starting from ``base`` when it is relative, without ``.`` and ``..``."""
    return os.path.normpath(os.path.join(base, path))


def socket_path(given: Given, path: str) -> str:
    """The absolute path of a unix socket; raises `Wrong` when it is too long for the kernel."""
    path = absolute(path, given.base)
    length = len(os.fsencode(path))
    if length > LONGEST_SOCKET_PATH:
        raise given.wrong(
            Code.PATH_TOO_LONG,
            f"expected a path of at most {LONGEST_SOCKET_PATH} bytes for a unix socket, got {length} bytes: {path}",
        )
    return path


class ListenAddress(Type[Address]):
    """Where a pool listens."""

    expected = 'an address such as "127.0.0.1:8069", "[::1]:8069", "unix:PATH" or "fd:NAME"'

    def read(self, given: Given) -> Address:
        value = given.value
        if not isinstance(value, str):
            is_port = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536
            raise given.unexpected(
                Code.ADDRESS, self.expected, f'; did you mean "127.0.0.1:{value}"?' if is_port else ""
            )
        scheme, _, rest = value.partition(":")
        if scheme == "unix":
            return self._unix(given, rest)
        if scheme == "fd":
            if not _SOCKET_NAME.fullmatch(rest):
                raise given.unexpected(Code.ADDRESS, self.expected)
            return PassedSocket(name=rest)
        return self._tcp(given, value)

    def _unix(self, given: Given, path: str) -> UnixAddress:
        if not path or "\0" in path or path.startswith("@"):
            raise given.unexpected(Code.ADDRESS, self.expected)
        return UnixAddress(path=socket_path(given, path))

    def _tcp(self, given: Given, value: str) -> TcpAddress:
        host, colon, port = value.rpartition(":")
        if not colon or not re.fullmatch(r"[0-9]{1,9}", port):
            raise given.unexpected(Code.ADDRESS, self.expected, self._meant(value))
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            valid = is_ip_address(host, 6)
        else:
            valid = is_ip_address(host, 4) if re.fullmatch(r"[0-9.]+", host) else bool(_HOST.fullmatch(host))
        if not valid:
            raise given.unexpected(Code.ADDRESS, self.expected, self._meant(value))
        if int(port) > 65535:
            raise given.unexpected(Code.RANGE, "a port from 0 to 65535")
        return TcpAddress(host=host, port=int(port))

    @staticmethod
    def _meant(value: str) -> str:
        host, _, port = value.rpartition(":")
        number = int(port) if re.fullmatch(r"[0-9]{1,5}", port) and int(port) < 65536 else None
        if value.startswith("/"):
            return f'; did you mean "unix:{value}"?'
        if number is not None and host in ("", "*", "0"):
            meant = f"0.0.0.0:{number}" if host else f"127.0.0.1:{number}"
            return f'; did you mean "{meant}"?'
        if number is not None and is_ip_address(host, 6):
            return f'; did you mean "[{host}]:{number}"?'
        web = re.fullmatch(r"https?://([^/]+:[0-9]+)/?", value)
        return f'; did you mean "{web[1]}"?' if web else ""

    def write(self, value: Address) -> str:
        return toml_string(str(value))


def is_socket_name(name: str) -> bool:
    """The name can stand in LISTEN_FDNAMES."""
    return bool(_SOCKET_NAME.fullmatch(name))


class DashboardAddress(Type[str]):
    """Where the dashboard listens, as `ListenAddress` writes it; empty when there is to be none."""

    expected = f'{ListenAddress.expected}, or "" (off)'

    def read(self, given: Given) -> str:
        if given.value == "":
            return ""
        if isinstance(given.value, list):
            raise given.unexpected(Code.ADDRESS, f"one address, not a list: {self.expected}")
        return str(ListenAddress().read(given))

    def write(self, value: str) -> str:
        return toml_string(value)


def is_ip_address(host: str, version: int) -> bool:
    """The host is a numeric address of that IP version; of version 6 with or without a zone (RFC 4007)."""
    try:
        return ipaddress.ip_address(host).version == version
    except ValueError:
        return False


class Endpoint(Type[str]):
    """A ZeroMQ endpoint: ``ipc://`` and a path, absolute afterwards, or ``tcp://``, a numeric address and a port."""

    def __init__(self, *, tcp: bool = True) -> None:
        self._tcp = tcp
        self.expected = 'an endpoint such as "ipc://var/control.sock"' + (' or "tcp://127.0.0.1:5555"' if tcp else "")

    def read(self, given: Given) -> str:
        value = given.value
        if not isinstance(value, str):
            raise given.unexpected(Code.ENDPOINT, self.expected)
        if value.startswith("tcp://"):
            return self._read_tcp(given, value)
        path = value.removeprefix("ipc://")
        if path == value or not path or "\0" in path:
            meant = f'; did you mean "ipc://{value}"?' if value.startswith(("/", "./", "var/")) else ""
            raise given.unexpected(Code.ENDPOINT, self.expected, meant)
        if path.startswith("@"):
            # unix(7): abstract sockets have no owner and no mode, so everybody on the machine could connect.
            raise given.wrong(Code.ENDPOINT, f"an abstract socket can't be protected; expected {self.expected}")
        return "ipc://" + socket_path(given, path)

    def _read_tcp(self, given: Given, value: str) -> str:
        if not self._tcp:
            message = "over tcp, the role of a client's key says that it only reads ([procman.auth])"
            raise given.wrong(Code.ENDPOINT, f"{message}; expected {self.expected}")
        host, _, port = value.removeprefix("tcp://").rpartition(":")
        version = 6 if host.startswith("[") and host.endswith("]") else 4
        # zmq_tcp(7) binds to numeric addresses and names of interfaces. A name could mean any of several addresses.
        if not is_ip_address(host.strip("[]") if version == 6 else host, version):
            raise given.unexpected(Code.ENDPOINT, f"{self.expected}, with a numeric address")
        if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
            raise given.unexpected(Code.RANGE, "a port from 0 to 65535")
        return str(value)

    def write(self, value: str) -> str:
        return toml_string(value)


class DatabaseUrl(Type[str]):
    """``"embedded"``, or what libpq takes as a connection string (PostgreSQL, chapter 32.1.1)."""

    expected = '"embedded" or a PostgreSQL URI such as "postgresql://user@host/database"'

    def read(self, given: Given) -> str:
        value = given.value
        if not isinstance(value, str):
            raise given.unexpected(Code.URL, self.expected)
        uri = value.startswith(("postgresql://", "postgres://")) and "\0" not in value
        if value == EMBEDDED or uri or _CONNINFO.fullmatch(value):
            return str(value)
        # It may hold a password, and this message goes into logs.
        secret = "@" in value or "password" in value
        raise (
            given.wrong(Code.URL, f"expected {self.expected}") if secret else given.unexpected(Code.URL, self.expected)
        )

    def write(self, value: str) -> str:
        return toml_string(value)


class ListenUrl(DatabaseUrl):
    """A server as libpq understands it; the embedded one has no pooler before it."""

    expected = 'a PostgreSQL URI such as "postgresql://user@host:5432/database"'

    def read(self, given: Given) -> str:
        if given.value == EMBEDDED:
            raise given.unexpected(Code.URL, self.expected)
        return super().read(given)


class HttpUrl(Type[str]):
    """Where the job runner finds a server that is not one of this daemon's pools, and as whom."""

    expected = 'a URL such as "http://host:8069"'

    def read(self, given: Given) -> str:
        value = given.value
        if not isinstance(value, str):
            raise given.unexpected(Code.URL, self.expected)
        try:
            parts = urlsplit(value)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or parts.query or parts.fragment or parts.path not in ("", "/") or not _visible(value):
            raise given.unexpected(Code.URL, self.expected)
        return str(value)

    def write(self, value: str) -> str:
        return toml_string(value)


def _visible(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text
