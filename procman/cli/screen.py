"""What `procmanctl top` draws: one screen of a given size from what the daemon says. Draws, and decides nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from procman.cli.output import COLOURS, duration, ending, mebibytes, percent
from procman.cli.rates import Rates, sparkline
from procman.observe.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rich.console import RenderableType

MOST_EXITS = 6
SPARK = 20
LONG, TOO_LONG = 1.0, 10.0  # seconds of a unit after which it is shown in yellow, in red
HEADING = "bold reverse"


@dataclass(slots=True)
class View:
    """What is to be seen: the last answer to ``status``, the rates, and where the list of workers is scrolled to."""

    status: Mapping[str, Any] = field(default_factory=dict)
    operations: Sequence[Mapping[str, Any]] = ()
    rates: Rates = field(default_factory=Rates)
    problem: str = ""
    offset: int = 0

    @property
    def pools(self) -> Mapping[str, Mapping[str, Any]]:
        return self.status.get("pools") or {}

    @property
    def workers(self) -> list[Mapping[str, Any]]:
        return [worker for pool in self.pools.values() for worker in pool.get("workers", ())]


def draw(view: View, width: int, height: int) -> RenderableType:
    """The screen, for so many columns and lines: the workers get what the rest leaves, the exits give way first."""
    head: list[RenderableType] = [*_summary(view), Text()]
    if view.pools:
        head.append(_pools(view, width))
        head.append(Text())
    notes = list(_notes(view))
    used = 3 + (2 + len(view.pools) if view.pools else 0) + len(notes) + 1
    exits = _last_exits(view)[: max(0, min(MOST_EXITS, height - used - len(view.workers) - 3))]
    if exits:
        used += 2 + len(exits)
    room = max(1, height - used - 1)
    view.offset = max(0, min(view.offset, len(view.workers) - room))
    shown = view.workers[view.offset : view.offset + room]
    tail: list[RenderableType] = [Text(), _exits(exits, width)] if exits else []
    below = len(view.workers) - view.offset - len(shown)
    return Group(*head, *notes, _workers(view, shown, width), *tail, _keys(view.offset, below))


# -- the daemon -------------------------------------------------------------------------------------------


def _summary(view: View) -> Iterable[Text]:
    if view.problem:
        yield Text(printable(view.problem), style="bold white on red", no_wrap=True, overflow="ellipsis")
    else:
        yield _daemon(view.status.get("arbiter") or {})
    workers = view.workers
    line = Text(no_wrap=True, overflow="ellipsis")
    for name, value in (
        ("workers", str(len(workers))),
        ("busy", str(sum(bool(worker.get("busy")) for worker in workers))),
        ("requests/s", _rate(view.rates.total)),
        ("memory", f"{mebibytes(sum(worker.get('rss') or 0 for worker in workers))} MiB"),
        ("cpu", f"{percent(sum(worker.get('cpu_percent') or 0.0 for worker in workers))} %"),
    ):
        line.append(f"{name} ", "dim").append(value, "bold").append("   ")
    yield line


def _daemon(arbiter: Mapping[str, Any]) -> Text:
    state = str(arbiter.get("state", "?"))
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"procmand {arbiter.get('version', '?')}", "bold cyan").append("   ")
    line.append(state, _style(state)).append("   ")
    for name, value in (
        ("pid", str(arbiter.get("pid", "?"))),
        ("up", duration(arbiter.get("uptime"))),
        ("memory", f"{mebibytes(arbiter.get('rss'))} MiB"),
        ("cpu", f"{percent(arbiter.get('cpu_percent'))} %"),
    ):
        line.append(f"{name} ", "dim").append(value).append("   ")
    return line.append(time.strftime("%H:%M:%S"), "dim")


def _notes(view: View) -> Iterable[Text]:
    """What is parked, and what is under way: one line each."""
    for name, pool in view.pools.items():
        if pool.get("parked"):
            text = f"{name} is parked: {pool['parked']}"
            yield Text(printable(text), style="red", no_wrap=True, overflow="ellipsis")
    for one in view.operations:
        parts = ", ".join(f"{name} {_progress(part)}" for name, part in one.get("parts", {}).items())
        took = duration(time.time() - one.get("began", 0))
        text = f"{one.get('operation')} is under way since {took}: {parts}"
        yield Text(printable(text), style="yellow", no_wrap=True, overflow="ellipsis")


def _progress(part: Mapping[str, Any]) -> str:
    if part.get("outcome") == "running" and "ready" in part:
        return f"{part['ready']}/{part['target']}"
    return str(part.get("outcome"))


# -- tables -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: ``cell`` makes the text of a row's; left out on screens narrower than ``least``."""

    header: str
    cell: Callable[[Any], str | Text]
    right: bool = False
    least: int = 0
    wide: bool = False  # takes what the others leave


