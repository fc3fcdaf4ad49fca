"""Every key of the configuration, once: its name, type, default, the kinds of pools that take it, what it is for.

Reading, ``--print-config`` and docs/configuration.md are all made from these tables, so a key can't be read and
not printed, or printed and not documented. Defaults are those of the specification's classes (`procman.core.spec`)
wherever they can be.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from procman.config.access import AccessLogPlace
from procman.config.addresses import DashboardAddress, DatabaseUrl, Endpoint, FilePath, HttpUrl, ListenAddress
from procman.config.clients import Clients, KeyFile
from procman.config.commands import HookCommand, Output, Ready, Sockets
from procman.config.problems import Code
from procman.config.proxies import TrustedProxy
from procman.config.values import (
    Boolean,
    Duration,
    Fraction,
    Given,
    Integer,
    ListOf,
    OrNone,
    Size,
    Text,
    Type,
    Word,
    member_of,
)
from procman.config.words import (
    Account,
    Application,
    Channels,
    Command,
    DatabaseResolver,
    Databases,
    Module,
    ResourceLimits,
    SignalName,
    Umask,
    Variables,
    Workers,
)
from procman.core.spec import (
    PROXY_HEADERS,
    AuthSpec,
    Backoff,
    CronWork,
    DaemonSpec,
    DatabaseSpec,
    ExecWork,
    HookName,
    Hooks,
    HttpWork,
    Isolation,
    JobrunnerWork,
    KillMode,
    Kind,
    Limits,
    LongpollingWork,
    MemoryHardBy,
    MemoryMetric,
    PoolSpec,
    Reload,
    SignalStore,
    Work,
)

# The kinds that can be written in a file.
KINDS = frozenset(Kind) - {Kind.POSTGRES}
# The kinds whose workers work in units, which is what limits are about.
WITH_UNITS = KINDS - {Kind.EXEC}
WORK: dict[Kind, type[Work]] = {
    Kind.HTTP: HttpWork,
    Kind.CRON: CronWork,
    Kind.JOBRUNNER: JobrunnerWork,
    Kind.LONGPOLLING: LongpollingWork,
    Kind.EXEC: ExecWork,
}


@dataclass(frozen=True, slots=True)
class Computed:
    """A default that depends on other things, in words for the reference; `procman.config.reader` finds it."""

    words: str


@dataclass(frozen=True, slots=True)
class Required:
    """No default: the table can't do without the key."""


REQUIRED = Required()


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key. ``field`` is its name in the specification, ``doc`` one line of the reference."""

    name: str
    type: Type[Any]
    doc: str
    field: str
    default: Any
    kinds: frozenset[Kind] = KINDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of keys; ``title`` as in its header."""

    title: str
    doc: str
    keys: tuple[Key, ...]


class Nested(Type[Any]):
    """A table in a table, which becomes an object of its own."""

    def __init__(self, table: Table, make: type[Any]) -> None:
        self.table = table
        self.make = make
        self.expected = "a table"

    def read(self, given: Given) -> Any:
        raise given.unexpected(Code.WRONG_TYPE, self.expected)

    def write(self, value: Any) -> str:
        raise TypeError(f"{self.table.title} is a table, which is written under its own header")


def _key(
    name: str, kept_as: Type[Any], doc: str, *, of: Any = None, default: Any = None, kinds: Any = KINDS, field: str = ""
) -> Key:
    """A key; its default is given, or that of the field of the class ``of``."""
    field = field or name
    if default is None and of is not None:
        default = next(one for one in dataclasses.fields(of) if one.name == field).default
        default = REQUIRED if default is dataclasses.MISSING else default
    return Key(name=name, type=kept_as, doc=doc, field=field, default=default, kinds=frozenset(kinds))


