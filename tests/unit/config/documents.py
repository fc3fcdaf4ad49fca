"""Configurations made at random: right ones, and ones in which any value may be anything."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from procman.config.keys import KINDS, TABLES
from procman.core.spec import HookName, Isolation, Kind


def toml(value):
    """The value as TOML."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return f"[{', '.join(toml(item) for item in value)}]"
        case dict():
            return f"{{ {', '.join(f'{toml(key)} = {toml(item)}' for key, item in value.items())} }}"
        case _:
            return repr(value)


def table(title, pairs):
    """A table with its header; what is a table itself is written in braces."""
    return "\n".join([f"[{title}]", *(f"{key} = {toml(value)}" for key, value in pairs.items()), ""])


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0$"), min_size=1, max_size=12)
durations = st.one_of(
    st.integers(1, 10**6),
    st.floats(1e-6, 1e6),
    st.builds("{}{}".format, st.integers(1, 999), st.sampled_from(["ms", "s", "m", "h"])),
)
sizes = st.one_of(
    st.integers(1, 2**60), st.builds("{}{}".format, st.integers(1, 999), st.sampled_from(["kB", "MB", "KiB", "GiB"]))
)
whole = st.integers(1, 10**6)
words = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
modules = st.lists(words.map(lambda word: f"m_{word}"), min_size=1, max_size=3).map(".".join)
applications = st.builds("{}:{}".format, modules, st.sampled_from(["application", "app.wsgi", "make_app()"]))
paths = st.lists(st.sampled_from(["a", "b c", "é", "..", "$${x}", ".", '"', "'"]), min_size=1, max_size=4).map("/".join)
variables = st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,6}", fullmatch=True), texts | st.just(""), max_size=3)


scalings = st.fixed_dictionaries(
    {"min": st.integers(1, 5), "max": st.integers(5, 10_000)},
    optional={"busy": st.floats(0.05, 1), "memory_budget": sizes.filter(lambda size: isinstance(size, str))},
)


def or_none(strategy):
    return st.just("none") | strategy


def one_or_more(strategy):
    return strategy | st.lists(strategy, min_size=1, max_size=3)


probes = st.fixed_dictionaries({"http": st.just("http://[::1]:80${slot}/ready?a=b")}) | st.fixed_dictionaries(
    {
        "tcp": st.sampled_from(["localhost:6379", "unix:x ${slot}.sock"]),
        "interval": durations,
        "timeout": durations,
    }
)
probes |= st.fixed_dictionaries({"command": st.lists(texts, min_size=1, max_size=3)}, optional={"timeout": durations})

PUBLIC_KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"  # the one of RFC 32's example and of zmq_curve(7)

