"""The commands there are on the control socket, and their properties: data.

Validation (`procman.control.protocol`), the client and the reference pages derive from it; what a command does, and
whether it may be done now, is decided by the daemon. Where Circus has a command, its name and its properties are
Circus's (circus.commands), also those that Circus's client sends always and procman has nothing to choose by.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Form(StrEnum):
    """What the value of a property must be, in words that go into messages and into the reference."""

    TEXT = "a text"
    TEXTS = "a text or a list of texts"
    COUNT = "a whole number, 0 or more"
    INTEGER = "a whole number"
    FLAG = "true or false"
    SECONDS = "a number of seconds, 0 or more"
    SIGNAL = "a signal's name or number"
    OPTIONS = "an object"


class Property(NamedTuple):
    """One property. ``only``, when not empty, lists the values that are accepted.

    Circus's client sends some properties always, also where procman has nothing to choose.
    """

    name: str
    doc: str
    form: Form = Form.TEXT
    required: bool = False
    only: tuple[Any, ...] = ()


class Command(NamedTuple):
    """One command. ``waits``: it starts an operation, whose end the reply waits for when ``waiting`` is true.

    A command with ``means`` is another name: `parse` turns it into that command, with the properties ``adapt`` makes.
    """

    name: str
    doc: str
    properties: tuple[Property, ...] = ()
    waits: bool = False
    means: str = ""
    adapt: Callable[[dict[str, Any]], dict[str, Any]] = dict


def _scale_by(sign: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def adapt(properties: dict[str, Any]) -> dict[str, Any]:
        return {**{k: v for k, v in properties.items() if k != "nb"}, "by": sign * properties.get("nb", 1)}

    return adapt


_WAITING = Property(name="waiting", form=Form.FLAG, doc="answer when the operation has ended, not when it has begun")
_POOLS = Property(name="name", form=Form.TEXTS, doc="the pools; without it, all")
_PATTERNS = Property(name="name", form=Form.TEXTS, doc="the pools, or patterns such as `web*`; without it, all")
_POOL = Property(name="name", doc="the pool; without it, all")
_ONE_POOL = Property(name="name", required=True, doc="the pool")
_TARGET = Property(name="name", doc="a pool or a worker; without it, all")
_TARGETS = Property(name="name", form=Form.TEXTS, doc="pools or workers; without it, all")
_MATCH = Property(name="match", only=("glob", "simple"), doc="whether a name may be a pattern (the default) or not")
_PID = Property(name="pid", form=Form.COUNT, doc="only the worker with this pid")
_NB = Property(name="nb", form=Form.COUNT, doc="how many; 1 by default")
_OPERATION = Property(name="operation", required=True, doc="the id of the operation")

_READING = (
    Command(name="list", doc="The names of the pools, or the pids of one pool's workers.", properties=(_POOL,)),
    Command(name="listpids", doc="The pids of one pool's workers.", properties=(_ONE_POOL,)),
    Command(name="listsockets", doc="The listening sockets: descriptor, name, backlog, and host and port or path."),
    Command(
        name="status",
        doc="State of the daemon and its pools, with the last exits, what is parked and what is under way.",
        properties=(_TARGET,),
    ),
    Command(
        name="stats",
        doc="Figures of the daemon, its pools and their workers.",
        properties=(
            _TARGET,
            Property(name="process", form=Form.COUNT, doc="only the worker of the pool with this pid"),
            Property(name="extended", form=Form.FLAG, doc="the same either way: there are no hooks for more"),
            Property(name="infos", form=Form.FLAG, doc="with Circus's figures of the processes; true by default"),
        ),
    ),
    Command(name="dstats", doc="Circus's figures of the daemon's own process."),
    Command(name="numprocesses", doc="How many workers there are.", properties=(_POOL,)),
    Command(name="numwatchers", doc="How many pools there are."),
    Command(
        name="options",
        doc="How a pool is configured: by Circus's names, and by procman's.",
        properties=(_ONE_POOL,),
    ),
    Command(
        name="get",
        doc="Some of the options of a pool.",
        properties=(_ONE_POOL, Property(name="keys", form=Form.TEXTS, required=True, doc="the names of the options")),
    ),
    Command(
        name="globaloptions",
        doc="How the daemon is configured.",
        properties=(Property(name="option", doc="only this one"),),
    ),
    Command(
        name="check",
        doc="Whether every pool has the workers it should have, and what is missing.",
        properties=(
            Property(name="configuration", form=Form.FLAG, doc="also whether a reload would take the file on disk"),
        ),
    ),
    Command(
        name="events",
        doc="The last events, oldest first, the number of the last one, and where to subscribe to those to come.",
        properties=(Property(name="since", form=Form.COUNT, doc="only those after this number (`seq`)"),),
    ),
    Command(
        name="jobwhy",
        doc="What a job waits for, as each job runner knows it from its memory: `runners` has an answer for each of "
        "them, null where there was none in time.",
        properties=(
            Property(name="uuid", required=True, doc="the job's uuid"),
            Property(name="database", doc="its database; without it, a runner looks in each of its own"),
        ),
    ),
    Command(name="operations", doc="The operations under way and the last ones that have ended, oldest first."),
    Command(
        name="wait",
        doc="Answer when an operation has ended, as it was answered itself; at once if it has ended already.",
        properties=(_OPERATION,),
    ),
)

_DOING = (
    Command(
        name="cachestats",
        doc="The statistics of the caches, by worker: entries, hits, misses, ratio and size of each cached function.",
        properties=(_TARGETS,),
    ),
    Command(
        name="dumpstacks",
        doc="The Python stacks of every thread, by worker, with the unit that each worker is in.",
        properties=(_TARGETS,),
    ),
    Command(
        name="reload",
        doc="Replace the workers by a new generation with the code as it is on disk now; no request is lost.",
        properties=(
            _POOLS,
            _WAITING,
            Property(name="graceful", form=Form.FLAG, doc="when false, it is a restart"),
            Property(name="sequential", form=Form.FLAG, doc="the same either way: slot by slot"),
        ),
        waits=True,
    ),
    Command(
        name="reloadconfig",
        doc="Read the configuration again and apply the difference, as `reload` without a pool does; if there is none, "
        "nothing is done.",
        properties=(_WAITING,),
        waits=True,
    ),
    Command(
        name="start",
        doc="Start pools that are stopped or parked.",
        properties=(_PATTERNS, _WAITING, _MATCH),
        waits=True,
    ),
    Command(name="stop", doc="Stop pools; each unit may finish.", properties=(_PATTERNS, _WAITING, _MATCH), waits=True),
    Command(name="restart", doc="Stop pools, then start them.", properties=(_PATTERNS, _WAITING, _MATCH), waits=True),
    Command(
        name="scale",
        doc="Have this many workers in a pool, or so many more or fewer.",
        properties=(
            _ONE_POOL,
            Property(name="count", form=Form.COUNT, doc="how many workers from now on"),
            Property(name="by", form=Form.INTEGER, doc="how many more; fewer when negative"),
            _WAITING,
        ),
        waits=True,
    ),
    Command(
        name="incr",
        doc="More workers in a pool.",
        properties=(_ONE_POOL, _NB, _WAITING),
        waits=True,
        means="scale",
        adapt=_scale_by(1),
    ),
    Command(
        name="decr",
        doc="Fewer workers in a pool.",
        properties=(_ONE_POOL, _NB, _WAITING),
        waits=True,
        means="scale",
        adapt=_scale_by(-1),
    ),
    Command(
        name="set",
        doc="Change options of a pool: `numprocesses`. All others are changed in the file, then taken by a reload.",
        properties=(
            _ONE_POOL,
            Property(name="options", form=Form.OPTIONS, required=True, doc="new values by the names of the options"),
            _WAITING,
        ),
        waits=True,
    ),
    Command(
        name="signal",
        doc="Send a signal to a worker, or to every worker of a pool.",
        properties=(
            Property(name="name", required=True, doc="a pool or a worker"),
            Property(name="signum", form=Form.SIGNAL, required=True, doc="the signal"),
            _PID,
            Property(name="childpid", form=Form.COUNT, doc="to this child of the workers instead"),
            Property(name="children", form=Form.FLAG, doc="to the workers' children instead"),
            Property(name="recursive", form=Form.FLAG, doc="to the workers and all their descendants"),
        ),
    ),
    Command(
        name="kill",
        doc="End a worker now, with its unit, after its stacks were taken; it is replaced. With another signal than "
        "KILL, or when a whole pool is named without one, it is asked first and killed after `graceful_timeout`.",
        properties=(
            Property(name="name", required=True, doc="a worker, or a pool"),
            _PID,
            Property(name="signum", form=Form.SIGNAL, doc="how to ask; of a pool, its `stop_signal` by default"),
            Property(name="graceful_timeout", form=Form.SECONDS, doc="by default the pool's `stop_timeout`"),
            _WAITING,
        ),
        waits=True,
    ),
    Command(
        name="upgrade",
        doc="Execute the daemon anew, as it is installed now, keeping every worker, socket and number.",
        properties=(_WAITING,),
        waits=True,
    ),
    Command(name="shutdown", doc="Stop every pool, then the daemon.", properties=(_WAITING,), waits=True),
    Command(name="quit", doc="The same as shutdown.", properties=(_WAITING,), waits=True, means="shutdown"),
)

COMMANDS: Mapping[str, Command] = {command.name: command for command in (*_READING, *_DOING)}

# What a read-only endpoint offers: they change nothing, and cost no worker anything but a job runner a look into its
# memory, for one question at a time.
READING = frozenset(command.name for command in _READING)

# Circus has these. They would let whoever reaches the socket run code of their own.
REFUSED = frozenset({"add", "rm", "ipython"})
