"""How much memory a value takes, about. Pure."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Set
from itertools import islice
from typing import Any

MOST_OBJECTS = 64  # that are looked at: an estimate must cost less than the value it is about


def weight(value: Any) -> int:
    """Bytes of the value and of what it holds; what can't be all looked at is taken to be like the rest."""
    total = seen = 0
    waiting = [(value, 1.0)]
    known: set[int] = set()
    while waiting and seen < MOST_OBJECTS:
        thing, times = waiting.pop()
        if id(thing) in known:
            continue
        known.add(id(thing))
        seen += 1
        total += round(sys.getsizeof(thing, 64) * times)
        count, parts = _parts(thing)
        sample = list(islice(parts, 8))
        if sample:
            waiting += [(part, times * count / len(sample)) for part in sample]
    return total


def _parts(thing: Any) -> tuple[int, Iterator[Any]]:
    """How many parts a container has, and some of them."""
    if isinstance(thing, Mapping):
        return 2 * len(thing), (part for pair in thing.items() for part in pair)
    if isinstance(thing, list | tuple | Set):
        return len(thing), iter(thing)
    attributes = getattr(thing, "__dict__", None)
    if isinstance(attributes, dict) and not isinstance(thing, type):
        return len(attributes), iter(attributes.values())
    return 0, iter(())