AUTH = Table(
    title="procman.auth",
    doc="Who may connect over tcp, proved by CURVE keys ([security](security.md)). Made with `procmanctl keys`.",
    keys=(
        _key(
            "keys",
            KeyFile(),
            "The daemon's own key pair, mode 0600. Needed as soon as an endpoint is `tcp://`.",
            default=Computed("none"),
        ),
        _key("clients", Clients(), "Who may connect, by name: the public key, and the role.", of=AuthSpec),
        _key(
            "client_keys",
            FilePath("a file of keys"),
            "The file that `procmanctl -c` uses where the endpoint is `tcp://`; the daemon does not read it.",
            default=Computed("none"),
        ),
    ),
)

DAEMON = Table(
    title="procman",
    doc="The daemon itself. The whole table may be left out.",
    keys=(
        _key(
            "control",
            ListOf(Endpoint()),
            "Where `procmanctl` and Circus clients connect; mode 0600. A list opens several. `tcp://` needs `auth`.",
            default=Computed("`ipc://STATE_DIR/control.sock`"),
        ),
        _key(
            "control_read_only",
            ListOf(Endpoint(tcp=False), empty=True),
            "Where only commands that change nothing are taken.",
            default=Computed("with a dashboard `ipc://STATE_DIR/monitor.sock`, else none"),
        ),
        _key(
            "events",
            ListOf(Endpoint()),
            "Where events are published.",
            default=Computed("`ipc://STATE_DIR/events.sock`"),
        ),
        _key(
            "read_only_group",
            Account("group"),
            "Its members may connect to `control_read_only` and `events` (mode 0660), too.",
            of=DaemonSpec,
        ),
        _key(
            "state_dir",
            FilePath("a directory"),
            "Sockets, scoreboard, embedded database. Made with mode 0700 when it is missing.",
            default=Computed("`var` beside the file"),
        ),
        _key(
            "dashboard",
            DashboardAddress(),
            "Where the status page, `/metrics`, `/livez` and `/readyz` are served, without a login: keep it local.",
            of=DaemonSpec,
        ),
        _key(
            "dashboard_user", Account("user"), "User to run the dashboard as; needs `read_only_group`.", of=DaemonSpec
        ),
        _key(
            "log_format", Word(("text", "json"), str), "One line per event, for people or for machines.", of=DaemonSpec
        ),
        _key(
            "stop_timeout",
            Duration(),
            "How long units may run on after SIGTERM; also the default of every pool.",
            of=DaemonSpec,
        ),
        _key("auth", Nested(AUTH, AuthSpec), "See below.", of=DaemonSpec),
    ),
)

DATABASE = Table(
    title="database",
    doc="The one thing processes share. Without this table, and without `$PROCMAN_DATABASE_URL`, there is no database.",
    keys=(
        _key(
            "url",
            DatabaseUrl(),
            "`embedded` runs a private PostgreSQL in the state directory. `$PROCMAN_DATABASE_URL` overrides it.",
            default=REQUIRED,
        ),
        _key("databases", Databases(), "More databases on the same server, for cron and jobs.", default=()),
        _key(
            "isolation",
            member_of(Isolation),
            "Of the transactions of units. `read committed` lets a unit meet the data of two moments.",
            of=DatabaseSpec,
        ),
        _key(
            "signaling",
            member_of(SignalStore),
            "`sequences` shares the signals of an Odoo server on this database, and the races they have.",
            of=DatabaseSpec,
        ),
        _key(
            "cache_size",
            OrNone(Size(optional=True)),
            "Of all that is `@procman.cached`, per process: estimated, what was used least recently goes.",
            of=DatabaseSpec,
        ),
        _key(
            "registries",
            Integer(1),
            "Of so many databases a process keeps registry and caches; the one used least recently goes.",
            of=DatabaseSpec,
        ),
        _key("connections", Integer(1, 1000), "At most so many per process and database.", of=DatabaseSpec),
        _key(
            "connection_idle_time",
            OrNone(Duration(optional=True)),
            "A connection that was not needed for so long is closed.",
            of=DatabaseSpec,
        ),
        _key(
            "connection_lifetime",
            OrNone(Duration(optional=True)),
            "An older connection is closed after its unit.",
            of=DatabaseSpec,
        ),
    ),
)

