"""The configuration once it has been read: frozen, typed, complete.

Durations are seconds, sizes are bytes, paths are absolute. A limit that is ``None`` does not exist.
`procman.config` makes these from TOML; everything else only reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from procman.core.channels import ROOT, Channel
from procman.core.command import INHERIT


class Kind(StrEnum):
    """What the workers of a pool do."""

    HTTP = "http"
    CRON = "cron"
    JOBRUNNER = "jobrunner"
    LONGPOLLING = "gevent-longpolling"
    EXEC = "exec"
    POSTGRES = "postgres"  # made by ``[database] url = "embedded"``, never written in a file


class MemoryMetric(StrEnum):
    """The number that ``memory_soft`` is compared with."""

    RSS = "rss"
    PSS = "pss"
    USS = "uss"
    VMS = "vms"


class MemoryHardBy(StrEnum):
    """Who enforces ``memory_hard``: setrlimit(2) counts private memory, a cgroup all that the worker uses."""

    RLIMIT = "rlimit"
    CGROUP = "cgroup"


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpAddress:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixAddress:
    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedSocket:
    """A listening socket handed over by systemd under this FileDescriptorName= (sd_listen_fds(3))."""

    name: str

    def __str__(self) -> str:
        return f"fd:{self.name}"


Address = TcpAddress | UnixAddress | PassedSocket


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a worker is replaced or a unit is ended. ``None``: no such limit."""

    memory_soft: int | None = None
    memory_hard: int | None = None
    memory_hard_by: MemoryHardBy = MemoryHardBy.RLIMIT
    memory_metric: MemoryMetric = MemoryMetric.RSS
    time_cpu: float | None = None
    time_real: float | None = None
    requests: int | None = None
    requests_jitter: int = 0
    age: float | None = None
    age_jitter: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits before a worker that died young is started again: exponential, full jitter, capped."""

    first: float = 0.5
    factor: float = 2.0
    most: float = 30.0
    lived: float = 5.0  # a worker ready for this long did not die young


class JobQueue(StrEnum):
    """Whose jobs: those of `procman.job`, or those of an Odoo with OCA's queue_job."""

    PROCMAN = "procman"
    QUEUE_JOB = "queue_job"


class HookName(StrEnum):
    """When a hook runs."""

    BEFORE_START = "before_start"
    AFTER_START = "after_start"
    BEFORE_STOP = "before_stop"
    AFTER_STOP = "after_stop"
    BEFORE_RELOAD = "before_reload"
    AFTER_RELOAD = "after_reload"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """A command for each moment, program and arguments; empty: none. ``timeout`` bounds each of them."""

    before_start: tuple[str, ...] = ()
    after_start: tuple[str, ...] = ()
    before_stop: tuple[str, ...] = ()
    after_stop: tuple[str, ...] = ()
    before_reload: tuple[str, ...] = ()
    after_reload: tuple[str, ...] = ()
    timeout: float = 30.0

    def command(self, hook: HookName) -> tuple[str, ...]:
        """What runs at that moment; empty when nothing does."""
        command: tuple[str, ...] = getattr(self, hook.value)
        return command


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """How the workers of one generation give way to those of the next.

    With a ``surge``, so many of the next generation may be starting beside a full pool, and an old one goes when its
    successor serves. Without (0), the old ones go first, at most ``max_unavailable`` of the pool at a time.
    """

    surge: int | None = None  # None: that of the kind, which `PoolSpec` knows
    max_unavailable: int = 1
    canary: bool = True  # the first worker of the next generation is alone until it is ready
    delay: float = 0.0  # seconds that each new one has to have served before it goes on


