"""What the workers of each kind work on. A name may mean something else in another kind: `app` does."""

from __future__ import annotations

from procman.config.addresses import HttpUrl, ListenAddress
from procman.config.commands import Ready, Sockets
from procman.config.keys.channel import Channels
from procman.config.keys.key import Computed, key
from procman.config.values import Duration, Integer, ListOf, OrAuto, OrNone, Text, member_of
from procman.config.words import Application, Command, DatabaseResolver, HistoryAge, Module, Umask
from procman.core.spec import (
    MOST_EXCHANGES,
    CronWork,
    ExecWork,
    HttpWork,
    JobQueue,
    JobrunnerWork,
    Kind,
    LongpollingWork,
    Work,
)

WORK: dict[Kind, type[Work]] = {
    Kind.HTTP: HttpWork,
    Kind.CRON: CronWork,
    Kind.JOBRUNNER: JobrunnerWork,
    Kind.LONGPOLLING: LongpollingWork,
    Kind.EXEC: ExecWork,
}

_WITH_WEB_APP = {Kind.HTTP, Kind.LONGPOLLING}

WORK_KEYS = (
    key(
        "app",
        Application(),
        "WSGI application, `module:callable`, or a factory of one, `module:factory()`.",
        of=HttpWork,
        kinds={Kind.HTTP},
    ),
    key(
        "app",
        Application(),
        "The application whose modules know the bus; without one, only the bus is served.",
        default=Computed("none"),
        kinds={Kind.LONGPOLLING},
    ),
    key(
        "database_from",
        OrNone(DatabaseResolver()),
        "Which of `[database] databases` a request is for: by its host, where `%h` is the name and `%d` its first "
        "label, by a header, or as a function of the environ says. A host that is no one database's gets 404.",
        of=HttpWork,
        kinds={Kind.HTTP},
    ),
    key(
        "app",
        ListOf(Module()),
        "Modules to import: their `@procman.cron` functions run.",
        of=CronWork,
        field="modules",
        kinds={Kind.CRON},
    ),
    key(
        "history_runs",
        Integer(1),
        "So many runs of each entry are remembered, of those that succeeded.",
        of=CronWork,
        kinds={Kind.CRON},
    ),
    key(
        "history_age",
        Duration(),
        "For so long runs are remembered that failed, were killed or were skipped.",
        of=CronWork,
        kinds={Kind.CRON},
    ),
    key(
        "history_age",
        HistoryAge(),
        "For so long jobs are kept that are done or cancelled; or for each channel and those below it: "
        '`{ root = "720h", "root.mail" = "24h" }`. Those that failed are kept.',
        of=JobrunnerWork,
        kinds={Kind.JOBRUNNER},
    ),
    key("bind", ListOf(ListenAddress()), "Where to listen.", of=HttpWork, field="binds", kinds=_WITH_WEB_APP),
    key(
        "socket_mode",
        Umask(),
        "Permissions of the files of its unix sockets: who may write may connect; without, `umask` leaves them.",
        of=HttpWork,
        kinds=_WITH_WEB_APP,
    ),
    key(
        "channels",
        Channels(),
        "Channels and their capacities, in the notation of OCA's queue_job or as tables, see below.",
        of=JobrunnerWork,
        kinds={Kind.JOBRUNNER},
    ),
    key(
        "target",
        Text("the name of a pool"),
        "The http pool that runs the jobs.",
        default=Computed("the only http pool"),
        kinds={Kind.JOBRUNNER},
    ),
    key(
        "capacity",
        OrAuto(Integer(1, MOST_EXCHANGES)),
        'Jobs at once, of all channels. `"auto"`: as many as the pool has workers that no user is served by.',
        of=JobrunnerWork,
        kinds={Kind.JOBRUNNER},
    ),
    key(
        "reserve",
        Integer(0, 10_000),
        'With `capacity = "auto"`: so many workers are left to users; with more than one at least one is for jobs.',
        default=Computed("1 if users have no other http pool, else 0"),
        kinds={Kind.JOBRUNNER},
    ),
    key(
        "url",
        HttpUrl(),
        "A server that runs the jobs, instead of a pool: an Odoo with OCA's queue_job. `https://USER:PASSWORD@HOST` "
        "asks encrypted, and as somebody.",
        default=Computed("none"),
        kinds={Kind.JOBRUNNER},
    ),
    key(
        "queues",
        ListOf(member_of(JobQueue)),
        "Whose jobs are started, in databases that have them: those of `@procman.job`, or of OCA's queue_job.",
        default=Computed('`"procman"`; `"queue_job"` with a `url`'),
        kinds={Kind.JOBRUNNER},
    ),
    key(
        "command",
        Command(),
        "Program and arguments; there is no shell. `${slot}` is the number of the slot, `${fd:NAME}` of a socket.",
        of=ExecWork,
        kinds={Kind.EXEC},
    ),
)

# When a command is ready, and what it inherits.
EXEC_KEYS = (
    key(
        "ready",
        Ready(),
        '`"alive"`: after `start_seconds`; `"notify"`: when it says so by sd_notify(3); a probe: when the URL '
        "answers with 2xx or 3xx, the address accepts, or the command succeeds. It is asked every `interval` "
        "(0.5 s), and has `timeout` (2 s) to answer, until `start_timeout`. `${slot}` is the number of the slot. "
        "Whoever answers is believed, so give each worker an address of its own.",
        of=ExecWork,
        kinds={Kind.EXEC},
    ),
    key(
        "sockets",
        Sockets(),
        "Listening sockets that the daemon holds and the command inherits, as systemd's socket activation passes "
        "them (`LISTEN_FDS`, `LISTEN_FDNAMES`); `${fd:NAME}` in the command is the number of one. They stay open "
        "while workers come and go.",
        of=ExecWork,
        kinds={Kind.EXEC},
    ),
    key(
        "start_seconds",
        Duration(zero=True),
        "A command that has lived for this long is ready.",
        of=ExecWork,
        kinds={Kind.EXEC},
    ),
)