LIMITS = Table(
    title="pools.NAME.limits",
    doc='When a worker is replaced or a unit is ended. A limit that is left out, or `"none"`, does not exist.',
    keys=tuple(
        _key(name, kept_as, doc, of=Limits, kinds=WITH_UNITS)
        for name, kept_as, doc in (
            ("memory_soft", OrNone(Size(optional=True)), "After the unit, a worker that uses more is replaced."),
            (
                "memory_hard",
                OrNone(Size(optional=True)),
                "During the unit, allocating more fails: private memory (RLIMIT_DATA), not reserved address space.",
            ),
            (
                "memory_hard_by",
                member_of(MemoryHardBy),
                '`"cgroup"`: a cgroup for each worker, whose `memory.max` counts all it uses; then the kernel kills it '
                "(`oom`). Where none is delegated there is a warning, and RLIMIT_DATA.",
            ),
            ("memory_metric", member_of(MemoryMetric), "What `memory_soft` is compared with."),
            ("time_cpu", OrNone(Duration(optional=True)), "CPU time of one unit."),
            ("time_real", OrNone(Duration(optional=True)), "Real time of one unit."),
            ("requests", OrNone(Integer(1, zero_is_at_once=True)), "A worker is replaced after this many units."),
            (
                "requests_jitter",
                Integer(0),
                "Up to this many units more, at random, so that workers don't go all at once.",
            ),
            ("age", OrNone(Duration(optional=True)), "A worker older than this is replaced."),
            ("age_jitter", Duration(zero=True), "Up to this much older, at random."),
        )
    ),
)

BACKOFF = Table(
    title="pools.NAME.backoff",
    doc="How long to wait before a worker that died young is started again: longer each time, at random up to that.",
    keys=(
        _key("first", Duration(), "The first wait.", of=Backoff),
        _key("factor", Fraction(1, 100), "By how much each wait is longer than the one before.", of=Backoff),
        _key("most", Duration(), "No wait is longer.", of=Backoff),
        _key("lived", Duration(), "A worker that was ready for this long did not die young.", of=Backoff),
    ),
)

_HOOKS = {
    HookName.BEFORE_START: "Before the process of a worker starts; a worker whose hook fails does not start.",
    HookName.AFTER_START: "When a worker is ready.",
    HookName.BEFORE_STOP: "Before a worker that served is asked to go; counts in `stop_timeout`.",
    HookName.AFTER_STOP: "When a worker has gone, for whatever reason, with all its processes.",
    HookName.BEFORE_RELOAD: "Once for the pool, before a reload; if it fails, the reload is rejected.",
    HookName.AFTER_RELOAD: "Once for the pool, when the new generation serves.",
}

HOOKS = Table(
    title="pools.NAME.hooks",
    doc=(
        "Commands, program and arguments, that run at a moment of a worker's life or of a reload: as the pool's user, "
        "in its environment and working directory, their output in the log. Those about start and stop run for each "
        "worker (as `before_spawn` does in Circus, `ExecStartPre=` in systemd). They find `PROCMAN_POOL`, "
        "`PROCMAN_HOOK` and `PROCMAN_GENERATION` in their environment and, as far as there is a worker, "
        "`PROCMAN_WORKER`, `PROCMAN_SLOT`, `PROCMAN_PID` and `PROCMAN_REASON`. Where nothing else is said, a hook that "
        "fails is reported and changes nothing."
    ),
    keys=(
        *(_key(hook.value, HookCommand(), doc, default=()) for hook, doc in _HOOKS.items()),
        _key("timeout", Duration(), "A hook that takes longer is killed, and has failed.", of=Hooks),
    ),
)

