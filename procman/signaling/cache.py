"""Caches, pure: values tagged with the signals under which they were computed. No database, no clock.

A *generation* holds the values of one group under one tag. A unit takes its generations by the tags of its own
snapshot and keeps them until it ends, so what it computes late goes to the generation it belongs to and can
never be found by a unit that sees newer signals. Of each group one generation is kept; older ones live as long
as a unit that holds them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from collections.abc import Hashable

    from procman.signaling.store import Signals, Tag


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()


class Table:
    """The values of one function: least recently used leaves first when there are more than ``maxsize``."""

    __slots__ = ("_entries", "_lock", "maxsize")

    def __init__(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self._entries: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any:
        """The value, which becomes the most recently used; MISSING when there is none."""
        with self._lock:
            value = self._entries.get(key, MISSING)
            if value is not MISSING:
                self._entries.move_to_end(key)
            return value

    def put(self, key: Hashable, value: Any) -> None:
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            if len(self._entries) > self.maxsize:
                self._entries.popitem(last=False)

    def __len__(self) -> int:
        return len(self._entries)


class Generation:
    """The values of one group under one tag, by function; and who is computing what."""

    __slots__ = ("__weakref__", "_claims", "_lock", "_tables", "tag")

    def __init__(self, tag: Tag | None) -> None:
        self.tag = tag
        self._tables: dict[Hashable, Table] = {}
        self._claims: dict[tuple[Hashable, Hashable], threading.Event] = {}
        self._lock = threading.Lock()

    def get(self, function: Hashable, key: Hashable) -> Any:
        """The value of the function for the key, or MISSING."""
        table = self._tables.get(function)
        return MISSING if table is None else table.get(key)

    def put(self, function: Hashable, key: Hashable, value: Any, maxsize: int) -> None:
        table = self._tables.get(function)
        if table is None:
            table = self._tables.setdefault(function, Table(maxsize))
        table.put(key, value)

    def claim(self, function: Hashable, key: Hashable) -> threading.Event | None:
        """Undertake to compute a value: None. If another thread has done so already: what it will set."""
        with self._lock:
            taken = self._claims.get((function, key))
            if taken is None:
                self._claims[function, key] = threading.Event()
            return taken

    def release(self, function: Hashable, key: Hashable) -> None:
        """The value is there, or will not be: whoever waits for it looks again."""
        with self._lock:
            claim = self._claims.pop((function, key), None)
        if claim is not None:
            claim.set()

    def entries(self) -> dict[Hashable, int]:
        """How many values each function has."""
        return {function: len(table) for function, table in self._tables.items()}


class Generations:
    """The generations of every group of one database in this process."""

    def __init__(self) -> None:
        self._current: dict[str, Generation] = {}
        self._alive: WeakValueDictionary[tuple[str, Tag], Generation] = WeakValueDictionary()
        self._lock = threading.Lock()

    def take(self, group: str, tag: Tag) -> Generation:
        """The generation of the group for this tag; it is kept from now on, unless a newer one is."""
        current = self._current.get(group)
        if current is not None and current.tag == tag:
            return current
        with self._lock:
            generation = self._alive.get((group, tag))
            if generation is None:
                generation = self._alive[group, tag] = Generation(tag)
            current = self._current.get(group)
            # A long unit that looks at this group late must not push out what newer units share.
            if current is None or not tag.is_older(current.tag):
                self._current[group] = generation
            return generation

    def revise(self, signals: Signals) -> None:
        """Give up generations that are newer than the signals of a new connection: a backup was restored."""
        with self._lock:
            for group, generation in list(self._current.items()):
                if signals.tag(group).is_older(generation.tag):
                    del self._current[group]

    def current(self) -> dict[str, Generation]:
        """The generation that is kept of each group."""
        return dict(self._current)
