"""The commands there are on the control socket, and their properties: data.

Validation (`procman.control.protocol`), the client and the reference pages derive from it; what a command does, and
whether it may be done now, is decided by the daemon. Where Circus has a command, its name and its properties are
Circus's (circus.commands), also those that Circus's client sends always and procman has nothing to choose by.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Form(StrEnum):
    """What the value of a property must be, in words that go into messages and into the reference."""

    TEXT = "a text"
    TEXTS = "a text or a list of texts"
    COUNT = "a whole number, 0 or more"
    INTEGER = "a whole number"
    FLAG = "true or false"
    SIGNAL = "a signal's name or number"


@dataclass(frozen=True, slots=True, kw_only=True)
class Property:
    """One property. ``only``, when not empty, lists the values that are accepted.

    Circus's client sends some properties always, also where procman has nothing to choose.
    """

    name: str
    form: Form = Form.TEXT
    required: bool = False
    only: tuple[Any, ...] = ()
    doc: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
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
_POOL = Property(name="name", doc="the pool; without it, all")
_ONE_POOL = Property(name="name", required=True, doc="the pool")
_TARGET = Property(name="name", doc="a pool or a worker; without it, all")
_MATCH = Property(name="match", only=("glob", "simple"), doc="how names are compared; a pattern is a glob")
_PID = Property(name="pid", form=Form.COUNT, doc="only the worker with this pid")
_NB = Property(name="nb", form=Form.COUNT, doc="how many; 1 by default")

COMMANDS: Mapping[str, Command] = {
    command.name: command
    for command in (
        Command(name="list", doc="The names of the pools, or the pids of one pool's workers.", properties=(_POOL,)),
        Command(
            name="status",
            doc="State of the daemon and its pools, with the last exits, what is parked and what is under way.",
            properties=(_TARGET,),
        ),
        Command(
            name="stats",
            doc="Figures of the daemon, its pools and their workers.",
            properties=(_TARGET, Property(name="extended", form=Form.FLAG, only=(False,), doc="not supported")),
        ),
        Command(name="numprocesses", doc="How many workers there are.", properties=(_POOL,)),
        Command(name="check", doc="Whether every pool has the workers it should have, and what is missing."),
        Command(
            name="events",
            doc="The last events, oldest first, the number of the last one, and where to subscribe to those to come.",
            properties=(Property(name="since", form=Form.COUNT, doc="only those after this number (`seq`)"),),
        ),
        Command(
            name="dumpstacks",
            doc="The Python stacks of every thread, by worker, with the unit that each worker is in.",
            properties=(Property(name="name", form=Form.TEXTS, doc="pools or workers; without it, all"),),
        ),
        Command(
            name="reload",
            doc="Replace the workers by a new generation with the code as it is on disk now; no request is lost.",
            properties=(
                _POOLS,
                _WAITING,
                Property(name="graceful", form=Form.FLAG, only=(True,), doc="always; see restart"),
                Property(name="sequential", form=Form.FLAG, only=(False,), doc="not supported"),
            ),
            waits=True,
        ),
        Command(
            name="start",
            doc="Start pools that are stopped or parked.",
            properties=(_POOLS, _WAITING, _MATCH),
            waits=True,
        ),
        Command(
            name="stop", doc="Stop pools; each unit may finish.", properties=(_POOLS, _WAITING, _MATCH), waits=True
        ),
        Command(name="restart", doc="Stop pools, then start them.", properties=(_POOLS, _WAITING, _MATCH), waits=True),
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
            name="signal",
            doc="Send a signal to a worker, or to every worker of a pool.",
            properties=(
                Property(name="name", required=True, doc="a pool or a worker"),
                Property(name="signum", form=Form.SIGNAL, required=True, doc="the signal"),
                _PID,
                Property(name="children", form=Form.FLAG, only=(False,), doc="not supported"),
                Property(name="recursive", form=Form.FLAG, only=(False,), doc="not supported"),
            ),
        ),
        Command(
            name="kill",
            doc="End a worker now, with its unit; it is replaced.",
            properties=(Property(name="name", required=True, doc="a worker, or its pool with pid"), _PID, _WAITING),
            waits=True,
        ),
        Command(name="shutdown", doc="Stop every pool, then the daemon.", properties=(_WAITING,), waits=True),
        Command(name="quit", doc="The same as shutdown.", properties=(_WAITING,), waits=True, means="shutdown"),
    )
}

# Circus has these. They would let whoever reaches the socket run code of their own.
REFUSED = frozenset({"add", "rm", "ipython"})