# What proxies can be said to write about their clients.
PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Between how many workers, and for what, a pool scales itself (`procman.core.scaling`)."""

    least: int
    most: int
    busy: float = 0.7  # the part of its time for which a worker is to be busy
    memory_budget: int | None = None  # bytes that all workers together may use (PSS); None: as much as they like

    def clamp(self, workers: int) -> int:
        """The number, or the bound that is nearest to it."""
        return max(self.least, min(workers, self.most))


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpWork:
    app: str
    binds: tuple[Address, ...]
    threads: int = 1
    keepalive: float = 5.0
    header_timeout: float = 10.0
    max_body: int = 128 * 1024 * 1024
    body_buffer: int = 256 * 1024
    body_rate: int = 500
    response_buffer: int = 256 * 1024 * 1024
    max_connections: int = 4096
    socket_mode: int | None = None
    trusted_proxies: tuple[str, ...] = ()  # addresses, networks, "unix"
    proxy_headers: tuple[str, ...] = PROXY_HEADERS
    proxy_protocol: bool = False
    certfile: str | None = None
    keyfile: str | None = None  # None: in certfile, too
    database_from: str | None = None  # "host:PATTERN", "header:NAME" or "module:function"
    access_log: str = "off"  # or "text" or "json", with ":PATH" when it is not for the standard output


@dataclass(frozen=True, slots=True, kw_only=True)
class CronWork:
    modules: tuple[str, ...]
    history_runs: int = 100  # of each entry, the last ones that succeeded
    history_age: float = 30 * 86400.0  # seconds for which all others are kept


# Jobs that a runner has on their way: each one is a descriptor.
MOST_EXCHANGES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class JobrunnerWork:
    """``addresses`` are those of the target pool, in the order in which the runner tries them.

    ``capacity``: jobs at once; None: as many as the pool has workers for, but for ``reserve`` that are left to users.
    """

    channels: tuple[Channel, ...] = (Channel(name=ROOT),)
    queues: tuple[JobQueue, ...] = (JobQueue.PROCMAN,)
    target: str | None = None
    url: str | None = None
    addresses: tuple[Address, ...] = ()
    capacity: int | None = None
    reserve: int = 0
    # Channel, and seconds for which its jobs, and those below it, are kept when they are over; None: for ever.
    history_age: tuple[tuple[str, float | None], ...] = (("root", 30 * 86400.0),)


@dataclass(frozen=True, slots=True, kw_only=True)
class LongpollingWork:
    app: str | None
    binds: tuple[Address, ...]
    poll_timeout: float = 50.0
    socket_mode: int | None = None


class ProbeKind(StrEnum):
    """How a command is asked whether it is ready."""

    HTTP = "http"
    TCP = "tcp"
    COMMAND = "command"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Asks a command, again and again, whether it is ready.

    ``target`` is one URL, one address, or a program and its arguments; ``${slot}`` in it stands for the worker's slot.
    """

    kind: ProbeKind
    target: tuple[str, ...]
    interval: float = 0.5  # from the begin of one to the begin of the next
    timeout: float = 2.0  # for one answer


# When a command is ready, if it has no probe.
ALIVE = "alive"
NOTIFY = "notify"


class KillMode(StrEnum):
    """What is killed with, or after, a worker."""

    TREE = "tree"  # every process that descends from it
    PROCESS = "process"  # the process alone, and its group if it is a command


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecWork:
    """``ready``: "alive" after having lived for ``start_seconds``, "notify" by sd_notify(3), or by a probe."""

    command: tuple[str, ...]
    start_seconds: float = 1.0
    ready: str | Probe = ALIVE
    sockets: tuple[tuple[str, Address], ...] = ()  # by name, as LISTEN_FDNAMES gives them

    @property
    def notify(self) -> bool:
        """It says itself that it is ready."""
        return self.ready == NOTIFY


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresWork:
    """The embedded server: its cluster lives in ``data_dir`` and listens on a socket in ``socket_dir``."""

    data_dir: str
    socket_dir: str
    database: str = "procman"