# By name, for every key that is built; test_every_key_is_tried sees to that.
VALUES = {
    "procman": {
        "control": st.sampled_from(["ipc://c.sock", ["ipc://c.sock"], ["ipc://c.sock", "ipc:///run/x/c2.sock"]]),
        "events": st.sampled_from(["ipc://e.sock", ["ipc://e.sock", "ipc:///run/x/e2.sock"]]),
        "control_read_only": st.sampled_from(["ipc://r.sock", ["ipc://r.sock", "ipc:///run/x/r2.sock"]]),
        "read_only_group": st.just("root"),
        "dashboard_user": st.nothing(),
        "auth": st.nothing(),
        "state_dir": paths,
        "dashboard": st.sampled_from(["", "127.0.0.1:7999", "[::1]:7999", "unix:d $${x}.sock", "fd:dashboard"]),
        "log_format": st.sampled_from(["text", "json"]),
        "stop_timeout": durations,
    },
    "procman.auth": {
        "keys": st.nothing(),
        "clients": st.dictionaries(
            words, st.just({"key": PUBLIC_KEY, "role": "full"}) | st.just({"key": PUBLIC_KEY}), max_size=1
        ),
        "client_keys": paths,
    },
    "database": {
        "url": st.sampled_from(["embedded", "postgresql://u:p%40@h:1/d?sslmode=require", "dbname='the shop'"]),
        "listen_url": or_none(st.just("postgresql://past-the-pooler:5432/d")),
        "databases": st.lists(texts, max_size=3, unique=True) | st.sampled_from(["auto", "shop_*", ["a", "*", "!b"]]),
        "isolation": st.sampled_from([level.value for level in Isolation]),
        "signaling": st.sampled_from(["digest", "sequences"]),
        "cache_size": or_none(sizes),
        "registries": st.integers(1, 1000),
        "connections": st.integers(1, 1000),
        "connection_idle_time": or_none(durations),
        "connection_lifetime": or_none(durations),
    },
    "pools.NAME": {
        "kind": st.nothing(),
        "app": st.nothing(),
        "bind": st.nothing(),
        "target": st.just("http"),
        "url": st.nothing(),
        "capacity": st.integers(1, 500) | st.just("auto"),
        "reserve": st.integers(0, 10_000),
        "queues": st.sampled_from(["procman", "queue_job", ["queue_job", "procman"]]),
        "channels": st.sampled_from(["root:4", "root:4,root.a:1:throttle=2\nroot.b:sequential:per_database=3"]),
        "command": st.lists(texts, min_size=1, max_size=4),
        "history_runs": st.integers(1, 10_000),
        "history_age": durations,  # for a jobrunner pool a table as well: tests/unit/config/test_values.py
        "workers": st.integers(1, 10_000) | st.just("auto") | scalings,
        "threads": st.integers(1, 1024),
        "keepalive": durations | st.just(0),
        "header_timeout": durations,
        "database_from": or_none(st.sampled_from(["host:^%d$", "header:X-Db", "a.b:choose"])),
        "max_body": sizes,
        "body_buffer": sizes,
        "body_rate": sizes,
        "response_buffer": sizes,
        "socket_mode": st.integers(0, 0o777).map("{:o}".format),
        "max_connections": st.integers(1, 100000),
        "trusted_proxies": st.sampled_from(["192.0.2.1", ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"]]),
        "proxy_headers": st.sampled_from(["forwarded", ["x-forwarded-for", "x-forwarded-proto"]]),
        "proxy_protocol": st.booleans(),
        "access_log": st.sampled_from(["off", "text", "json", "text:a b.log", "json:/var/log/é.log"]),
        "certfile": st.just("certificate.pem"),
        "keyfile": st.just("certificate.key"),
        "poll_timeout": durations,
        "ready": st.sampled_from(["alive", "notify"]) | probes,
        "sockets": st.nothing(),
        "start_seconds": durations | st.just(0),
        "autostart": st.booleans(),
        "essential": st.booleans(),
        "depends_on": st.sampled_from([[], "beside", ["beside"]]),
        "start_timeout": durations,
        "stop_timeout": durations,
        "stop_signal": st.sampled_from(["TERM", "SIGINT", "USR2"]),
        "kill_timeout": durations,
        "hang_timeout": or_none(durations),
        "relaxed": or_none(durations),
        "max_restarts": whole,
        "restart_window": durations,
        "working_dir": paths,
        "env": variables,
        "env_file": st.nothing(),
        "user": st.just("root") | st.just(0),
        "group": st.just("root") | st.just(0),
        "umask": st.integers(0, 0o777).map("{:o}".format),
        "nice": st.integers(-20, 19),
        "rlimits": st.dictionaries(
            st.sampled_from(["nofile", "core", "data"]), st.integers(0, 10**9) | st.just("unlimited")
        ),
        "oom_score_adj": st.integers(-1000, 1000),
        "stdout": st.sampled_from(["inherit", "null"]) | paths,
        "stderr": st.sampled_from(["inherit", "null"]) | paths,
        "kill_mode": st.sampled_from(["tree", "process"]),
        "limits": st.nothing(),
        "recycle_at_once": st.integers(1, 10_000),
        "backoff": st.nothing(),
        "hooks": st.nothing(),
        "reload": st.nothing(),
    },
    "pools.NAME.channels.CHANNEL": {
        "capacity": st.just("none") | st.just(1),  # which a sequential one can have
        "sequential": st.booleans(),
        "throttle": durations | st.just(0),
        "paused": st.booleans(),
        "fair": st.booleans() | st.dictionaries(words, st.integers(1, 9), max_size=3),
        "per_database": whole | st.just("prod_*:20,*:5") | st.dictionaries(words, st.integers(0, 9), max_size=3),
        "capacity_default": or_none(whole),
        "sequential_default": st.booleans(),
    },
    "pools.NAME.limits": {
        "memory_soft": or_none(sizes.filter(lambda size: isinstance(size, str))),
        "memory_hard": or_none(st.integers(2**50, 2**60)),
        "memory_hard_by": st.sampled_from(["rlimit", "cgroup"]),
        "memory_metric": st.sampled_from(["rss", "pss", "uss", "vms"]),
        "time_cpu": or_none(durations),
        "time_real": or_none(durations),
        "requests": whole,
        "requests_jitter": st.integers(0, 1000),
        "age": durations,
        "age_jitter": durations | st.just(0),
    },
    "pools.NAME.backoff": {
        "first": st.floats(0.001, 10),
        "factor": st.floats(1, 100) | st.integers(1, 100),
        "most": st.floats(10, 1000),
        "lived": durations,
    },
    "pools.NAME.hooks": {
        **{hook.value: st.lists(texts, max_size=3) for hook in HookName},
        "timeout": durations,
    },
    "pools.NAME.reload": {
        "surge": st.integers(0, 10_000),
        "max_unavailable": st.integers(1, 10_000),
        "canary": st.booleans(),
        "delay": durations | st.just(0),
    },
}


@st.composite
def some_of(draw, title, kind=None, always=()):
    """Some keys of a table that the kind takes, with values."""
    names = {
        key.name for key in {table.title: table for table in TABLES}[title].keys if kind is None or kind in key.kinds
    }
    values = VALUES[title]
    chosen = draw(st.sets(st.sampled_from(sorted(name for name in names if not values[name].is_empty)), max_size=6))
    return {name: draw(values[name]) for name in sorted(chosen | set(always))}


def complete(pairs, number):
    """Put in what others of these keys can't do without."""
    if pairs.get("proxy_headers") or pairs.get("proxy_protocol"):
        pairs.setdefault("trusted_proxies", "192.0.2.1")
    if pairs.get("certfile") or pairs.get("keyfile"):
        pairs["certfile"] = "certificate.pem"
        pairs["bind"] = f"unix:{number}.sock"  # which the job runner can talk to


@st.composite
def web(draw, name, number):
    """What a pool that listens can't do without."""
    pairs = {"app": draw(applications)}
    addresses = [f"127.0.0.1:{8000 + number}", f"unix:{number}.sock", f"fd:{name}", f"[::1]:{9000 + number}"]
    some = draw(st.lists(st.sampled_from(addresses), min_size=1, max_size=3, unique=True))
    pairs["bind"] = some[0] if len(some) == 1 and draw(st.booleans()) else some
    if pairs["bind"] in ([addresses[2]], addresses[2]):
        pairs["bind"] = addresses[0]
    return pairs


@st.composite
def pools(draw, name, kind, number):
    """One pool of the kind."""
    pairs = {"kind": kind.value}
    if kind in (Kind.HTTP, Kind.LONGPOLLING):
        pairs |= draw(web(name, number))
    elif kind is Kind.CRON:
        pairs["app"] = draw(one_or_more(modules))
    pairs |= draw(some_of("pools.NAME", kind, ["command"] if kind is Kind.EXEC else []))
    for nested in draw(st.sets(st.sampled_from(["backoff", "hooks", "reload"]))):
        pairs[nested] = draw(some_of(f"pools.NAME.{nested}"))
    complete(pairs, number)
    if kind is Kind.JOBRUNNER:
        if draw(st.booleans()):
            channel = some_of("pools.NAME.channels.CHANNEL") | st.integers(1, 9)
            names = st.sampled_from(["root", "root.a", "root.a.b", "b c", "ü"])
            pairs["channels"] = draw(st.dictionaries(names, channel, min_size=1))
        pairs.pop("target", None)
        pairs |= draw(st.sampled_from([{"target": "http"}, {"url": "https://a:b%40@odoo:8069"}]))
    if kind in (Kind.EXEC, Kind.LONGPOLLING, Kind.JOBRUNNER) and isinstance(pairs.get("workers"), dict):
        del pairs["workers"]
    if kind is Kind.EXEC and draw(st.booleans()):
        pairs["sockets"] = {"web": f"127.0.0.1:{7000 + number}", "a-b": f"unix:{number} b.sock"}
        pairs["command"] = [*pairs["command"], "${fd:web}", "--${slot}"]
        pairs["stdout"] = "log"
    if kind is not Kind.EXEC and draw(st.booleans()):
        pairs["limits"] = draw(some_of("pools.NAME.limits", kind, ["requests", "age"]))
    if name == "beside":
        pairs.pop("depends_on", None)
    return table(f"pools.{name}", pairs)


@st.composite
def right_documents(draw):
    """A configuration in which nothing is wrong."""
    text = table("procman", draw(some_of("procman"))) + table("procman.auth", draw(some_of("procman.auth")))
    text += table("database", draw(some_of("database", None, ["url"])))
    text += draw(pools("http", Kind.HTTP, 0)) + draw(pools("beside", Kind.EXEC, 1))
    for number, kind in enumerate(draw(st.lists(st.sampled_from(sorted(KINDS)), max_size=3)), 2):
        text += draw(pools(f"p-{number}", kind, number))
    return text


anything = st.recursive(
    st.one_of(
        st.integers(),
        st.floats(),
        st.booleans(),
        st.sampled_from(
            ["", "none", "auto", "${A}", "${B:-7}", "${", "0", "30s", "1MiB", "http", "unix:x", "a:b", "x\0"]
        ),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def any_documents(draw):
    """Tables and keys that exist, and a few that don't, with any values."""
    names = {one: [*sorted(VALUES[one]), "nothing"] for one in VALUES}
    text = ""
    for title in draw(st.sets(st.sampled_from(["procman", "database", "extra"]))):
        pairs = draw(st.dictionaries(st.sampled_from(names.get(title, ["x"])), anything, max_size=4))
        if title == "procman" and draw(st.booleans()):
            pairs["auth"] = draw(st.dictionaries(st.sampled_from(names["procman.auth"]), anything, max_size=3))
        text += table(title, pairs)
    for name in draw(st.sets(st.sampled_from(["a", "b", "postgres", "c"]), max_size=4)):
        pairs = draw(st.dictionaries(st.sampled_from(names["pools.NAME"]), anything, max_size=5))
        if draw(st.booleans()):
            channel = st.dictionaries(st.sampled_from(names["pools.NAME.channels.CHANNEL"]), anything, max_size=3)
            pairs["channels"] = draw(st.dictionaries(words, channel | anything, max_size=3))
        kind = draw(st.sampled_from([*sorted(KINDS), "nothing", 1]))
        for nested in ("limits", "backoff", "hooks", "reload"):
            if draw(st.booleans()):
                some = st.sampled_from(names[f"pools.NAME.{nested}"])
                pairs[nested] = draw(st.dictionaries(some, anything, max_size=3))
        text += table(f"pools.{name}", {"kind": kind} | pairs)
    return text


def built_keys():
    """The names of all keys that are built, by table."""
    return {one.title: {key.name for key in one.keys} for one in TABLES}
