"""Jobs that wait for others: prepared calls, put into groups and chains.

Pure until it is enqueued: a graph is a list of calls, and which of them waits for which.
"""

from __future__ import annotations

from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from procman import signaling
from procman.jobs import enqueue

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from procman.jobs.enqueue import Call, Made


class Enqueued(NamedTuple):
    """What has become of a graph: the uuids of its jobs, in the order in which they were written, and of the last."""

    graph: str | None
    uuids: list[str]
    last: list[str]


class Graph:
    """Calls that are enqueued together: made by `group`, `chain` and ``f.prepare(…)``, of calls and other graphs."""

    def __init__(self, calls: Iterable[Prepared], edges: Iterable[tuple[Prepared, Prepared]]) -> None:
        # By identity: two calls that say the same are two jobs.
        self._calls = list({id(call): call for call in calls}.values())
        self._edges = list({(id(parent), id(child)): (parent, child) for parent, child in edges}.values())

    @property
    def calls(self) -> list[Prepared]:
        return self._calls

    @property
    def edges(self) -> list[tuple[Prepared, Prepared]]:
        """Who is waited for, and who waits."""
        return self._edges

    @property
    def first(self) -> list[Prepared]:
        """Those that wait for nobody in the graph."""
        children = {id(child) for _, child in self._edges}
        return [call for call in self._calls if id(call) not in children]

    @property
    def last(self) -> list[Prepared]:
        """Those that nobody in the graph waits for."""
        parents = {id(parent) for parent, _ in self._edges}
        return [call for call in self._calls if id(call) not in parents]

    def in_order(self) -> list[Prepared]:
        """Parents before their children, and else as they were written. Raises ValueError for a circle."""
        position = {id(call): number for number, call in enumerate(self._calls)}
        sorter = TopologicalSorter(dict.fromkeys(position.values(), ()))
        for parent, child in self._edges:
            sorter.add(position[id(child)], position[id(parent)])
        try:
            sorter.prepare()
        except CycleError as error:
            names = " → ".join(str(self._calls[number]) for number in reversed(error.args[1]))
            raise ValueError(f"jobs would wait for each other: {names}") from None
        ordered: list[Prepared] = []
        while ready := sorter.get_ready():
            ordered += [self._calls[number] for number in sorted(ready)]
            sorter.done(*ready)
        return ordered

    def delay(self) -> Enqueued:
        """Enqueue all of it if the current unit commits; outside of units at once.

        Those that wait for others in it are in the state ``wait_dependencies`` until these are done. A call whose
        identity key another job waits under is that job: who waits for the call waits for it, and it waits for what it
        has waited for.
        Raises ValueError for a circle, and `Overtaken` if an equal job has been made in this very moment.
        """
        ordered = self.in_order()
        graph = str(uuid4()) if len(ordered) > 1 else None
        waiting = {id(child) for _, child in self._edges}
        with signaling.cursor() as cr:
            rows = []
            earlier: dict[int, enqueue.Parents] = {}
            for call in ordered:
                row = call.row()
                row.graph = graph
                if call.after:
                    earlier[id(call)] = enqueue.Parents(cr, call.after)
                row.waits = id(call) in waiting or (id(call) in earlier and not earlier[id(call)].done)
                rows.append(row)
            made = dict(zip(map(id, ordered), enqueue.insert(cr, rows), strict=True))
            _link(cr, self._edges, earlier, made)
        return Enqueued(
            graph, [made[id(call)].uuid for call in self._calls], [made[id(call)].uuid for call in self.last]
        )


def _link(
    cr: Any,
    edges: Sequence[tuple[Prepared, Prepared]],
    earlier: dict[int, enqueue.Parents],
    made: dict[int, Made],
) -> None:
    pairs = [(made[id(parent)], made[id(child)]) for parent, child in edges]
    pairs += [(parent, made[child]) for child, parents in earlier.items() for parent in parents.jobs]
    enqueue.link(cr, pairs)
    if waiting := [made[child] for child, parents in earlier.items() if not parents.done]:
        enqueue.look_again_after_commit(waiting)


class Prepared(Graph):
    """One call of a job function, to be enqueued by `delay` or as a part of a group or chain."""

    def __init__(self, name: str, call: Call, after: Sequence[str] = ()) -> None:
        super().__init__([self], [])
        self.name = name
        self.after = after
        self._call = call

    def row(self) -> Call:
        """What is to be inserted, for one graph."""
        return replace(self._call)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<{self.name}(…), prepared>"


def group(*parts: Graph) -> Graph:
    """These side by side: what follows it in a chain waits for all of them."""
    _check(parts)
    return Graph(
        [call for part in parts for call in part.calls],
        [edge for part in parts for edge in part.edges],
    )


def chain(*parts: Graph) -> Graph:
    """These one after the other: each one waits for the last jobs of the one before it."""
    _check(parts)
    filled = [part for part in parts if part.calls]
    side_by_side = group(*filled)
    between = [(parent, child) for before, after in pairwise(filled) for parent in before.last for child in after.first]
    return Graph(side_by_side.calls, [*side_by_side.edges, *between])


def _check(parts: Sequence[object]) -> None:
    for part in parts:
        if not isinstance(part, Graph):
            raise TypeError(f"expected calls such as f.prepare(…), groups and chains of them, got {part!r}")
