"""What no single value can tell: names that must exist, addresses taken twice, limits that contradict each other.

Each rule looks at the whole draft and says everything that is wrong by it. A draft may have holes where a value
was refused; that has been reported, and no rule reports it again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from procman.config.addresses import ListenAddress
from procman.config.problems import Code, Problem, dotted, quoted, suggestion, words
from procman.config.proxies import UNIX, trusts_loopback
from procman.config.values import Given, Size
from procman.core.command import LOG, SLOT
from procman.core.spec import (
    PROXY_HEADERS,
    Address,
    Kind,
    Limits,
    PassedSocket,
    Scaling,
    TcpAddress,
    UnixAddress,
)
from procman.core.waves import cycles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from procman.config.problems import Path
    from procman.core.spec import DaemonSpec, PoolSpec

POSTGRES = "postgres"
DASHBOARD = "dashboard"
_WITH_DATABASE = (Kind.CRON, Kind.JOBRUNNER, Kind.LONGPOLLING)
_ANY_HOST = ("0.0.0.0", "::")


@dataclass(slots=True, kw_only=True)
class PoolDraft:
    """A pool as far as it could be read: ``given`` the keys in the file, ``fields`` those of the specification."""

    name: str
    kind: Kind | None
    given: dict[str, Any]
    fields: dict[str, Any]

    def path(self, *parts: str | int) -> Path:
        """The place of something in this pool's table."""
        return ("pools", self.name, *parts)


@dataclass(slots=True, kw_only=True)
class Draft:
    """The configuration as far as it could be read. ``database_url`` is "" when one was given and refused."""

    daemon: dict[str, Any] = field(default_factory=dict)
    daemon_given: dict[str, Any] = field(default_factory=dict)
    database: dict[str, Any] = field(default_factory=dict)
    database_url: str | None = None
    embedded: bool = False
    pools: list[PoolDraft] = field(default_factory=list)

    def names(self) -> list[str]:
        """Every name that `depends_on` may give."""
        return [pool.name for pool in self.pools] + self.added()

    def added(self) -> list[str]:
        """The names of the pools that are not in the file, because something else in it asks for them."""
        return ([POSTGRES] if self.embedded else []) + ([DASHBOARD] if self.daemon.get("dashboard") else [])

    def dashboard(self) -> Address | None:
        """Where the dashboard listens; None when there is to be none."""
        address = self.daemon.get("dashboard")
        return ListenAddress().read(Given(address, ("procman", "dashboard"), "/")) if address else None

    def of_kind(self, kind: Kind) -> list[PoolDraft]:
        """The pools of one kind."""
        return [pool for pool in self.pools if pool.kind is kind]


def is_dashboard(pool: PoolSpec, spec: DaemonSpec) -> bool:
    """The pool is the one that ``[procman] dashboard`` adds."""
    return bool(spec.dashboard) and pool.name == DASHBOARD


def check(draft: Draft) -> Iterator[Problem]:
    """Everything that is wrong by the rules."""
    for rule in _RULES:
        yield from rule(draft)


def _names(draft: Draft) -> Iterator[Problem]:
    holders = {
        POSTGRES: 'the embedded database ([database] url = "embedded")',
        DASHBOARD: "procman's own dashboard ([procman] dashboard)",
    }
    for pool in draft.pools:
        if pool.name in draft.added():
            message = f"the name is taken by {holders[pool.name]}"
            yield Problem(Code.RESERVED, pool.path(), message, at_key=True)


def _dependencies(draft: Draft) -> Iterator[Problem]:
    for pool in draft.pools:
        for index, name in enumerate(pool.fields.get("depends_on", ())):
            if name not in draft.names():
                path = _item(pool.path("depends_on"), pool.given, index)
                yield Problem(Code.UNKNOWN_POOL, path, f"there is no pool {quoted(name)}{_meant(name, draft.names())}")


def _item(path: Path, table: dict[str, Any], index: int) -> Path:
    """The place of one item of a list, or of the one value that stands instead of a list."""
    return (*path, index) if isinstance(table.get(str(path[-1])), list) else path


def _meant(name: str, names: list[str]) -> str:
    return suggestion(name, names) or (f"; there is {words(names, 'and')}" if names else "")


def _circles(draft: Draft) -> Iterator[Problem]:
    for circle in cycles({pool.name: pool.fields.get("depends_on", ()) for pool in draft.pools}):
        message = f"these pools wait for each other: {' → '.join(circle)}"
        yield Problem(Code.CYCLE, ("pools", circle[0], "depends_on"), message)


def _targets(draft: Draft) -> Iterator[Problem]:
    for pool in draft.of_kind(Kind.JOBRUNNER):
        if "target" in pool.given and "url" in pool.given:
            message = "target and url say both where the jobs run; expected one of them"
            yield Problem(Code.CONTRADICTION, pool.path("url"), message, at_key=True)
        elif "url" not in pool.given:
            yield from _target(pool, draft)


