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
    from collections.abc import Hashable, Iterable

    from procman.signaling.store import Fingerprints, Tag


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()


class Table:
    """The values of one function: least recently used leaves first when there are more than ``maxsize``."""

    __slots__ = ("_entries", "_lock", "maxsize", "size")

    def __init__(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self.size = 0  # bytes, as estimated by whoever puts
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any:
        """The value, which becomes the most recently used; MISSING when there is none."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return MISSING
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        with self._lock:
            replaced = self._entries.pop(key, None)
            self._entries[key] = (value, size)
            self.size += size - (replaced[1] if replaced else 0)
            if len(self._entries) > self.maxsize:
                self._drop()

    def discard(self, key: Hashable, value: Any) -> None:
        """Forget the value, unless it has been replaced meanwhile."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and entry[0] is value:
                del self._entries[key]
                self.size -= entry[1]

    def shrink(self, size: int) -> None:
        """Forget what was used least recently until at most ``size`` bytes are left."""
        with self._lock:
            while self._entries and self.size > size:
                self._drop()

    def _drop(self) -> None:
        self.size -= self._entries.popitem(last=False)[1][1]

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

    def put(self, function: Hashable, key: Hashable, value: Any, *, maxsize: int, size: int = 0) -> None:
        """Keep a value of about ``size`` bytes; the function has at most ``maxsize`` of them."""
        table = self._tables.get(function)
        if table is None:
            table = self._tables.setdefault(function, Table(maxsize))
        table.put(key, value, size)

    def discard(self, function: Hashable, key: Hashable, value: Any) -> None:
        """Forget this very value."""
        if (table := self._tables.get(function)) is not None:
            table.discard(key, value)

    def clear(self, function: Hashable) -> None:
        """Forget all values of the function."""
        self._tables.pop(function, None)

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

    def tables(self) -> dict[Hashable, Table]:
        """The values of each function."""
        return dict(self._tables)


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

    def revise(self, signals: Fingerprints) -> None:
        """Give up generations that are newer than the signals of a new connection: a backup was restored."""
        with self._lock:
            for group, generation in list(self._current.items()):
                if signals.tag(group).is_older(generation.tag):
                    del self._current[group]

    def current(self) -> dict[str, Generation]:
        """The generation that is kept of each group."""
        return dict(self._current)


def shrink(tables: Iterable[Table], most: int) -> None:
    """Forget values until the tables have at most ``most`` bytes together: the largest give first."""
    tables = list(tables)
    excess = sum(table.size for table in tables) - most
    if excess <= 0:
        return
    # A little more than needed, so that not every value that is put begins anew.
    excess += most // 16
    for table in sorted(tables, key=lambda table: table.size, reverse=True):
        before = table.size
        table.shrink(max(0, before - excess))
        excess -= before - table.size
        if excess <= 0:
            return
