"""What can happen to the arbiter. Each is a plain fact; when it happened is the ``now`` given beside it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from procman.core.reason import Reason
    from procman.core.sample import Sample
    from procman.core.scaling import Load
    from procman.core.spec import PoolSpec


class Haste(Enum):
    """How a shutdown goes about it."""

    GRACEFUL = "graceful"  # every unit finishes within its own limits
    BOUNDED = "bounded"  # drain for stop_timeout, then dump and kill
    NOW = "now"  # kill


@dataclass(frozen=True, slots=True)
class Begin:
    """The daemon is set up: start the pools."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A deadline may have passed."""


@dataclass(frozen=True, slots=True)
class TemplateReady:
    pool: str
    generation: int


@dataclass(frozen=True, slots=True)
class TemplateLost:
    """The template's end of its channel is gone and the template is not: nothing can be asked of it any more."""

    pool: str
    generation: int


@dataclass(frozen=True, slots=True)
class TemplateGone:
    """The template's process has ended. ``traceback`` is what it said, or how it ended."""

    pool: str
    generation: int
    traceback: str
    chance: float


@dataclass(frozen=True, slots=True)
class WorkerSpawned:
    worker: int
    pid: int


@dataclass(frozen=True, slots=True)
class CommandRuns:
    """The worker of an exec pool has become its command."""

    worker: int


@dataclass(frozen=True, slots=True)
class WorkerReady:
    worker: int


@dataclass(frozen=True, slots=True)
class WorkerRetiring:
    """The worker goes by itself: a limit of its own, or a signal."""

    worker: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class RecycleAsked:
    """The worker has reached a soft limit: it serves on, and goes when it is told to."""

    worker: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class UnitBounded:
    """The unit that the worker is in may take ``seconds``, less than any that it has been in before."""

    worker: int
    seconds: float


@dataclass(frozen=True, slots=True)
class EntryDeactivated:
    """A cron worker has given up an entry, which has failed for too long; ``text`` says how."""

    worker: int
    entry: str
    database: str
    text: str


@dataclass(frozen=True, slots=True)
class WorkerFailed:
    """The worker can't start; it will exit."""

    worker: int
    traceback: str


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """The worker's end of its channel is gone and the worker is not: nothing can be said to it any more."""

    worker: int


@dataclass(frozen=True, slots=True)
class WorkerDumped:
    """The stacks of the worker are in the log; this is their text."""

    worker: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """``status`` is the exit status, -N for a signal (as in subprocess), None when it never came to be.

    ``chance`` is a random number in [0, 1) for the jitter of a back-off.
    """

    worker: int
    status: int | None
    chance: float
    oom: bool = False


@dataclass(frozen=True, slots=True)
class Sampled:
    """The answer to the effect `Look`: (worker, what its record says), of one pool."""

    pool: str
    samples: tuple[tuple[int, Sample], ...]


@dataclass(frozen=True, slots=True)
class Probed:
    """The answer to the effect `Ask`: why the worker is not ready; empty when it is."""

    worker: int
    complaint: str


@dataclass(frozen=True, slots=True)
class HookEnded:
    """A hook of the pool has ended: why it has failed, empty when it has not. ``chance`` as of `WorkerExited`."""

    pool: str
    hook: int
    complaint: str
    chance: float


@dataclass(frozen=True, slots=True)
class Measured:
    """The answer to the effect `Measure`."""

    pool: str
    load: Load


@dataclass(frozen=True, slots=True)
class ReloadAsked:
    operation: str
    pools: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StartAsked:
    operation: str
    pools: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StopAsked:
    operation: str
    pools: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RestartAsked:
    operation: str
    pools: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScaleAsked:
    operation: str
    pool: str
    workers: int


@dataclass(frozen=True, slots=True)
class KillAsked:
    """End one worker now, with its unit: stacks, then SIGKILL."""

    worker: int


@dataclass(frozen=True, slots=True)
class RetireAsked:
    """End one worker when it has finished its unit, after ``grace`` seconds at the latest; ``signum`` asks it to."""

    worker: int
    grace: float
    signum: int | None = None


@dataclass(frozen=True, slots=True)
class Configured:
    """A new configuration: these pools, and no others.

    Each is changed, reloaded or started as part of ``operation``, as far as it differs from what there is. When
    ``unchanged`` ones are to be reloaded too, it is about their code.
    """

    specs: tuple[PoolSpec, ...]
    operation: str
    unchanged: bool = False


@dataclass(frozen=True, slots=True)
class ShutdownAsked:
    haste: Haste


# Facts about a pool itself, and not about one of its workers.
OfPool = TemplateReady | TemplateGone | TemplateLost | HookEnded | Sampled | Measured

Event = (
    Begin
    | Tick
    | TemplateReady
    | TemplateGone
    | TemplateLost
    | WorkerSpawned
    | CommandRuns
    | WorkerReady
    | WorkerRetiring
    | RecycleAsked
    | UnitBounded
    | EntryDeactivated
    | WorkerFailed
    | WorkerLost
    | WorkerDumped
    | WorkerExited
    | Sampled
    | Measured
    | Probed
    | HookEnded
    | ReloadAsked
    | StartAsked
    | StopAsked
    | RestartAsked
    | ScaleAsked
    | KillAsked
    | RetireAsked
    | Configured
    | ShutdownAsked
)
