"""Which host a request is for: ``host[:port]`` as it stands in Host, in an absolute target, in what proxies add."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address

# RFC 3986 section 3.2.2, with two exceptions. No comma: two hosts that somebody has joined to a list would pass for
# a name. And a zone (RFC 6874), which some clients leave in.
_AUTHORITY = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)(?:%[0-9A-Za-z._~%-]+)?\]|(?:[0-9A-Za-z._~!$&'()*+;=-]|%[0-9A-Fa-f]{2})+)"
    r"(?::(?P<port>[0-9]{0,5}))?"
)


@lru_cache(maxsize=256)
def is_authority(text: str) -> bool:
    """The text is a host that is not empty, with or without a port (RFC 9110 section 7.2)."""
    match = _AUTHORITY.fullmatch(text)
    if match is None or int(match["port"] or 0) > 65535:
        return False
    return match["six"] is None or _is_ipv6(match["six"])


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True
