"""What an http pool believes of what proxies tell, and how the application gets to see it.

What is believed takes the place of the connection's own facts in the environ: REMOTE_ADDR and REMOTE_PORT,
wsgi.url_scheme, HTTP_HOST, SERVER_NAME and SERVER_PORT. Frameworks look at the headers themselves, too (Werkzeug's
ProxyFix, Django's SECURE_PROXY_SSL_HEADER), so these come into the environ only from a proxy that is trusted, and cut
down to what is believed of them. From everybody else there are none.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from procman.wire.forwarded import ALL, REAL_IP, Trust, origin

if TYPE_CHECKING:
    from procman.core.spec import HttpWork
    from procman.wire.forwarded import Origin

log = logging.getLogger("procman.http")

_MOST_REMEMBERED = 1024
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Proxies:
    """The proxies of one pool."""

    def __init__(self, work: HttpWork) -> None:
        self.trust = Trust(work.trusted_proxies)
        self._written = frozenset(work.proxy_headers)
        self._warned = False
        self._known: dict[tuple[str, ...], Origin] = {}

    def tell(self, environ: dict[str, Any], told: dict[str, str], peer: str) -> None:
        """Let the environ say what proxies tell; raises BadRequest when a trusted one can't be understood."""
        if peer not in self.trust:
            self._warn(told, peer)
            return
        found = self._origin(told)
        for name, value in found.headers:
            environ[_key(name)] = value
        for name in told:
            if name not in ALL:
                environ[_key(name)] = told[name]
        if found.address is not None:
            environ["REMOTE_ADDR"] = found.address
            environ.pop("REMOTE_PORT", None)
            if found.port is not None:
                environ["REMOTE_PORT"] = str(found.port)
            if REAL_IP in told:
                environ["HTTP_X_REAL_IP"] = found.address
        _set_server(environ, found)

    def _origin(self, told: dict[str, str]) -> Origin:
        # A client has many requests, and its proxies tell the same of all of them.
        key = (*told, *told.values())
        found = self._known.get(key)
        if found is None:
            found = origin(told, self.trust, self._written)
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            self._known[key] = found
        return found

    def _warn(self, told: dict[str, str], peer: str) -> None:
        if not self._warned:
            self._warned = True  # once per worker: whoever sends it can do so all day
            log.warning("%s from %s is not believed: not one of trusted_proxies", next(iter(told)), peer or "unix")


@lru_cache(maxsize=128)
def _key(name: str) -> str:
    return "HTTP_" + name.upper().replace("-", "_")


def _set_server(environ: dict[str, Any], found: Origin) -> None:
    """Scheme, host and port that the client has asked for."""
    if found.scheme is None and found.host is None and found.server_port is None:
        return
    if found.scheme is not None:
        set_scheme(environ, found.scheme)
    name, port = _split(found.host) if found.host is not None else (None, None)
    default = _DEFAULT_PORTS[environ["wsgi.url_scheme"]]
    asked = found.server_port or port or default
    if name is not None:
        environ["HTTP_HOST"] = found.host
        environ["SERVER_NAME"] = name
    environ["SERVER_PORT"] = str(asked)
    host = environ.get("HTTP_HOST")
    if found.server_port not in (None, default) and host and _split(host)[1] is None:
        environ["HTTP_HOST"] = f"{host}:{asked}"


def set_scheme(environ: dict[str, Any], scheme: str) -> None:
    """PEP 3333, "environ Variables": with https also HTTPS, as Apache has it."""
    environ["wsgi.url_scheme"] = scheme
    if scheme == "https":
        environ["HTTPS"] = "on"
    else:
        environ.pop("HTTPS", None)


@lru_cache(maxsize=256)
def _split(host: str) -> tuple[str, int | None]:
    name, colon, port = host.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()):
        return host.removesuffix(":") if host.endswith(":") and not host.endswith("]") else host, None
    return name, int(port)