RELOAD = Table(
    title="pools.NAME.reload",
    doc="How the workers of one generation give way to those of the next.",
    keys=(
        _key(
            "surge",
            Integer(0, 10_000),
            "So many new workers may be starting beside a full pool; 0: an old one goes before its successor comes.",
            of=Reload,
            default=Computed("1; 0 for `exec` and `jobrunner`"),
        ),
        _key("max_unavailable", Integer(1, 10_000), "Without a surge: so many may be missing at a time.", of=Reload),
        _key("canary", Boolean(), "The first new worker is alone until it is ready.", of=Reload),
        _key(
            "delay",
            Duration(zero=True),
            "Each new worker has to have served this long before it goes on; one that dies meanwhile ends the reload.",
            of=Reload,
        ),
    ),
)

_WITH_WEB_APP = {Kind.HTTP, Kind.LONGPOLLING}

POOL = Table(
    title="pools.NAME",
    doc="A pool of workers. At least one is needed, and each needs its `kind`.",
    keys=(
        _key("kind", member_of(Kind, Kind.POSTGRES), "What the workers do.", default=REQUIRED),
        # What a kind works on.
        _key(
            "app",
            Application(),
            "WSGI application, `module:callable`, or a factory of one, `module:factory()`.",
            of=HttpWork,
            kinds={Kind.HTTP},
        ),
        _key(
            "app",
            Application(),
            "The application whose modules know the bus; without one, only the bus is served.",
            default=Computed("none"),
            kinds={Kind.LONGPOLLING},
        ),
        _key(
            "database_from",
            OrNone(DatabaseResolver()),
            "Which of `[database] databases` a request is for: by its host, where `%h` is the name and `%d` its first "
            "label, by a header, or as a function of the environ says. A host that is no one database's gets 404.",
            of=HttpWork,
            kinds={Kind.HTTP},
        ),
        _key(
            "app",
            ListOf(Module()),
            "Modules to import: their `@procman.cron` functions run.",
            of=CronWork,
            field="modules",
            kinds={Kind.CRON},
        ),
        _key("bind", ListOf(ListenAddress()), "Where to listen.", of=HttpWork, field="binds", kinds=_WITH_WEB_APP),
        _key(
            "socket_mode",
            Umask(),
            "Permissions of the files of its unix sockets: who may write may connect; without, `umask` leaves them.",
            of=HttpWork,
            kinds=_WITH_WEB_APP,
        ),
        _key("channels", Channels(), "Channels and their capacities.", default="root:1", kinds={Kind.JOBRUNNER}),
        _key(
            "target",
            Text("the name of a pool"),
            "The http pool that runs the jobs.",
            default=Computed("the only http pool"),
            kinds={Kind.JOBRUNNER},
        ),
        _key(
            "url",
            HttpUrl(),
            "A server that runs the jobs, instead of a pool.",
            default=Computed("none"),
            kinds={Kind.JOBRUNNER},
        ),
        _key(
            "command",
            Command(),
            "Program and arguments; there is no shell. `${slot}` is the number of the slot, `${fd:NAME}` of a socket.",
            of=ExecWork,
            kinds={Kind.EXEC},
        ),
        _key(
            "workers",
            Workers(),
            '`"auto"`: twice the cores the process may use, plus one. With a table the pool scales itself: see below.',
            of=PoolSpec,
        ),
        _key(
            "threads",
            Integer(1, 1024),
            "Units per worker at a time, each in a thread of its own: for applications that wait much.",
            of=HttpWork,
            kinds={Kind.HTTP},
        ),
        # How an http pool speaks HTTP.
        _key(
            "keepalive",
            Duration(zero=True),
            "How long an idle connection is kept for the next request; 0 closes it after each.",
            of=HttpWork,
            kinds={Kind.HTTP},
        ),
        _key(
            "header_timeout", Duration(), "How long a request's head may take to come.", of=HttpWork, kinds={Kind.HTTP}
        ),
        _key("max_body", Size(), "A longer request body is refused with 413.", of=HttpWork, kinds={Kind.HTTP}),
        _key("body_buffer", Size(), "A longer request body goes to disk.", of=HttpWork, kinds={Kind.HTTP}),
        _key(
            "body_rate",
            Size(),
            "A slower request body, in bytes per second after the first `header_timeout`, is given up with 408.",
            of=HttpWork,
            kinds={Kind.HTTP},
        ),
        _key(
            "response_buffer",
            Size(),
            "So much of a streamed response waits on disk for a slow client; beyond, the unit waits.",
            of=HttpWork,
            kinds={Kind.HTTP},
        ),
        _key(
            "max_connections",
            Integer(1, zero_is_at_once=True),
            "Connections per worker; one more is answered with 503.",
            of=HttpWork,
            kinds={Kind.HTTP},
        ),
        _key(
            "trusted_proxies",
            ListOf(TrustedProxy(), empty=True),
            "Whose word about their clients is believed. From all others such headers are left out.",
            of=HttpWork,
            kinds={Kind.HTTP},
        ),
        _key(
            "proxy_headers",
            ListOf(Word(PROXY_HEADERS, str)),
            "What these proxies write; what else they let pass is the client's own word: [HTTP](http.md).",
            of=HttpWork,
            kinds={Kind.HTTP},
        ),
        _key(
            "proxy_protocol",
            Boolean(),
            "Each connection of theirs begins with a header of the PROXY protocol, version 1 or 2.",
            of=HttpWork,
            kinds={Kind.HTTP},
        ),
        _key(
            "certfile",
            FilePath("a file"),
            "Certificate and its chain, in PEM form: TLS is spoken on all addresses but unix sockets.",
            default=Computed("none: plain HTTP"),
            kinds={Kind.HTTP},
        ),
        _key(
            "keyfile",
            FilePath("a file"),
            "Its private key, without a password.",
            default=Computed("in `certfile`, too"),
            kinds={Kind.HTTP},
        ),
        _key(
            "access_log",
            AccessLogPlace(),
            "A line for each request, on the standard output or at the end of a file: [HTTP](http.md).",
            of=HttpWork,
            kinds={Kind.HTTP},
        ),
        _key(
            "poll_timeout",
            Duration(),
            "A long poll without news is answered after this.",
            of=LongpollingWork,
            kinds={Kind.LONGPOLLING},
        ),
        _key(
            "ready",
            Ready(),
            '`"alive"`: after `start_seconds`; `"notify"`: when it says so by sd_notify(3); a probe: when the URL '
            "answers with 2xx or 3xx, the address accepts, or the command succeeds. It is asked every `interval` "
            "(0.5 s), and has `timeout` (2 s) to answer, until `start_timeout`. `${slot}` is the number of the slot. "
            "Whoever answers is believed, so give each worker an address of its own.",
            of=ExecWork,
            kinds={Kind.EXEC},
        ),
        _key(
            "sockets",
            Sockets(),
            "Listening sockets that the daemon holds and the command inherits, as systemd's socket activation passes "
            "them (`LISTEN_FDS`, `LISTEN_FDNAMES`); `${fd:NAME}` in the command is the number of one. They stay open "
            "while workers come and go.",
            of=ExecWork,
            kinds={Kind.EXEC},
        ),
        _key(
            "start_seconds",
            Duration(zero=True),
            "A command that has lived for this long is ready.",
            of=ExecWork,
            kinds={Kind.EXEC},
        ),
        # How any pool is kept.
        _key("autostart", Boolean(), "Start the pool with the daemon.", of=PoolSpec),
        _key("essential", Boolean(), "When this pool is given up, the daemon stops.", of=PoolSpec),
        _key(
            "depends_on",
            ListOf(Text("the name of a pool"), empty=True),
            "Pools to be ready before this one starts.",
            of=PoolSpec,
        ),
        _key("start_timeout", Duration(), "How long a worker, or the import, may take until it is ready.", of=PoolSpec),
        _key(
            "stop_timeout",
            Duration(),
            "How long a worker may take to finish its unit.",
            default=Computed("that of `[procman]`"),
        ),
        _key(
            "stop_signal",
            SignalName(),
            "What asks a command to stop. Workers of the other kinds are asked over their channel.",
            of=PoolSpec,
        ),
        _key("kill_timeout", Duration(), "From asking a unit to end to the stacks and SIGKILL.", of=PoolSpec),
        _key(
            "hang_timeout",
            OrNone(Duration()),
            "A worker that is in no unit and gives no sign of life for this long, although asked, is ended.",
            of=PoolSpec,
            kinds=WITH_UNITS,
        ),
        _key(
            "relaxed",
            OrNone(Duration(optional=True)),
            "Caches are believed for so long without a look at the database, unless a worker of this daemon has "
            "invalidated something; `none`: every unit looks, and never meets what is stale.",
            of=PoolSpec,
            kinds=WITH_UNITS,
        ),
        _key("max_restarts", Integer(1), "So many young deaths within `restart_window` park the pool.", of=PoolSpec),
        _key("restart_window", Duration(), "See `max_restarts`.", of=PoolSpec),
        _key(
            "recycle_at_once",
            Integer(1, 10_000),
            "So many workers at a time are replaced for a soft limit (memory, requests, age); each serves until then.",
            of=PoolSpec,
            kinds=WITH_UNITS,
        ),
        # What its processes run in.
        _key(
            "working_dir",
            FilePath("a directory"),
            "Working directory, and first on `sys.path`.",
            default=Computed("the directory of the file"),
        ),
        _key("env", Variables(), "Environment variables, beside those of the daemon.", of=PoolSpec),
        _key(
            "env_file",
            ListOf(FilePath("a file")),
            "Files of `NAME=VALUE` lines, read with the configuration; `env` wins over them.",
            default=Computed("none"),
        ),
        _key("user", Account("user"), "User to run as.", of=PoolSpec),
        _key("group", Account("group"), "Group to run as.", of=PoolSpec),
        _key("umask", Umask(), "Mask of permissions of new files.", of=PoolSpec),
        _key("nice", Integer(-20, 19), "Scheduling priority; more is nicer to others.", of=PoolSpec),
        _key("rlimits", ResourceLimits(), "Resource limits, setrlimit(2).", of=PoolSpec),
        _key(
            "oom_score_adj",
            Integer(-1000, 1000),
            "How gladly the kernel kills it when memory runs out, proc(5): from -1000 (never) to 1000 (first).",
            of=PoolSpec,
        ),
        *(
            _key(
                name,
                Output(),
                f'Where the standard {what} goes: `"inherit"` (to that of the daemon), `"null"`, a file (appended to; '
                'opened anew by a reload), or, of a command, `"log"` (each line a record of the log). `${slot}` in the '
                "path of a command's file is the number of the slot.",
                of=PoolSpec,
            )
            for name, what in (("stdout", "output"), ("stderr", "error"))
        ),
        _key(
            "kill_mode",
            member_of(KillMode),
            '`"tree"`: with a worker ends every process that descends from it, daemons included; `"process"`: only the '
            "worker (of a command: its process group), so that what it has started on purpose lives on.",
            of=PoolSpec,
        ),
        _key("hooks", Nested(HOOKS, Hooks), "See below.", default=Hooks()),
        _key("limits", Nested(LIMITS, Limits), "See below.", default=Limits(), kinds=WITH_UNITS),
        _key("backoff", Nested(BACKOFF, Backoff), "See below.", default=Backoff()),
        _key("reload", Nested(RELOAD, Reload), "See below.", default=Reload()),
    ),
)

# Every table there is.
TABLES = (DAEMON, AUTH, DATABASE, POOL, LIMITS, BACKOFF, HOOKS, RELOAD)
