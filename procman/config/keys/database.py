"""The keys of `[database]`: which one it is, how units work in it, what a process keeps of it."""

from __future__ import annotations

from procman.config.addresses import DatabaseUrl, ListenUrl
from procman.config.keys.key import REQUIRED, Table, key
from procman.config.values import Duration, Integer, OrNone, Size, member_of
from procman.config.words import Databases
from procman.core.spec import DatabaseSpec, Isolation, SignalStore

DATABASE = Table(
    title="database",
    doc="The one thing processes share. Without this table, and without `$PROCMAN_DATABASE_URL`, there is no database.",
    keys=(
        key(
            "url",
            DatabaseUrl(),
            "`embedded` runs a private PostgreSQL in the state directory. `$PROCMAN_DATABASE_URL` overrides it.",
            default=REQUIRED,
        ),
        key(
            "listen_url",
            OrNone(ListenUrl()),
            "The same server past a pooler such as PgBouncer, for LISTEN, which needs a session of its own.",
            of=DatabaseSpec,
        ),
        key(
            "databases",
            Databases(),
            'More databases on the same server, for cron and jobs: names; `"auto"`, which is all that the role owns; '
            'patterns such as `"shop_*"`; and with a `!` those that are left out. Those that match are found while '
            "everything runs: within 30 s, or at once after `NOTIFY procman_databases` in the main one.",
            default=(),
        ),
        key(
            "isolation",
            member_of(Isolation),
            "Of the transactions of units. `read committed` lets a unit meet the data of two moments.",
            of=DatabaseSpec,
        ),
        key(
            "signaling",
            member_of(SignalStore),
            "`sequences` shares the signals of an Odoo server on this database, and the races they have.",
            of=DatabaseSpec,
        ),
        key(
            "cache_size",
            OrNone(Size(optional=True)),
            "Of all that is `@procman.cached`, per process: estimated, what was used least recently goes.",
            of=DatabaseSpec,
        ),
        key(
            "registries",
            Integer(1),
            "Of so many databases a process keeps registry and caches, or of as many as `memory_soft` has room for at "
            "15 MiB each; the one used least recently goes.",
            of=DatabaseSpec,
        ),
        key("connections", Integer(1, 1000), "At most so many per process and database.", of=DatabaseSpec),
        key(
            "connection_idle_time",
            OrNone(Duration(optional=True)),
            "A connection that was not needed for so long is closed.",
            of=DatabaseSpec,
        ),
        key(
            "connection_lifetime",
            OrNone(Duration(optional=True)),
            "An older connection is closed after its unit.",
            of=DatabaseSpec,
        ),
    ),
)
