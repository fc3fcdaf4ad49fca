"""What the arbiter and its children say to each other over a worker's channel.

The arbiter speaks `Boot`, `Fork`, `Retire`, `Ping`; children speak the rest. The end of the file of a channel says,
to either side and at once, that the other is gone. Per request nothing is said: that is what the scoreboard
is for.
"""

from __future__ import annotations

from dataclasses import dataclass

from procman.core.channels import Channel
from procman.core.reason import Reason
from procman.core.spec import DatabaseSpec, Limits, PoolSpec

# Of these messages, and of how a template or worker is spoken to. To be raised when processes of an earlier version
# could misunderstand this one: after an upgrade of the daemon they are replaced then.
PROTOCOL = 3

# Characters of a text in a message. Each takes up to four bytes, and a message must fit into the buffer of the
# socket (by default 212,992 bytes, socket(7)), or it can't be sent at all.
MOST_TEXT = 40_000
MOST_CACHES = 500  # functions in a message
MOST_JSON = 100_000  # characters of JSON in a message, all ASCII: it is a text in JSON itself, and at most doubles


def cut(text: str) -> str:
    """The text, without its middle if it is too long for a message."""
    if len(text) <= MOST_TEXT:
        return text
    half = MOST_TEXT // 2 - 50
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Which worker this is: its slot, its generation, its name and its record on the scoreboard.

    ``mark`` goes into its environment, by which whatever descends from it is known for its.
    """

    name: str
    slot: int
    generation: int
    record: int
    mark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """First message to an executed process. Descriptors: scoreboard, dump file (if seated), listeners.

    To the nursery it is an order for one command. Descriptors: the command's channel.

    ``seat`` is None for a template, which gets its seats one by one by `Fork`. ``arbiter`` is the pid of the sender
    and ``open_files`` the soft limit of open descriptors that the daemon was started with; 0 when not known.
    ``kept``: the service manager holds the listening sockets too, so that they are not to be given up with the daemon.
    ``notify`` is the $NOTIFY_SOCKET of a command.
    """

    pool: PoolSpec
    generation: int
    seat: Seat | None
    database: DatabaseSpec | None
    log_format: str
    state_dir: str
    arbiter: int = 0
    open_files: int = 0
    kept: bool = False
    notify: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """To a template: fork a worker for this seat. Descriptors: the worker's channel, its dump file."""

    seat: Seat


@dataclass(frozen=True, slots=True, kw_only=True)
class Retire:
    """To a worker: finish the unit you are in, then go."""

    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """To a worker that has been silent: show in your record that you are alive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjust:
    """To a worker, and to a template for those that it will fork: these limits apply from now on."""

    limits: Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Rechannel:
    """To a job runner: these channels apply from now on."""

    channels: tuple[Channel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """To a job runner or a cron worker: the worker of this pid is about to be killed, or was; where, if known."""

    pid: int
    reason: Reason
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEnded:
    """To a job runner: a worker that may have been in a job of its own has ended, and why."""

    pid: int
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """To a job runner: the records of the workers that serve in its target pool; each takes so many units at once."""

    records: tuple[int, ...]
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """To a job runner: somebody wants to know something, in JSON; the `Answer` has the same number."""

    number: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Forked:
    """From a worker or command just forked: this is its pid. The arbiter believes what the kernel says about that."""

    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """From a template: the application is imported. From a worker: it serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """From a template or a worker that can't start; it exits after this."""

    traceback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recycle:
    """From a worker that has reached a soft limit: it serves on until it is told to go, when its successor serves."""

    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Retiring:
    """From a worker that goes by itself: a unit was over a limit, or a signal told it to."""

    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounded:
    """From a worker: the unit that it is in may take so many seconds, as its record says; it needs to be looked at.

    Said of the least limit so far only: who looks that often sees the others in time.
    """

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Deactivated:
    """From a cron worker: an entry has failed for too long, and is not run any more. Everybody should know."""

    entry: str
    database: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dumped:
    """From a worker: its stacks, written by Python itself after SIGQUIT."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFigures:
    """One cached function of a worker. ``size`` is in bytes, about."""

    group: str
    function: str
    entries: int
    hits: int
    misses: int
    size: int

    def as_dict(self) -> dict[str, str | int | float]:
        """For JSON, with the share of hits."""
        calls = self.hits + self.misses
        return {
            "group": self.group,
            "function": self.function,
            "entries": self.entries,
            "hits": self.hits,
            "misses": self.misses,
            "ratio": round(self.hits / calls, 4) if calls else 0.0,
            "size": self.size,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Caches:
    """From a worker that got SIGUSR1: what its caches hold, and how well they serve."""

    figures: tuple[CacheFigures, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """From a job runner: what the `Question` of this number asked for, in JSON."""

    number: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """From a job runner or a cron worker, at most once a second: figures in JSON, which the arbiter hands on unread."""

    text: str


ToChild = Boot | Fork | Retire | Ping | Adjust | Evidence | WorkerEnded | Crew | Rechannel | Question
FromChild = Forked | Ready | Failed | Recycle | Retiring | Bounded | Deactivated | Dumped | Caches | Answer | Published