def _target(pool: PoolDraft, draft: Draft) -> Iterator[Problem]:
    http = [other.name for other in draft.of_kind(Kind.HTTP)]
    if "target" not in pool.given:
        if not http:
            yield Problem(Code.TARGET, pool.path(), "there is no http pool to run the jobs in; add one, or give url")
        elif len(http) > 1:
            message = f"which http pool is to run the jobs? expected target = {words(http)}"
            yield Problem(Code.TARGET, pool.path(), message)
    elif (target := pool.fields.get("target")) is not None and target not in http:
        existing = next((other for other in draft.pools if other.name == target), None)
        if existing is None:
            message = f"there is no pool {quoted(target)}{_meant(target, http)}"
            yield Problem(Code.TARGET, pool.path("target"), message)
        elif existing.kind is not None:
            message = f'expected a pool of kind "http", got {quoted(target)} of kind "{existing.kind}"'
            yield Problem(Code.TARGET, pool.path("target"), message)
    found = target_of(pool, draft)
    binds = found.fields.get("binds") if found else None
    if found and binds and not plain_addresses(found.fields):
        message = (
            f"the job runner speaks plain HTTP, and pool {quoted(found.name)} expects something before it on each of "
            'its addresses; expected a unix socket among them, and trusted_proxies without "unix"'
        )
        yield Problem(Code.TARGET, pool.path("target"), message)


def plain_addresses(fields: dict[str, Any]) -> tuple[Address, ...]:
    """Where the http pool with these fields takes plain HTTP from the job runner of this machine."""
    binds = [bind for bind in fields["binds"] if not isinstance(bind, PassedSocket)]
    proxies = fields.get("trusted_proxies", ()) if fields.get("proxy_protocol") else ()
    if UNIX in proxies:
        binds = [bind for bind in binds if not isinstance(bind, UnixAddress)]
    if trusts_loopback(proxies) or fields.get("certfile") is not None:
        binds = [bind for bind in binds if not isinstance(bind, TcpAddress)]
    return tuple(binds)


def target_of(pool: PoolDraft, draft: Draft) -> PoolDraft | None:
    """The http pool that runs the jobs of this job runner; None when there is not exactly one."""
    http = draft.of_kind(Kind.HTTP)
    if "target" in pool.given:
        http = [other for other in http if other.name == pool.fields.get("target")]
    return http[0] if len(http) == 1 and "url" not in pool.given else None


def _databases(draft: Draft) -> Iterator[Problem]:
    if draft.database_url is not None:
        return
    for pool in draft.pools:
        if pool.kind in _WITH_DATABASE:
            message = (
                f'kind "{pool.kind}" needs a database; expected [database] with url = "embedded" or a PostgreSQL URI'
            )
            yield Problem(Code.DATABASE, pool.path("kind"), message)


def _addresses(draft: Draft) -> Iterator[Problem]:
    taken: list[tuple[Address, str]] = []
    for path, address in _all_addresses(draft):
        holder = next((holder for other, holder in taken if _same(address, other)), None)
        if holder is None:
            taken.append((address, dotted(path[:2])))
        else:
            yield Problem(Code.TAKEN, path, f"the address {address} is taken by {holder}")


def _all_addresses(draft: Draft) -> Iterator[tuple[Path, Address]]:
    for path, endpoint in _endpoints(draft):
        scheme, _, place = endpoint.partition("://")
        host, _, port = place.rpartition(":")
        tcp = scheme == "tcp"
        yield path, TcpAddress(host=host.strip("[]"), port=int(port)) if tcp else UnixAddress(path=place)
    dashboard = draft.dashboard()
    if dashboard is not None:
        yield ("procman", "dashboard"), dashboard
    for pool in draft.pools:
        for index, address in enumerate(pool.fields.get("binds", ())):
            yield _item(pool.path("bind"), pool.given, index), address
        for name, address in pool.fields.get("sockets", ()):
            yield pool.path("sockets", name), address


def _endpoints(draft: Draft) -> Iterator[tuple[Path, str]]:
    for key in ("control", "control_read_only", "events"):
        for index, endpoint in enumerate(draft.daemon.get(key, ())):
            yield _item(("procman", key), draft.daemon_given, index), endpoint


def _same(one: Address, other: Address) -> bool:
    """Binding the one makes binding the other fail with EADDRINUSE, bind(2)."""
    if isinstance(one, TcpAddress) and isinstance(other, TcpAddress):
        if one.port != other.port or one.port == 0:
            return False
        family = (":" in one.host) == (":" in other.host)
        return one.host == other.host or (family and bool({one.host, other.host} & set(_ANY_HOST)))
    return one == other


