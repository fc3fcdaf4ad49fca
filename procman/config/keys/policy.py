"""The tables of a pool: when a worker goes, how the next one comes, and what is run at these moments."""

from __future__ import annotations

from procman.config.commands import HookCommand
from procman.config.keys.key import WITH_UNITS, Computed, Table, key
from procman.config.values import Boolean, Duration, Fraction, Integer, OrNone, Size, member_of
from procman.core.spec import Backoff, HookName, Hooks, Limits, MemoryHardBy, MemoryMetric, Reload

LIMITS = Table(
    title="pools.NAME.limits",
    doc='When a worker is replaced or a unit is ended. A limit that is left out, or `"none"`, does not exist.',
    keys=tuple(
        key(name, kept_as, doc, of=Limits, kinds=WITH_UNITS)
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
        key("first", Duration(), "The first wait.", of=Backoff),
        key("factor", Fraction(1, 100), "By how much each wait is longer than the one before.", of=Backoff),
        key("most", Duration(), "No wait is longer.", of=Backoff),
        key("lived", Duration(), "A worker that was ready for this long did not die young.", of=Backoff),
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
        *(key(hook.value, HookCommand(), doc, default=()) for hook, doc in _HOOKS.items()),
        key("timeout", Duration(), "A hook that takes longer is killed, and has failed.", of=Hooks),
    ),
)

RELOAD = Table(
    title="pools.NAME.reload",
    doc="How the workers of one generation give way to those of the next.",
    keys=(
        key(
            "surge",
            Integer(0, 10_000),
            "So many new workers may be starting beside a full pool; 0: an old one goes before its successor comes.",
            of=Reload,
            default=Computed("1; 0 for `exec`"),
        ),
        key("max_unavailable", Integer(1, 10_000), "Without a surge: so many may be missing at a time.", of=Reload),
        key("canary", Boolean(), "The first new worker is alone until it is ready.", of=Reload),
        key(
            "delay",
            Duration(zero=True),
            "Each new worker has to have served this long before it goes on; one that dies meanwhile ends the reload.",
            of=Reload,
        ),
    ),
)
