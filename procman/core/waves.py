"""In which order pools start and stop, from ``depends_on``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


def cycles(depends_on: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """Names along each cycle, the first one repeated at the end; of cycles that share a name, one."""
    done: set[str] = set()
    for name in depends_on:
        if found := _cycle(name, depends_on, done, []):
            yield found


def _cycle(name: str, depends_on: Mapping[str, Sequence[str]], done: set[str], way: list[str]) -> list[str] | None:
    """The first cycle on the ways that lead from here, each name being left for good when all its ways are known."""
    if name in way:
        return [*way[way.index(name) :], name]
    if name in done:
        return None
    done.add(name)
    ways = (_cycle(other, depends_on, done, [*way, name]) for other in depends_on.get(name, ()))
    return next((found for found in ways if found), None)


def dependents(depends_on: Mapping[str, Sequence[str]], name: str) -> list[str]:
    """The pools that name this one in their ``depends_on``."""
    return [other for other, needs in depends_on.items() if name in needs]
