"""What the arbiter wants done. The daemon performs effects; what comes of them returns as events."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from procman.core.difference import Change
    from procman.core.reason import Reason
    from procman.core.spec import HookName, PoolSpec


@dataclass(frozen=True, slots=True)
class StartTemplate:
    spec: PoolSpec
    generation: int


@dataclass(frozen=True, slots=True)
class StopTemplate:
    """End the template: at once, or, when ``evidence`` is wanted of what it is stuck in, after its stacks have come."""

    pool: str
    generation: int
    evidence: bool = False


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a worker: forked from the template of its generation, or executed when the pool has none."""

    worker: int
    spec: PoolSpec
    slot: int
    generation: int


@dataclass(frozen=True, slots=True)
class Retire:
    """Ask the worker to finish its unit and go; by this signal instead of the usual way, when one is given."""

    worker: int
    reason: Reason
    signum: int | None = None


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Abort the unit the worker is in, by an exception; what it waits for in PostgreSQL is cancelled."""

    worker: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Dump:
    """Get the stacks of the worker into the log; answered by WorkerDumped."""

    worker: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL."""

    worker: int


@dataclass(frozen=True, slots=True)
class Look:
    """Read the records of these workers of one pool; answered at once by Sampled."""

    pool: str
    workers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask the worker for a sign of life, which will show in its record."""

    worker: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask an exec worker by its probe whether it is ready; answered by Probed, within the probe's timeout."""

    worker: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHook:
    """Run a hook of a pool; answered by HookEnded. The rest is what it is told about the worker, if it is of one."""

    id: int
    hook: HookName
    spec: PoolSpec
    generation: int
    worker: str | None = None
    slot: int | None = None
    pid: int | None = None
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class EndHook:
    """Kill a hook, with all that it has started; answered by HookEnded at once."""

    id: int


@dataclass(frozen=True, slots=True)
class Measure:
    """Find out how much the pool has to do, and if asked how much memory it uses; answered at once by Measured."""

    pool: str
    workers: tuple[int, ...]
    memory: bool


@dataclass(frozen=True, slots=True)
class Adjust:
    """The pool's live part has changed: its templates and workers go by this one now."""

    spec: PoolSpec


@dataclass(frozen=True, slots=True)
class Forget:
    """The pool was taken out of the configuration and nothing of it is left."""

    pool: str


class Level(Enum):
    """How loud a report is. The names are those of the standard library's logging."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Something people and programs want to know: a log line, and an event ``pool.<pool>.<event>``."""

    event: str
    text: str
    level: Level = Level.INFO
    pool: str | None = None
    worker: str | None = None
    slot: int | None = None
    generation: int | None = None
    pid: int | None = None
    reason: Reason | None = None
    details: Mapping[str, object] = field(default_factory=dict)


class Outcome(Enum):
    DONE = "done"
    FAILED = "failed"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class Concluded:
    """One pool's part of an operation has come to its end."""

    operation: str
    pool: str
    outcome: Outcome
    reason: str = ""
    traceback: str = ""
    change: Change | None = None  # what a new configuration meant for the pool


@dataclass(frozen=True, slots=True)
class Serving:
    """Every pool that is to run is ready: the daemon is up (for the first time, or again)."""


@dataclass(frozen=True, slots=True)
class Leave:
    """Nothing is left: the daemon ends with this exit status."""

    status: int


Effect = (
    StartTemplate
    | StopTemplate
    | Spawn
    | Retire
    | Interrupt
    | Dump
    | Kill
    | Look
    | Measure
    | Ping
    | Ask
    | RunHook
    | EndHook
    | Adjust
    | Forget
    | Report
    | Concluded
    | Serving
    | Leave
)