def _limits(draft: Draft) -> Iterator[Problem]:
    for pool in draft.pools:
        limits = pool.fields.get("limits", Limits())
        soft, hard = limits.memory_soft, limits.memory_hard
        if soft is not None and hard is not None and soft > hard:
            size = Size()
            message = (
                f"expected at most memory_hard, which is {size.write(hard)}, got {size.write(soft)}: "
                "it would never be reached"
            )
            yield Problem(Code.CONTRADICTION, pool.path("limits", "memory_soft"), message)
        if limits.requests_jitter and limits.requests is None:
            message = "jitter of a limit that does not exist; expected requests as well"
            yield Problem(Code.CONTRADICTION, pool.path("limits", "requests_jitter"), message)
        if limits.age_jitter and limits.age is None:
            message = "jitter of a limit that does not exist; expected age as well"
            yield Problem(Code.CONTRADICTION, pool.path("limits", "age_jitter"), message)


def _proxies(draft: Draft) -> Iterator[Problem]:
    for pool in draft.of_kind(Kind.HTTP):
        if "keyfile" in pool.given and "certfile" not in pool.given:
            message = "a key without its certificate; expected certfile as well"
            yield Problem(Code.CONTRADICTION, pool.path("keyfile"), message)
        if pool.fields.get("trusted_proxies", ()):
            continue
        for key, otherwise in (("proxy_headers", PROXY_HEADERS), ("proxy_protocol", False)):
            if pool.fields.get(key, otherwise) != otherwise:
                message = "no proxy is trusted; expected trusted_proxies as well"
                yield Problem(Code.CONTRADICTION, pool.path(key), message)


def _backoffs(draft: Draft) -> Iterator[Problem]:
    for pool in draft.pools:
        backoff = pool.fields.get("backoff")
        if backoff is not None and backoff.first > backoff.most:
            message = f"expected at least first, which is {backoff.first:g} s, got {backoff.most:g} s"
            given = "most" if "most" in pool.given["backoff"] else "first"
            yield Problem(Code.CONTRADICTION, pool.path("backoff", given), message)


_SOCKET = re.compile(r"\$\{fd:([^}]*)\}")


def _commands(draft: Draft) -> Iterator[Problem]:
    """Sockets that a command asks for, and output that only a command can have."""
    for pool in draft.pools:
        sockets = dict(pool.fields.get("sockets", ()))
        asking = pool.fields.get("command", ()) if "sockets" in pool.fields or "sockets" not in pool.given else ()
        for index, argument in enumerate(asking):
            for name in _SOCKET.findall(argument):
                if name not in sockets:
                    message = f"there is no socket {quoted(name)}{_meant(name, list(sockets))}"
                    yield Problem(Code.CONTRADICTION, pool.path("command", index), message)
        if pool.kind is None or pool.kind is Kind.EXEC:
            continue
        for key in ("stdout", "stderr"):
            if pool.fields.get(key) == LOG:
                message = f'kind "{pool.kind}" logs by itself; expected "inherit", "null" or the path of a file'
                yield Problem(Code.CONTRADICTION, pool.path(key), message)
            elif SLOT in pool.fields.get(key, ""):
                message = f'the workers of kind "{pool.kind}" share their output: there is no slot in its path'
                yield Problem(Code.CONTRADICTION, pool.path(key), message)


def _workers(draft: Draft) -> Iterator[Problem]:
    for pool in draft.pools:
        workers = pool.fields.get("workers", 1)
        if isinstance(workers, Scaling) and pool.kind not in (Kind.HTTP, Kind.CRON, None):
            message = (
                f'kind "{pool.kind}" does not tell how busy it is, and can\'t scale itself; expected a whole number'
            )
            yield Problem(Code.WRONG_TYPE, pool.path("workers"), message)


def _auth(draft: Draft) -> Iterator[Problem]:
    tcp = [path for path, endpoint in _endpoints(draft) if endpoint.startswith("tcp://")]
    auth = draft.daemon.get("auth")
    if not tcp or (auth is None and "auth" in draft.daemon_given and "auth" not in draft.daemon):
        return  # what is wrong with the keys has been said
    for path in tcp:
        if auth is None or auth.keys is None:
            message = "tcp needs CURVE keys; expected [procman.auth] with keys and clients (see procmanctl keys --help)"
            yield Problem(Code.KEYS, path, message)
        elif not auth.clients:
            yield Problem(Code.KEYS, path, "nobody could connect; expected clients in [procman.auth]")


def _monitoring(draft: Draft) -> Iterator[Problem]:
    daemon = draft.daemon
    if daemon.get("dashboard") and "control_read_only" in daemon and not daemon["control_read_only"]:
        message = "the dashboard asks there; expected an endpoint, or no dashboard"
        yield Problem(Code.CONTRADICTION, ("procman", "control_read_only"), message)
    if daemon.get("dashboard_user") and not daemon.get("read_only_group"):
        message = "the dashboard could not reach the daemon; expected read_only_group as well"
        yield Problem(Code.CONTRADICTION, ("procman", "dashboard_user"), message)


_RULES = (
    _names,
    _dependencies,
    _circles,
    _targets,
    _databases,
    _addresses,
    _limits,
    _proxies,
    _backoffs,
    _workers,
    _auth,
    _monitoring,
    _commands,
)
