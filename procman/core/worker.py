"""The life of one worker, as a table.

Rules of this file: everything about the state of a worker is decided here, and nothing here knows why the
pool wants what it wants. `TRANSITIONS` is the whole automaton; an input that has no row for a state changes
nothing (a worker that is being killed may still say that it is ready). What the table leaves open is only
how long a state may last, which `Worker.move` reads from the pool's spec, and which reason stands: the first
one given is kept, because that is why the worker went.

The diagram in docs/ARCHITECTURE.md is generated from the table and compared with it in a test.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from procman.core.reason import Reason
from procman.core.spec import ALIVE, ExecWork, Kind, Probe

if TYPE_CHECKING:
    from procman.core.spec import PoolSpec

ANSWER_PATIENCE = 10.0  # seconds for a worker to answer that it is alive; it takes a fraction of a millisecond
LEAST_LOOK = 0.5  # seconds between looks at a worker, at least
LEAST_UNIT_LOOK = 0.1  # the same where units have limits of their own
KILL_AGAIN = 5.0  # seconds after which a SIGKILL that had no effect is sent, and reported, again
FORK_PATIENCE = 5.0  # seconds for a template to fork a worker, which takes it some milliseconds
# Seconds for the stacks to come. Whoever gets them answers much sooner, of a process that is stopped as well; it
# is not part of kill_timeout, because nothing is killed without evidence.
EVIDENCE_PATIENCE = 2.0


class State(Enum):
    PREPARING = "preparing"  # before_start runs, and there is no process yet
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    DUMPING = "dumping"
    KILLING = "killing"
    GONE = "gone"


class Input(Enum):
    PREPARED = "prepared"  # before_start has ended well
    READY = "ready"  # the worker says so
    RETIRE = "retire"  # the pool, or the worker itself, wants it to go politely
    CONDEMN = "condemn"  # a hard limit, or an impatient human, wants it to go
    KILL = "kill"  # there is no time for anything else
    EXPIRE = "expire"  # the state's deadline has passed
    DUMPED = "dumped"  # its stacks are in the log
    EXITED = "exited"  # the process is gone


INITIAL = (State.PREPARING, State.STARTING)

TRANSITIONS: dict[tuple[State, Input], State] = {
    (State.PREPARING, Input.PREPARED): State.STARTING,
    (State.PREPARING, Input.RETIRE): State.DRAINING,
    (State.PREPARING, Input.CONDEMN): State.KILLING,
    (State.PREPARING, Input.KILL): State.KILLING,
    (State.PREPARING, Input.EXITED): State.GONE,
    (State.STARTING, Input.READY): State.READY,
    (State.STARTING, Input.RETIRE): State.DRAINING,
    (State.STARTING, Input.CONDEMN): State.DUMPING,
    (State.STARTING, Input.EXPIRE): State.DUMPING,
    (State.STARTING, Input.EXITED): State.GONE,
    (State.READY, Input.RETIRE): State.DRAINING,
    (State.READY, Input.CONDEMN): State.DUMPING,
    (State.READY, Input.EXITED): State.GONE,
    (State.DRAINING, Input.CONDEMN): State.DUMPING,
    (State.DRAINING, Input.EXPIRE): State.DUMPING,
    (State.DRAINING, Input.EXITED): State.GONE,
    (State.STARTING, Input.KILL): State.KILLING,
    (State.READY, Input.KILL): State.KILLING,
    (State.DRAINING, Input.KILL): State.KILLING,
    (State.DUMPING, Input.KILL): State.KILLING,
    (State.DUMPING, Input.DUMPED): State.KILLING,
    (State.DUMPING, Input.EXPIRE): State.KILLING,
    (State.DUMPING, Input.EXITED): State.GONE,
    (State.KILLING, Input.EXPIRE): State.KILLING,
    (State.KILLING, Input.EXITED): State.GONE,
}

# Why a worker goes when a state's deadline passes.
EXPIRED = {State.STARTING: Reason.BOOT_TIMEOUT, State.DRAINING: Reason.GRACE_EXPIRED}

SIGKILL = 9


@dataclass(slots=True, kw_only=True, eq=False)
class Worker:
    """One worker process, from the wish for it to its exit record."""

    id: int
    spec: PoolSpec
    slot: int
    generation: int
    spawned_at: float
    pid: int | None = None
    state: State = State.STARTING
    since: float = 0.0  # when it came into this state
    ready_at: float | None = None
    deadline: float | None = None
    ready_by: float | None = None  # exec: ready by having lived until then
    probe_at: float | None = None  # exec: to be asked then whether it is ready
    probed_at: float = 0.0  # exec: when it was last asked that
    parting: tuple[Reason, int | None] | None = None  # to be asked to go, by this signal, when before_stop has ended
    look_at: float | None = None
    interrupted_unit: float | None = None  # the unit that was asked to end, by its start; when, and why
    interrupted_at: float = 0.0
    interrupted_for: Reason = Reason.REAL_TIME
    unit_limit: float | None = None  # seconds: the least limit that a unit of this worker has had for itself
    asked_at: float | None = None  # when it was asked for a sign of life that has not come yet
    reason: Reason | None = None
    wish: Reason | None = None  # a soft limit is reached: it would like to be replaced, and serves until it is
    relieved: bool = False  # it is this one's turn to be replaced
    failure: str = ""
    stacks: str = ""  # as they were before it was killed

    @property
    def name(self) -> str:
        return f"{self.spec.name}.{self.slot}"

    @property
    def label(self) -> str:
        """How log lines call it: ``http.1 (4711)``."""
        return f"{self.name} ({self.pid if self.pid is not None else '-'})"

    @property
    def live(self) -> bool:
        """It serves, or is about to."""
        return self.state in (State.PREPARING, State.STARTING, State.READY)

    @property
    def coming(self) -> bool:
        """It is about to serve."""
        return self.state in INITIAL

    @property
    def due(self) -> float | None:
        """The first time at which something has to be decided about it."""
        return min(
            (at for at in (self.deadline, self.look_at, self.ready_by, self.probe_at) if at is not None), default=None
        )

    @property
    def dumpable(self) -> bool:
        """It runs Python under procman's runtime, so that it has stacks to show."""
        return self.spec.kind not in (Kind.EXEC, Kind.POSTGRES)

    @property
    def look_interval(self) -> float | None:
        """Seconds after which a look at the worker's record can show that it has passed a limit; None: never."""
        if self.state not in (State.READY, State.DRAINING) or not self.dumpable:
            return None
        limits = self.spec.limits
        seconds = [limit for limit in (limits.time_real, limits.time_cpu) if limit is not None]
        if self.unit_limit is not None:
            seconds.append(max(self.unit_limit, LEAST_UNIT_LOOK))
        if self.spec.hang_timeout is not None:
            seconds.append(self.spec.hang_timeout - self.patience)
        if self.state is State.DRAINING and self.deadline is None:
            seconds.append(max(self.spec.stop_timeout, LEAST_LOOK))
        return min(seconds, default=None)

    @property
    def patience(self) -> float:
        """Seconds, the last ones of ``hang_timeout``, in which a silent worker may answer."""
        return min(ANSWER_PATIENCE, (self.spec.hang_timeout or 0.0) / 2)

    def lived(self, now: float) -> float:
        """Seconds since it became ready; 0 if it never did."""
        return 0.0 if self.ready_at is None else now - self.ready_at

    def bound(self, seconds: float) -> None:
        """Its unit may take so long; others to come may as well."""
        if seconds > 0:  # no number at all is not, either
            self.unit_limit = min(seconds, self.unit_limit or seconds)

    def move(self, what: Input, now: float, *, reason: Reason | None = None, grace: float | None = None) -> bool:
        """Apply an input; whether the state changed (or, for a repeated kill, was entered again).

        ``grace`` bounds a drain, in seconds; None lets the limits of its units bound it, and between units the
        pool's ``stop_timeout`` (see `idle_drain_over`).
        """
        after = TRANSITIONS.get((self.state, what))
        if after is None:
            return False
        if after is State.DUMPING and not self.dumpable:
            after = State.KILLING
        if self.reason is None or what is Input.CONDEMN or self.state is State.DRAINING:
            self.reason = reason or (EXPIRED.get(self.state) if what is Input.EXPIRE else None) or self.reason
        self.state, self.ready_by, self.probe_at, self.since = after, None, None, now
        self.deadline = self._deadline(now, grace)
        if after is State.READY:
            self.ready_at = now
        return True

    def _deadline(self, now: float, grace: float | None) -> float | None:
        match self.state:
            case State.DRAINING:
                return None if grace is None else now + grace
            case State.DUMPING:
                return now + EVIDENCE_PATIENCE
            case State.KILLING:
                return now + KILL_AGAIN
            case _:
                return None

    def spawned(self, pid: int) -> None:
        """The process is there: from now on it has its time to become ready."""
        self.pid = pid
        if self.state is State.STARTING:
            self.deadline = self.spawned_at + self.spec.start_timeout

    def command_runs(self, now: float) -> None:
        """The worker has become its command, which counts as ready by having lived, or is asked, or says so itself."""
        if self.state is State.STARTING and isinstance(self.spec.work, ExecWork):
            if self.spec.work.ready == ALIVE:
                self.ready_by = now + self.spec.work.start_seconds
            elif isinstance(self.spec.work.ready, Probe):
                self.probe_at = now

    def idle_drain_over(self, beat: float) -> float:
        """When a graceful drain ends all the same, for a worker that has no unit which it could be finishing.

        ``beat`` is when it last showed that it is alive.
        """
        return max(self.since, beat) + self.spec.stop_timeout

    def final_reason(self, status: int | None, *, oom: bool) -> Reason:
        """Why it went, now that it is gone with this exit status (-N: signal N; None: never started)."""
        if oom:
            return Reason.OOM
        if self.reason is not None:
            return self.reason
        if self.ready_at is None:
            return Reason.BOOT_FAILED
        if status == -SIGKILL:
            return Reason.KILLED_BY_USER
        return Reason.FINISHED if status == 0 else Reason.CRASHED


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitRecord:
    """Exactly one for every worker."""

    worker: str
    slot: int
    generation: int
    pid: int | None
    reason: Reason
    status: int | None
    lived: float
    at: float