Work = HttpWork | CronWork | JobrunnerWork | LongpollingWork | ExecWork | PostgresWork


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """One pool: what its workers do (``work``) and the policy they are kept under (all the rest)."""

    name: str
    kind: Kind
    work: Work
    workers: int = 1  # to begin with, if the pool scales itself
    scaling: Scaling | None = None
    limits: Limits = field(default_factory=Limits)
    autostart: bool = True
    essential: bool = False
    depends_on: tuple[str, ...] = ()
    start_timeout: float = 60.0
    stop_timeout: float = 30.0
    stop_signal: str = "TERM"  # exec pools only; workers that speak the channel are asked over it
    kill_timeout: float = 2.0  # from asking a unit to end to the stack dump and SIGKILL
    relaxed: float | None = None  # seconds for which signals that were read are believed
    hang_timeout: float | None = 120.0  # without a sign of life, outside of units
    backoff: Backoff = field(default_factory=Backoff)
    max_restarts: int = 5  # rounds of young deaths within restart_window before the pool is parked
    restart_window: float = 60.0
    reload: Reload = field(default_factory=Reload)
    recycle_at_once: int = 1  # workers that may be on their way to be replaced for a soft limit
    working_dir: str = "/"
    env: tuple[tuple[str, str], ...] = ()
    user: str | None = None
    group: str | None = None
    umask: int | None = None
    nice: int | None = None
    rlimits: tuple[tuple[str, int], ...] = ()
    oom_score_adj: int | None = None
    stdout: str = INHERIT  # or "null", "log" (commands only), or a path
    stderr: str = INHERIT
    kill_mode: KillMode = KillMode.TREE
    hooks: Hooks = field(default_factory=Hooks)

    def __post_init__(self) -> None:
        if self.reload.surge is None:
            # A command may bind a port of its own, and two servers can't share a cluster.
            surge = 0 if self.kind in (Kind.EXEC, Kind.POSTGRES) else 1
            object.__setattr__(self, "reload", replace(self.reload, surge=surge))

    @property
    def concurrent(self) -> bool:
        """Workers can be in several units at a time, while a loop of their own goes on."""
        return self.kind is Kind.LONGPOLLING or (isinstance(self.work, HttpWork) and self.work.threads > 1)

    @property
    def templated(self) -> bool:
        """Workers are forked from a template that has imported the application."""
        return self.kind in (Kind.HTTP, Kind.CRON)

    @property
    def most_workers(self) -> int:
        """So many it can have without being told to."""
        return self.scaling.most if self.scaling is not None else self.workers

    @property
    def surge(self) -> int:
        """Workers that may be starting beside a full pool; 0 where a worker can't stand beside its successor."""
        return self.reload.surge or 0


class Isolation(StrEnum):
    """What the transactions of units see of others' commits (PostgreSQL, 13.2)."""

    REPEATABLE_READ = "repeatable read"
    SERIALIZABLE = "serializable"
    READ_COMMITTED = "read committed"


class SignalStore(StrEnum):
    """Where invalidations are written: procman's own store, or Odoo's."""

    DIGEST = "digest"
    SEQUENCES = "sequences"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSpec:
    """``url`` is a libpq URI also when the server is embedded; ``embedded`` says that it is.

    ``listen_url`` leads to the same server past a pooler. ``databases`` are names, "auto", patterns and "!" patterns.
    """

    url: str
    listen_url: str | None = None
    databases: tuple[str, ...] = ()
    embedded: bool = False
    isolation: Isolation = Isolation.REPEATABLE_READ
    signaling: SignalStore = SignalStore.DIGEST
    cache_size: int | None = 256 * 1024 * 1024  # of all cached values of a process
    registries: int = 64  # databases whose registry and caches a process keeps
    connections: int = 8  # of a process, to each database
    connection_idle_time: float | None = 600.0
    connection_lifetime: float | None = 3600.0


class Role(StrEnum):
    """What a client that has proved who it is may do."""

    FULL = "full"
    READ_ONLY = "read-only"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSpec:
    """Somebody who may connect over tcp: ``key`` is the public key (40 characters of Z85)."""

    name: str
    key: str
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSpec:
    """CURVE (CurveZMQ, ZeroMQ RFC 26). The paths of files of keys: secrets are no part of the specification."""

    keys: str | None = None
    clients: tuple[ClientSpec, ...] = ()
    client_keys: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonSpec:
    """The whole configuration. ``source`` is the file it came from, for messages and for reading it again."""

    source: str
    pools: tuple[PoolSpec, ...]
    control: tuple[str, ...]
    events: tuple[str, ...]
    state_dir: str
    control_read_only: tuple[str, ...] = ()
    read_only_group: str | None = None
    auth: AuthSpec | None = None
    dashboard: str = ""
    dashboard_user: str | None = None
    log_format: str = "text"
    stop_timeout: float = 30.0
    database: DatabaseSpec | None = None

    def pool(self, name: str) -> PoolSpec:
        """The pool of that name; KeyError when there is none."""
        for pool in self.pools:
            if pool.name == name:
                return pool
        raise KeyError(name)


def listening_addresses(spec: PoolSpec) -> tuple[Address, ...]:
    """Where the pool listens."""
    if isinstance(spec.work, ExecWork):
        return tuple(address for _, address in spec.work.sockets)
    return spec.work.binds if isinstance(spec.work, (HttpWork, LongpollingWork)) else ()
