"""The type of what is trusted to tell of its clients: a proxy's address, a network of proxies, unix sockets."""

from __future__ import annotations

import ipaddress

from procman.config.problems import Code, quoted
from procman.config.values import Given, Type, toml_string

UNIX = "unix"


class TrustedProxy(Type[str]):
    """An address or a network, in its usual form; or ``unix``, for whoever comes by a unix socket."""

    expected = 'an address such as "127.0.0.1", a network such as "10.0.0.0/8", or "unix"'

    def read(self, given: Given) -> str:
        value = given.value
        if not isinstance(value, str):
            raise given.unexpected(Code.ADDRESS, self.expected)
        if value == UNIX:
            return UNIX
        try:
            network = ipaddress.ip_network(value, strict=False)
        except ValueError:
            raise given.unexpected(Code.ADDRESS, self.expected, _meant(value)) from None
        if "/" in value and str(network.network_address) != str(ipaddress.ip_address(value.partition("/")[0])):
            # Whoever writes 10.0.0.1/8 means one of two things that differ by 16 million addresses.
            raise given.unexpected(Code.ADDRESS, self.expected, f"; did you mean {quoted(str(network))}?")
        return str(network) if "/" in value else str(network.network_address)

    def write(self, value: str) -> str:
        return toml_string(value)


def _meant(value: str) -> str:
    if value in ("*", "all", "any"):
        return '; did you mean ["0.0.0.0/0", "::/0", "unix"]? Then every client can say who it is'
    if value == "localhost":
        return '; did you mean ["127.0.0.1", "::1"]?'
    if value.startswith(("unix:", "/")):
        return '; did you mean "unix"?'
    return ""


def trusts_loopback(proxies: tuple[str, ...]) -> bool:
    """Whether a process of this machine that comes by TCP is taken for a proxy."""
    networks = [ipaddress.ip_network(one) for one in proxies if one != UNIX]
    return any(ipaddress.ip_address(address) in network for network in networks for address in ("127.0.0.1", "::1"))
