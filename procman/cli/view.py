"""What `procmanctl top` knows, and how it obeys keys: sort, filter, select, pause. Pure: neither draws nor asks."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from procman.cli.rates import Rates

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MOST_EVENTS = 200
PAGE = 10
FAR = 1_000_000

Worker = dict[str, Any]


def _number(name: str) -> Callable[[Rates, Mapping[str, Any]], Any]:
    return lambda rates, worker: worker.get(name) or 0


# By the header of the column: what the workers are sorted by, and whether the largest comes first.
SORTS: dict[str, tuple[Callable[[Rates, Mapping[str, Any]], Any], bool]] = {
    "": (lambda rates, worker: 0, False),  # as the daemon has them: by pool, then by slot
    "STATE": (lambda rates, worker: str(worker.get("state")), False),
    "FOR": (_number("unit_seconds"), True),
    "REQUESTS": (_number("requests"), True),
    "REQ/S": (lambda rates, worker: rates.of_worker(worker), True),
    "MEM MiB": (_number("rss"), True),
    "CPU %": (_number("cpu_percent"), True),
    "UP": (_number("uptime"), True),
}

UP, DOWN, PAGE_UP, PAGE_DOWN, HOME, END = "up", "down", "page up", "page down", "home", "end"
ENTER, ESCAPE, BACKSPACE, QUIT = "enter", "escape", "backspace", "quit"
_MOVES = {UP: -1, "k": -1, DOWN: 1, "j": 1, PAGE_UP: -PAGE, "b": -PAGE, PAGE_DOWN: PAGE, " ": PAGE}
_MOVES |= {HOME: -FAR, "g": -FAR, END: FAR, "G": FAR}


@dataclass(slots=True)
class View:
    """The last answers of the daemon, and what the person at the keyboard wants to see of them.

    ``offset`` is the first worker that is shown, ``details`` a text that takes the whole screen, such as stacks.
    """

    status: Mapping[str, Any] = field(default_factory=dict)
    operations: Sequence[Mapping[str, Any]] = ()
    events: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=MOST_EVENTS))
    rates: Rates = field(default_factory=Rates)
    problem: str = ""
    offset: int = 0
    selected: int = 0
    sort: str = ""
    reverse: bool = False
    paused: bool = False
    filter: str = ""
    typing: bool = False
    title: str = ""
    details: str = ""
    details_offset: int = 0

    @property
    def pools(self) -> Mapping[str, Mapping[str, Any]]:
        """Those that the filter lets through, by their name, kind or state."""
        pools: Mapping[str, Mapping[str, Any]] = self.status.get("pools") or {}
        wanted = self.filter.lower()
        return {
            name: pool
            for name, pool in pools.items()
            if wanted in f"{name} {pool.get('kind')} {pool.get('state')}".lower()
        }

    @property
    def workers(self) -> list[Worker]:
        """The workers of those pools, sorted as is wanted."""
        workers = [worker for pool in self.pools.values() for worker in pool.get("workers", ())]
        value, largest_first = SORTS[self.sort]
        if self.sort:
            workers.sort(key=lambda worker: value(self.rates, worker), reverse=largest_first is not self.reverse)
        elif self.reverse:
            workers.reverse()
        return workers

    @property
    def chosen(self) -> str | None:
        """The name of the worker that is selected."""
        workers = self.workers
        return str(workers[min(self.selected, len(workers) - 1)].get("name")) if workers else None

    def scroll(self, room: int) -> None:
        """Keep what is selected among the ``room`` workers that are shown."""
        number = len(self.workers)
        self.selected = max(0, min(self.selected, number - 1))
        self.offset = max(min(self.offset, self.selected), self.selected - room + 1)
        self.offset = max(0, min(self.offset, number - room))

    def hear(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Events that are new."""
        last = self.events[-1]["seq"] if self.events else 0
        self.events.extend(event for event in events if event["seq"] > last)

    # -- keys ---------------------------------------------------------------------------------------------

    def obey(self, key: str) -> str:
        """Do as the key says. What the view can't do by itself is returned: ``"quit"``, ``"stacks"``, else nothing."""
        if self.typing:
            self._type(key)
        elif self.details:
            return self._leaf(key)
        elif key in _MOVES:
            self.selected = max(0, min(self.selected + _MOVES[key], max(0, len(self.workers) - 1)))
        elif key in ("q", "Q", QUIT):
            return QUIT
        elif key == ENTER:
            return "stacks" if self.chosen else ""
        else:
            self._switch(key)
        return ""

    def _switch(self, key: str) -> None:
        match key:
            case "s" | "S":
                names = list(SORTS)
                step = 1 if key == "s" else -1
                self.sort, self.reverse = names[(names.index(self.sort) + step) % len(names)], False
            case "r":
                self.reverse = not self.reverse
            case "p":
                self.paused = not self.paused
            case "/":
                self.typing, self.filter = True, ""
            case "escape":
                self.filter = ""

    def _type(self, key: str) -> None:
        if key in (ENTER, ESCAPE):
            self.typing = False
            self.filter = self.filter if key == ENTER else ""
        elif key == BACKSPACE:
            self.filter = self.filter[:-1]
        elif len(key) == 1 and key.isprintable():
            self.filter += key
        self.selected = 0

    def _leaf(self, key: str) -> str:
        if key == QUIT:
            return QUIT
        if key in _MOVES:
            last = max(0, self.details.count("\n"))
            self.details_offset = max(0, min(self.details_offset + _MOVES[key], last))
        elif key in ("q", ENTER, ESCAPE):
            self.details = ""
        return ""

    def show(self, title: str, text: str) -> None:
        """Let a text take the screen until it is closed; its end first, which is where a stack is."""
        self.title, self.details, self.details_offset = title, text, FAR
