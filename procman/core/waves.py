"""In which order pools start and stop, from ``depends_on``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def cycle(depends_on: Mapping[str, Sequence[str]]) -> list[str] | None:
    """Names along one cycle, the first one repeated at the end; None when there is no cycle."""
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        path.append(name)
        for other in depends_on.get(name, ()):
            found = visit(other)
            if found:
                return found
        path.pop()
        done.add(name)
        return None

    for name in depends_on:
        found = visit(name)
        if found:
            return found
    return None


def dependents(depends_on: Mapping[str, Sequence[str]], name: str) -> list[str]:
    """The pools that name this one in their ``depends_on``."""
    return [other for other, needs in depends_on.items() if name in needs]