def _table(columns: Iterable[Column], rows: Iterable[Any], width: int) -> Table:
    table = Table(box=None, expand=True, padding=(0, 2, 0, 0), header_style=HEADING, pad_edge=False)
    shown = [column for column in columns if width >= column.least]
    for column in shown:
        table.add_column(
            column.header,
            justify="right" if column.right else "left",
            ratio=1 if column.wide else None,
            no_wrap=True,
            overflow="ellipsis",
        )
    if not any(column.wide for column in shown):
        table.add_column("", ratio=1)  # the others keep together at the left
    for row in rows:
        table.add_row(*(column.cell(row) for column in shown))
    return table


def _pools(view: View, width: int) -> Table:
    def of(name: str, key: str) -> Any:
        return view.pools[name].get(key) or 0

    def ready(name: str) -> Text:
        ready, target = of(name, "ready"), of(name, "target")
        return Text(f"{ready}/{target}", "" if ready >= target else "yellow")

    def spark(name: str) -> Text:
        return Text(sparkline(view.rates.history(name), SPARK).rjust(SPARK), "cyan")

    def listens(name: str) -> Text:
        return Text(printable(", ".join(of(name, "listens") or ())), "dim")

    def workers(name: str, key: str) -> float:
        return sum(worker.get(key) or 0 for worker in view.pools[name].get("workers", ()))

    columns = (
        Column("POOL", lambda name: Text(printable(name), "bold")),
        Column("KIND", lambda name: printable(str(of(name, "kind"))), least=70),
        Column("STATE", lambda name: _word(of(name, "state"))),
        Column("READY", ready, right=True),
        Column("BUSY", lambda name: str(of(name, "busy")), right=True),
        Column("GEN", lambda name: str(of(name, "generation")), right=True, least=75),
        Column("REQ/S", lambda name: _rate(view.rates.of_pool(name)), right=True),
        Column("", spark, least=95),
        Column("MEM MiB", lambda name: mebibytes(workers(name, "rss")), right=True, least=50),
        Column("CPU %", lambda name: percent(workers(name, "cpu_percent")), right=True, least=60),
        Column(
            "LISTENS", lambda name: Text(printable(", ".join(of(name, "listens") or ())), "dim"), least=115, wide=True
        ),
    )
    return _table(columns, view.pools, width)


def _workers(view: View, shown: Iterable[Mapping[str, Any]], width: int) -> Table:
    def does(worker: Mapping[str, Any]) -> Text:
        return Text(printable(str(worker.get("unit") or "")), _urgency(worker.get("unit_seconds")))

    def since(worker: Mapping[str, Any]) -> Text:
        seconds = worker.get("unit_seconds")
        return Text("" if seconds is None else duration(seconds), _urgency(seconds))

    columns = (
        Column("WORKER", lambda worker: printable(str(worker.get("name")))),
        Column("PID", lambda worker: str(worker.get("pid") or "-"), right=True, least=50),
        Column("STATE", lambda worker: _word(worker.get("state"))),
        Column("GEN", lambda worker: str(worker.get("generation")), right=True, least=100),
        Column("DOES", does, wide=True),
        Column("FOR", since, right=True),
        Column("REQUESTS", lambda worker: str(worker.get("requests")), right=True, least=110),
        Column("REQ/S", lambda worker: _rate(view.rates.of_worker(worker)), right=True, least=80),
        Column("MEM MiB", lambda worker: mebibytes(worker.get("rss")), right=True, least=60),
        Column("CPU %", lambda worker: percent(worker.get("cpu_percent")), right=True, least=70),
        Column("UP", lambda worker: Text(duration(worker.get("uptime")), "dim"), right=True, least=90),
    )
    return _table(columns, shown, width)


def _last_exits(view: View) -> list[Mapping[str, Any]]:
    exits = [one for pool in view.pools.values() for one in pool.get("exits") or ()]
    return sorted(exits, key=lambda one: one.get("at") or 0.0, reverse=True)


def _exits(exits: Iterable[Mapping[str, Any]], width: int) -> Table:
    columns = (
        Column("LAST EXITS", lambda one: printable(str(one.get("worker")))),
        Column("PID", lambda one: str(one.get("pid") or "-"), right=True, least=70),
        Column("REASON", lambda one: _word(one.get("reason"))),
        Column("STATUS", lambda one: str(ending(one.get("status")))),
        Column("LIVED", lambda one: duration(one.get("lived")), right=True),
        Column("AGO", lambda one: duration(max(0.0, time.time() - (one.get("at") or 0.0))), right=True),
    )
    return _table(columns, exits, width)


def _keys(above: int, below: int) -> Text:
    line = Text("q", "bold", no_wrap=True, overflow="ellipsis").append(" quit", "dim")
    if above or below:
        line.append("   ↑↓", "bold").append(f" scroll: {above} above, {below} below", "dim")
    return line


# -- cells ------------------------------------------------------------------------------------------------


def _rate(rate: float) -> str:
    return f"{rate:.1f}" if rate < 1000 else f"{rate:.0f}"


def _word(word: Any) -> Text:
    return Text(printable(str(word)), _style(str(word)))


def _style(word: str) -> str:
    return COLOURS.get(word, "")


def _urgency(seconds: float | None) -> str:
    if seconds is None or seconds < LONG:
        return ""
    return "yellow" if seconds < TOO_LONG else "bold red"
