"""The keys of `[procman]`, about the daemon itself, and of `[procman.auth]`, about who may speak to it."""

from __future__ import annotations

from procman.config.addresses import DashboardAddress, Endpoint, FilePath
from procman.config.clients import Clients, KeyFile
from procman.config.keys.key import Computed, Nested, Table, key
from procman.config.values import Duration, ListOf, Word
from procman.config.words import Account
from procman.core.spec import AuthSpec, DaemonSpec

AUTH = Table(
    title="procman.auth",
    doc="Who may connect over tcp, proved by CURVE keys ([security](security.md)). Made with `procmanctl keys`.",
    keys=(
        key(
            "keys",
            KeyFile(),
            "The daemon's own key pair, mode 0600. Needed as soon as an endpoint is `tcp://`.",
            default=Computed("none"),
        ),
        key("clients", Clients(), "Who may connect, by name: the public key, and the role.", of=AuthSpec),
        key(
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
        key(
            "control",
            ListOf(Endpoint()),
            "Where `procmanctl` and Circus clients connect; mode 0600. A list opens several. `tcp://` needs `auth`.",
            default=Computed("`ipc://STATE_DIR/control.sock`"),
        ),
        key(
            "control_read_only",
            ListOf(Endpoint(tcp=False), empty=True),
            "Where only commands that change nothing are taken.",
            default=Computed("with a dashboard `ipc://STATE_DIR/monitor.sock`, else none"),
        ),
        key(
            "events",
            ListOf(Endpoint()),
            "Where events are published.",
            default=Computed("`ipc://STATE_DIR/events.sock`"),
        ),
        key(
            "read_only_group",
            Account("group"),
            "Its members may connect to `control_read_only` and `events` (mode 0660), too.",
            of=DaemonSpec,
        ),
        key(
            "state_dir",
            FilePath("a directory"),
            "Sockets, scoreboard, embedded database. Made with mode 0700 when it is missing.",
            default=Computed("`var` beside the file"),
        ),
        key(
            "dashboard",
            DashboardAddress(),
            "Where the status page, `/metrics`, `/livez` and `/readyz` are served, without a login: keep it local.",
            of=DaemonSpec,
        ),
        key("dashboard_user", Account("user"), "User to run the dashboard as; needs `read_only_group`.", of=DaemonSpec),
        key(
            "log_format", Word(("text", "json"), str), "One line per event, for people or for machines.", of=DaemonSpec
        ),
        key(
            "stop_timeout",
            Duration(),
            "How long units may run on after SIGTERM; also the default of every pool.",
            of=DaemonSpec,
        ),
        key("auth", Nested(AUTH, AuthSpec), "See below.", of=DaemonSpec),
    ),
)
