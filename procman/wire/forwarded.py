"""What proxies say about the client: X-Forwarded-For, -Proto, -Host and -Port, or Forwarded (RFC 7239).

Anybody can send these headers, so only what a trusted proxy has written is believed. Each proxy appends to the list,
so the list is read from its end: the first address, from the right, that is not a trusted proxy is the client, and
what stands left of it is the client's own word, which counts for nothing. Where a list can't be read any further
(``unknown``, an obfuscated name), the last address that is known stands for the client.

Proxies as a rule add one of the two families and let the other pass as the client sent it. Therefore a request with
both is refused, unless the configuration says which headers the proxies write; the others are left out then.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

from procman.errors import BadRequest
from procman.wire.authority import is_authority

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

UNIX = "unix"  # stands for whoever comes by a unix socket

FORWARDED = "forwarded"
FOR, PROTO, HOST, PORT = "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"
ALL = frozenset((FORWARDED, FOR, PROTO, HOST, PORT))

REAL_IP = "x-real-ip"
_PREFIX = b"x-forwarded-"

_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_MOST_REMEMBERED = 1024

# RFC 7239 section 4: pairs of one element; a value is a token or a quoted string (RFC 9110 section 5.6.4). Some
# proxies leave out the quotes around an address with a colon or brackets, which can be read in one way only.
_PAIR = re.compile(
    r"""[ \t]*(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)=
    (?:(?P<token>[!#$%&'*+.^_`|~0-9A-Za-z:\[\]-]+)|"(?P<quoted>(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*)")
    [ \t]*(?P<end>[;,]|\Z)""",
    re.VERBOSE,
)
_EMPTY_ELEMENT = re.compile(r"[ \t]*(?:,|\Z)")
_QUOTED, _ESCAPED = re.compile(r'(["\\])'), r"\\\1"
_NODE = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f.]*:[0-9A-Fa-f:.]+)\]|(?P<four>[0-9.]+))(?::(?P<port>[0-9]{1,5}))?")


class _Told(dict[bytes, str]):
    """Header names, as they came, in lower case; to "" those by which no proxy tells of its client."""

    def __missing__(self, name: bytes) -> str:
        lower = name.lower()
        is_told = b"_" not in name and (lower.startswith(_PREFIX) or lower in (b"forwarded", b"x-real-ip"))
        key = lower.decode("latin-1") if is_told else ""
        if len(self) < _MOST_REMEMBERED:
            self[name] = key
        return key


_TOLD = _Told()


def is_told(name: bytes) -> bool:
    """The header is one by which a proxy tells of its client."""
    return bool(_TOLD[name])


def told(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str] | None:
    """These headers by their names in lower case, several of one name joined; None when there are none."""
    found: dict[str, str] = {}
    for name, value in headers:
        if key := _TOLD[name]:
            text = value.decode("latin-1").strip(" \t")
            found[key] = f"{found[key]}, {text}" if key in found else text
    return found or None


class Trust:
    """Whose word is taken: addresses, networks, `UNIX`. Raises ValueError for what is neither."""

    def __init__(self, proxies: Iterable[str]) -> None:
        proxies = tuple(proxies)
        self.unix = UNIX in proxies
        self._networks: list[IPv4Network | IPv6Network] = [ip_network(one) for one in proxies if one != UNIX]
        self._known: dict[str, bool] = {}

    def __bool__(self) -> bool:
        return self.unix or bool(self._networks)

    def __contains__(self, address: str) -> bool:
        """``address`` is that of a peer; empty for one that came by a unix socket."""
        if not address:
            return self.unix
        known = self._known.get(address)
        if known is None:
            known = self._is_in_a_network(address)
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            self._known[address] = known
        return known

    def _is_in_a_network(self, text: str) -> bool:
        try:
            address = ip_address(text.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any(one in network for network in self._networks for one in (address, mapped) if one is not None)


@dataclass(slots=True, kw_only=True)
class Origin:
    """Where a request comes from, as far as proxies say. What they do not say is None.

    ``address`` and ``port`` are the client's; ``scheme`` and ``host`` (with its port, if it has one) are what the
    client asked for. ``headers`` are the ones that were believed, cut down to what was believed of them.
    """

    address: str | None = None
    port: int | None = None
    scheme: str | None = None
    host: str | None = None
    server_port: int | None = None
    headers: tuple[tuple[str, str], ...] = ()


def origin(told: Mapping[str, str], trust: Trust, written: frozenset[str] = ALL) -> Origin:
    """What the trusted peer, and the trusted ones before it, say; raises BadRequest when it can't be understood.

    ``told`` are headers by their names in lower case, several of one name joined with commas. ``written`` are those
    that the proxies write, out of `ALL`; the others are not looked at.
    """
    said = {name: value for name, value in told.items() if name in written}
    if not said:
        return Origin()
    if FORWARDED not in said:
        return _from_x_forwarded(said, trust)
    if len(said) > 1:
        raise BadRequest("both Forwarded and X-Forwarded headers, of which only one can be the proxy's")
    return _from_forwarded(said[FORWARDED], trust)


@lru_cache(maxsize=4096)
def node(text: str) -> tuple[str, int | None] | None:
    """Address and port of ``1.2.3.4``, ``1.2.3.4:80``, ``::1``, ``[::1]`` or ``[::1]:80``; None for all else."""
    match = _NODE.fullmatch(text)
    shown, port = (match["six"] or match["four"], match["port"]) if match else (text, None)
    try:
        address = ip_address(shown)
    except ValueError:
        return None
    if port is not None and int(port) > 65535:
        return None
    # An IPv4 client of a socket that takes both (RFC 4291 section 2.5.5.2) is an IPv4 client.
    return str(getattr(address, "ipv4_mapped", None) or address), None if port is None else int(port)


# -- X-Forwarded -----------------------------------------------------------------------------------------------


def _from_x_forwarded(said: dict[str, str], trust: Trust) -> Origin:
    hops = _list(said.get(FOR, ""))
    nodes = [_x_forwarded_node(hop) for hop in hops]
    at = _client(nodes, trust)
    address, port = nodes[at] or (None, None) if at < len(nodes) else (None, None)
    chosen = {name: _beside(_list(value), at, len(hops)) for name, value in said.items() if name != FOR}
    headers = [(name, value) for name, value in chosen.items() if value]
    if hops[at:]:
        headers.append((FOR, ", ".join(hops[at:])))
    return Origin(
        address=address or None,
        port=port,
        scheme=_scheme(chosen.get(PROTO)),
        host=_host(chosen.get(HOST)),
        server_port=_port(chosen.get(PORT)),
        headers=tuple(headers),
    )


def _x_forwarded_node(text: str) -> tuple[str, int | None] | None:
    # nginx writes "unix:" for a client of a unix socket.
    return ("", None) if text == "unix:" else node(text)


def _list(value: str) -> list[str]:
    # RFC 9110 section 5.6.1: empty elements are to be ignored.
    return [item for item in (one.strip(" \t") for one in value.split(",")) if item]


def _client(nodes: Sequence[tuple[str, int | None] | None], trust: Trust) -> int:
    """Which of the nodes, of which each proxy has appended one, is the client; ``len(nodes)``: none is known."""
    at = len(nodes)
    while at > 0 and (found := nodes[at - 1]) is not None:
        at -= 1
        if found[0] not in trust:
            break
    return at


def _beside(values: list[str], at: int, hops: int) -> str | None:
    """The value that was written together with hop ``at``; the nearest proxy's when they are not as many."""
    if not values:
        return None
    return values[at] if len(values) == hops and at < hops else values[-1]


def _scheme(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        return _SCHEMES[value.lower()]
    except KeyError:
        raise BadRequest("the forwarded protocol is neither http nor https") from None


def _host(value: str | None) -> str | None:
    if value is not None and not is_authority(value):
        raise BadRequest("malformed forwarded host")
    return value


def _port(value: str | None) -> int | None:
    if value is None:
        return None
    if not (value.isascii() and value.isdigit()) or len(value) > 5 or not 0 < int(value) < 65536:
        raise BadRequest("malformed forwarded port")
    return int(value)


# -- Forwarded -------------------------------------------------------------------------------------------------


def _from_forwarded(value: str, trust: Trust) -> Origin:
    elements = _elements(value)
    nodes = [_forwarded_node(element.get("for")) for element in elements]
    at = _client(nodes, trust)
    if at == len(elements):  # nothing is known of the client, but the last proxy may know what it was asked
        believed = elements[-1:]
        address, port = None, None
    else:
        believed = elements[at:]
        address, port = nodes[at] or (None, None)
    first = believed[0] if believed else {}
    return Origin(
        address=address,
        port=port,
        scheme=_scheme(first.get("proto")),
        host=_host(first.get("host")),
        headers=((FORWARDED, ", ".join(map(_rendered, believed))),) if believed else (),
    )


def _forwarded_node(text: str | None) -> tuple[str, int | None] | None:
    # Section 6: an IPv6 address is in brackets; "unknown" and "_hidden" are no addresses. Section 6.3 lets the
    # port be a name, too.
    return None if text is None else node(text)


def _elements(value: str) -> list[dict[str, str]]:
    elements: list[dict[str, str]] = []
    current: dict[str, str] = {}
    at = 0
    while at < len(value):
        if not current and (empty := _EMPTY_ELEMENT.match(value, at)):
            at = empty.end()
            continue
        match = _PAIR.match(value, at)
        if match is None:
            raise BadRequest("malformed Forwarded header")
        name = match["name"].lower()
        if name in current:
            raise BadRequest("malformed Forwarded header")  # section 4: each parameter once
        current[name] = match["token"] or re.sub(r"\\(.)", r"\1", match["quoted"])
        at = match.end()
        if match["end"] != ";":
            elements.append(current)
            current = {}
        elif at == len(value):
            raise BadRequest("malformed Forwarded header")
    return elements


def _rendered(element: dict[str, str]) -> str:
    return ";".join(f'{name}="{_QUOTED.sub(_ESCAPED, value)}"' for name, value in element.items())
