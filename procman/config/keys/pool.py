"""The keys of `[pools.NAME]`: those of every pool here, those of one kind from the modules beside this one."""

from __future__ import annotations

from procman.config.addresses import FilePath
from procman.config.commands import Output
from procman.config.keys.http import HTTP_KEYS
from procman.config.keys.key import REQUIRED, WITH_UNITS, Computed, Nested, Table, key
from procman.config.keys.policy import BACKOFF, HOOKS, LIMITS, RELOAD
from procman.config.keys.work import EXEC_KEYS, WORK_KEYS
from procman.config.values import Boolean, Duration, Integer, ListOf, OrNone, Text, member_of
from procman.config.words import Account, ResourceLimits, SignalName, Umask, Variables, Workers
from procman.core.spec import Backoff, Hooks, KillMode, Kind, Limits, PoolSpec, Reload

# How any pool is kept.
_KEPT = (
    key("autostart", Boolean(), "Start the pool with the daemon.", of=PoolSpec),
    key("essential", Boolean(), "When this pool is given up, the daemon stops.", of=PoolSpec),
    key(
        "depends_on",
        ListOf(Text("the name of a pool"), empty=True),
        "Pools to be ready before this one starts.",
        of=PoolSpec,
    ),
    key("start_timeout", Duration(), "How long a worker, or the import, may take until it is ready.", of=PoolSpec),
    key(
        "stop_timeout",
        Duration(),
        "How long a worker may take to finish its unit.",
        default=Computed("that of `[procman]`"),
    ),
    key(
        "stop_signal",
        SignalName(),
        "What asks a command to stop. Workers of the other kinds are asked over their channel.",
        of=PoolSpec,
    ),
    key("kill_timeout", Duration(), "From asking a unit to end to the stacks and SIGKILL.", of=PoolSpec),
    key(
        "hang_timeout",
        OrNone(Duration()),
        "A worker that is in no unit and gives no sign of life for this long, although asked, is ended.",
        of=PoolSpec,
        kinds=WITH_UNITS,
    ),
    key(
        "relaxed",
        OrNone(Duration(optional=True)),
        "Caches are believed for so long without a look at the database, unless a worker of this daemon has "
        "invalidated something; `none`: every unit looks, and never meets what is stale.",
        of=PoolSpec,
        kinds=WITH_UNITS,
    ),
    key("max_restarts", Integer(1), "So many young deaths within `restart_window` park the pool.", of=PoolSpec),
    key("restart_window", Duration(), "See `max_restarts`.", of=PoolSpec),
    key(
        "recycle_at_once",
        Integer(1, 10_000),
        "So many workers at a time are replaced for a soft limit (memory, requests, age); each serves until then.",
        of=PoolSpec,
        kinds=WITH_UNITS,
    ),
)

# What its processes run in.
_SURROUNDINGS = (
    key(
        "working_dir",
        FilePath("a directory"),
        "Working directory, and first on `sys.path`.",
        default=Computed("the directory of the file"),
    ),
    key("env", Variables(), "Environment variables, beside those of the daemon.", of=PoolSpec),
    key(
        "env_file",
        ListOf(FilePath("a file")),
        "Files of `NAME=VALUE` lines, read with the configuration; `env` wins over them.",
        default=Computed("none"),
    ),
    key("user", Account("user"), "User to run as.", of=PoolSpec),
    key("group", Account("group"), "Group to run as.", of=PoolSpec),
    key("umask", Umask(), "Mask of permissions of new files.", of=PoolSpec),
    key("nice", Integer(-20, 19), "Scheduling priority; more is nicer to others.", of=PoolSpec),
    key("rlimits", ResourceLimits(), "Resource limits, setrlimit(2).", of=PoolSpec),
    key(
        "oom_score_adj",
        Integer(-1000, 1000),
        "How gladly the kernel kills it when memory runs out, proc(5): from -1000 (never) to 1000 (first).",
        of=PoolSpec,
    ),
    *(
        key(
            name,
            Output(),
            f'Where the standard {what} goes: `"inherit"` (to that of the daemon), `"null"`, a file (appended to; '
            'opened anew by a reload), or, of a command, `"log"` (each line a record of the log). `${slot}` in the '
            "path of a command's file is the number of the slot.",
            of=PoolSpec,
        )
        for name, what in (("stdout", "output"), ("stderr", "error"))
    ),
    key(
        "kill_mode",
        member_of(KillMode),
        '`"tree"`: with a worker ends every process that descends from it, daemons included; `"process"`: only the '
        "worker (of a command: its process group), so that what it has started on purpose lives on.",
        of=PoolSpec,
    ),
)

POOL = Table(
    title="pools.NAME",
    doc="A pool of workers. At least one is needed, and each needs its `kind`.",
    keys=(
        key("kind", member_of(Kind, Kind.POSTGRES), "What the workers do.", default=REQUIRED),
        *WORK_KEYS,
        key(
            "workers",
            Workers(),
            '`"auto"`: twice the cores the process may use, plus one. With a table the pool scales itself: see below.',
            of=PoolSpec,
        ),
        *HTTP_KEYS,
        *EXEC_KEYS,
        *_KEPT,
        *_SURROUNDINGS,
        key("hooks", Nested(HOOKS, Hooks), "See below.", default=Hooks()),
        key("limits", Nested(LIMITS, Limits), "See below.", default=Limits(), kinds=WITH_UNITS),
        key("backoff", Nested(BACKOFF, Backoff), "See below.", default=Backoff()),
        key("reload", Nested(RELOAD, Reload), "See below.", default=Reload()),
    ),
)
