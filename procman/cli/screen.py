"""What `procmanctl top` draws: one screen of a given size from what the daemon says. Draws, and decides nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from procman.cli.output import COLOURS, duration, ending, mebibytes, percent
from procman.cli.rates import sparkline
from procman.observe.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rich.console import RenderableType

    from procman.cli.view import View

MOST_EXITS = 5
MOST_EVENTS = 12
LEAST_BELOW = 5  # lines for exits and events on a screen of TALL lines, however many workers there are
LOW, TALL, ROOMY, WIDE = 16, 28, 100, 130
SPARK = 20
METER = 8
LONG, TOO_LONG = 1.0, 10.0  # seconds of a unit after which it is shown in yellow, in red
HEADING = "black on cyan"


def draw(view: View, width: int, height: int) -> RenderableType:
    """The screen, for so many columns and lines: the workers get what the rest leaves, what is below gives way."""
    if view.details:
        return _details(view, height)
    pools = list(view.pools)[: max(1, height // 3 - (2 if height < LOW else 0))]
    summary = list(_summary(view, width))
    head: list[RenderableType] = [*summary, Text()]
    if pools:
        head += [_pools(view, pools, width), *_hidden(len(view.pools) - len(pools)), Text()]
    notes = list(_notes(view))[: height // 6]
    used = len(summary) + 1 + (2 + len(pools) + bool(len(view.pools) - len(pools)) if pools else 0) + len(notes) + 2
    exits, events = _last_exits(view)[:MOST_EXITS], list(view.events)[-MOST_EVENTS:]
    below = min(height - used - len(view.workers) - 2, 1 + max(len(exits), len(events)))
    if height >= TALL:
        below = max(below, min(LEAST_BELOW, 1 + max(len(exits), len(events))))
    tail = _below(exits, events, width, below)
    room = max(1, height - used - (below + 1 if tail else 0))
    view.scroll(room)
    shown = view.workers[view.offset : view.offset + room]
    filling = [Text()] * (room - len(shown)) if height > used + room else []
    return Group(*head, *notes, _workers(view, shown, width), *tail, *filling, _keys(view, len(shown)))


def _details(view: View, height: int) -> RenderableType:
    lines = view.details.split("\n")
    view.details_offset = max(0, min(view.details_offset, len(lines) - height + 3))
    shown = lines[view.details_offset : view.details_offset + max(1, height - 3)]
    # Cut and not wrapped: a line of code is told by its beginning.
    texts = [Text(printable(line), no_wrap=True, overflow="ellipsis") for line in shown]
    filling = [Text()] * max(0, height - 3 - len(texts))
    keys = _key_line((("↑↓", "scroll"), ("⏎ esc", "back")))
    return Group(Text(f" {printable(view.title)} ", HEADING), Text(), *texts, *filling, keys)


# -- the daemon -------------------------------------------------------------------------------------------


def _summary(view: View, width: int) -> Iterable[Text]:
    if view.problem:
        yield Text(printable(view.problem), style="bold white on red", no_wrap=True, overflow="ellipsis")
    else:
        yield _daemon(view, width)
    workers = view.workers
    line = Text(" ", no_wrap=True, overflow="ellipsis")
    if view.filter or view.typing:
        line.append("only ", "dim").append(printable(view.filter), "bold yellow")
        line.append("▏" if view.typing else "").append("   ")
    for name, value in (
        ("workers", str(len(workers))),
        ("busy", str(sum(bool(worker.get("busy")) for worker in workers))),
        ("requests/s", _rate(sum(view.rates.of_worker(worker) for worker in workers))),
        ("memory", f"{mebibytes(sum(worker.get('rss') or 0 for worker in workers))} MiB"),
        ("cpu", f"{percent(sum(worker.get('cpu_percent') or 0.0 for worker in workers))} %"),
    ):
        line.append(f"{name} ", "dim").append(value, "bold").append("   ")
    yield line
    yield from _jobs(view)


def _jobs(view: View) -> Iterable[Text]:
    """What job runners say of all their channels together: one line, when there is a runner."""
    said = [pool["jobs"] for pool in view.pools.values() if pool.get("jobs")]
    if not said:
        return
    roots = [jobs["channels"]["root"] for jobs in said if "root" in jobs["channels"]]
    failed = sum(place[3] for jobs in said for place in jobs["jobs"] if place[2] == "failed")
    paused = [name for jobs in said for name, channel in jobs["channels"].items() if channel["paused"]]
    down = [name for jobs in said for name, database in jobs["databases"].items() if database["state"] == "down"]
    line = Text(" ", no_wrap=True, overflow="ellipsis")
    for name, value, style in (
        ("jobs running", str(sum(root["running"] for root in roots)), "bold"),
        ("waiting", str(sum(root["waiting"] for root in roots)), "bold"),
        ("failed", str(failed), "bold red" if failed else "bold"),
        ("rescued", str(sum(sum(jobs["rescued"].values()) for jobs in said)), "bold"),
    ):
        line.append(f"{name} ", "dim").append(value, style).append("   ")
    if paused:
        line.append(f"paused: {printable(', '.join(paused))}   ", "yellow")
    if down:
        line.append(f"not reached: {printable(', '.join(down))}", "red")
    yield line


def _daemon(view: View, width: int) -> Text:
    arbiter: Mapping[str, Any] = view.status.get("arbiter") or {}
    state = str(arbiter.get("state", "?"))
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f" procmand {arbiter.get('version', '?')} ", f"bold {HEADING}").append("  ")
    line.append("● ", _style(state)).append(state, _style(state)).append("   ")
    for name, value in (
        ("pid", str(arbiter.get("pid", "?"))),
        ("up", duration(arbiter.get("uptime"))),
        ("memory", f"{mebibytes(arbiter.get('rss'))} MiB"),
        ("cpu", f"{percent(arbiter.get('cpu_percent'))} %"),
    ):
        line.append(f"{name} ", "dim").append(value).append("   ")
    clock = Text("paused ", "bold yellow") if view.paused else Text()
    clock.append(time.strftime("%H:%M:%S"), "dim")
    line.append(" " * max(0, width - line.cell_len - clock.cell_len))
    return line.append_text(clock)


def _notes(view: View) -> Iterable[Text]:
    """What is parked, and what is under way: one line each."""
    for name, pool in view.pools.items():
        if pool.get("parked"):
            text = f" {name} is parked: {pool['parked']}"
            yield Text(printable(text), style="red", no_wrap=True, overflow="ellipsis")
    for one in view.operations:
        parts = ", ".join(f"{name} {_progress(part)}" for name, part in one.get("parts", {}).items())
        took = duration(time.time() - one.get("began", 0))
        text = f" {one.get('operation')} is under way since {took}: {parts}"
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


def _table(columns: Iterable[Column], rows: Iterable[Any], width: int, *, arrow: str = "", marked: int = -1) -> Table:
    """``arrow``: the header of the column that is sorted by; ``marked``: the row that is selected."""
    close = width < ROOMY
    table = Table(box=None, expand=True, padding=(0, 1), header_style=HEADING, collapse_padding=close)
    shown = [column for column in columns if width >= column.least]
    for column in shown:
        table.add_column(
            Text(f"{column.header}▾", "bold") if arrow and column.header == arrow else column.header,
            justify="right" if column.right else "left",
            ratio=1 if column.wide else None,
            no_wrap=True,
            overflow="ellipsis",
        )
    if not any(column.wide for column in shown):
        table.add_column("", ratio=1)  # the others keep together at the left
    for number, row in enumerate(rows):
        table.add_row(*(column.cell(row) for column in shown), style="reverse" if number == marked else "")
    return table


def _pools(view: View, names: Sequence[str], width: int) -> Table:
    def of(name: str, key: str) -> Any:
        return view.pools[name].get(key) or 0

    def ready(name: str) -> Text:
        ready, target = of(name, "ready"), of(name, "target")
        return Text(f"{ready}/{target}", "" if ready >= target else "yellow")

    def busy(name: str) -> Text:
        return meter(of(name, "busy"), of(name, "ready")) if width >= WIDE - 20 else Text(str(of(name, "busy")))

    def spark(name: str) -> Text:
        return Text(sparkline(view.rates.history(name), SPARK).rjust(SPARK), "cyan")

    def listens(name: str) -> Text:
        return Text(printable(", ".join(of(name, "listens") or ())), "dim")

    def workers(name: str, key: str) -> float:
        return sum(worker.get(key) or 0 for worker in view.pools[name].get("workers", ()))

    columns = (
        Column("POOL", lambda name: Text(printable(name), "bold")),
        Column("KIND", lambda name: Text(printable(str(of(name, "kind"))), "dim"), least=70),
        Column("STATE", lambda name: _state(of(name, "state"))),
        Column("READY", ready, right=True),
        Column("BUSY", busy, right=True),
        Column("GEN", lambda name: str(of(name, "generation")), right=True, least=75),
        Column("REQ/S", lambda name: _rate(view.rates.of_pool(name)), right=True),
        Column("", spark, least=95),
        Column("MEM MiB", lambda name: mebibytes(workers(name, "rss")), right=True, least=50),
        Column("CPU %", lambda name: _load(workers(name, "cpu_percent")), right=True, least=60),
        Column("LISTENS", listens, least=115, wide=True),
    )
    return _table(columns, names, width)


def _hidden(number: int) -> Iterable[Text]:
    if number > 0:
        yield Text(f" and {number} more; / filters", "dim")


def _workers(view: View, shown: Iterable[Mapping[str, Any]], width: int) -> Table:
    def does(worker: Mapping[str, Any]) -> Text:
        share = worker.get("progress")
        # Who says how far it is, is not stuck, however long it takes.
        unit = Text(
            printable(str(worker.get("unit") or "")), _urgency(worker.get("unit_seconds")) if share is None else ""
        )
        return unit if share is None else progress(share).append("  ").append_text(unit)

    def since(worker: Mapping[str, Any]) -> Text:
        seconds = worker.get("unit_seconds")
        return Text("" if seconds is None else duration(seconds), _urgency(seconds))

    def rate(worker: Mapping[str, Any]) -> Text:
        value = view.rates.of_worker(worker)
        return Text(_rate(value), "" if value else "dim")

    columns = (
        Column("WORKER", lambda worker: printable(str(worker.get("name")))),
        Column("PID", lambda worker: Text(str(worker.get("pid") or "-"), "dim"), right=True, least=50),
        Column("STATE", lambda worker: _state(worker.get("state"))),
        Column("GEN", lambda worker: Text(str(worker.get("generation")), "dim"), right=True, least=100),
        Column("DOES", does, wide=True),
        Column("FOR", since, right=True),
        Column("REQUESTS", lambda worker: str(worker.get("requests")), right=True, least=110),
        Column("REQ/S", rate, right=True, least=80),
        Column("MEM MiB", lambda worker: mebibytes(worker.get("rss")), right=True, least=60),
        Column("CPU %", lambda worker: _load(worker.get("cpu_percent")), right=True, least=70),
        Column("UP", lambda worker: Text(duration(worker.get("uptime")), "dim"), right=True, least=90),
    )
    return _table(columns, shown, width, arrow=view.sort, marked=view.selected - view.offset)


# -- what has happened ------------------------------------------------------------------------------------


def _below(
    exits: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]], width: int, lines: int
) -> list[RenderableType]:
    """The last exits and events in so many lines: side by side, or the events alone, which tell of exits too."""
    rows = lines - 1
    if rows < 1 or not (exits or events):
        return []
    if width < WIDE or not exits or not events:
        table = _events(events[-rows:], width) if events else _exits(exits[:rows], width)
        return [Text(), table]
    beside = Table.grid(expand=True)
    beside.add_column(ratio=9)
    beside.add_column(width=1)
    beside.add_column(ratio=11)
    beside.add_row(_exits(exits[:rows], width * 9 // 20), "", _events(events[-rows:], width * 11 // 20))
    return [Text(), beside]


def _last_exits(view: View) -> list[Mapping[str, Any]]:
    exits = [one for pool in view.pools.values() for one in pool.get("exits") or ()]
    return sorted(exits, key=lambda one: one.get("at") or 0.0, reverse=True)


def _exits(exits: Iterable[Mapping[str, Any]], width: int) -> Table:
    columns = (
        Column("LAST EXITS", lambda one: printable(str(one.get("worker")))),
        Column("PID", lambda one: Text(str(one.get("pid") or "-"), "dim"), right=True, least=70),
        Column("REASON", lambda one: _word(one.get("reason"))),
        Column("STATUS", lambda one: str(ending(one.get("status")))),
        Column("LIVED", lambda one: duration(one.get("lived")), right=True),
        Column("AGO", lambda one: duration(max(0.0, time.time() - (one.get("at") or 0.0))), right=True),
    )
    return _table(columns, exits, width)


def _events(events: Iterable[Mapping[str, Any]], width: int) -> Table:
    def clock(event: Mapping[str, Any]) -> Text:
        return Text(time.strftime("%H:%M:%S", time.localtime(event.get("ts") or 0)), "dim")

    def who(event: Mapping[str, Any]) -> str:
        generation = "" if event.get("gen") is None else f"@{event['gen']}"
        return printable(f"{event.get('slot') or event.get('pool') or 'arbiter'}{generation}")

    def what(event: Mapping[str, Any]) -> Text:
        return _word(str(event.get("topic", "")).rpartition(".")[2])

    columns = (
        Column("EVENTS", clock),
        Column("", who),
        Column("", what),
        Column("", lambda event: _word(event.get("reason") or ""), wide=True),
    )
    return _table(columns, events, width)


def _keys(view: View, shown: int) -> Text:
    if view.typing:
        return _key_line((("type", "what pools are to be shown"), ("⏎", "keep"), ("esc", "all")))
    above, below = view.offset, len(view.workers) - view.offset - shown
    move = f"select: {above} above, {below} below" if above or below else "select"
    sort = f"sort by {view.sort.lower()}" if view.sort else "sort"
    keys = [
        ("q", "quit"),
        ("↑↓", move),
        ("⏎", "stacks"),
        ("s", sort),
        ("r", "reverse"),
        ("/", "filter"),
        ("p", "pause"),
    ]
    return _key_line(keys)


def _key_line(keys: Iterable[tuple[str, str]]) -> Text:
    line = Text(" ", no_wrap=True, overflow="ellipsis")
    for key, meaning in keys:
        line.append(key, "bold cyan").append(f" {meaning}   ", "dim")
    line.rstrip()
    return line


# -- cells ------------------------------------------------------------------------------------------------


def meter(value: int, most: int, width: int = METER) -> Text:
    """``━━━━──── 2/4``: how much of it, as a bar and as numbers."""
    filled = 0 if most <= 0 else min(width, round(width * value / most)) or (1 if value else 0)
    share = value / most if most else 0.0
    colour = "green" if share < 0.7 else "yellow" if share < 1 else "red"
    bar = Text().append("━" * filled, colour).append("─" * (width - filled), "dim")
    return bar.append(f" {value}")


def progress(share: float, width: int = METER) -> Text:
    """``━━━━────  48 %``: how much of a unit is done."""
    filled = min(width, int(width * share))
    return Text().append("━" * filled, "cyan").append("─" * (width - filled), "dim").append(f" {int(100 * share):3} %")


def _rate(rate: float) -> str:
    return f"{rate:.1f}" if rate < 1000 else f"{rate:.0f}"


def _load(value: float | None) -> Text:
    colour = "dim" if not value else "" if value < 50 else "yellow" if value < 90 else "bold red"
    return Text(percent(value), colour)


def _word(word: Any) -> Text:
    return Text(printable(str(word)), _style(str(word)))


def _state(state: Any) -> Text:
    return Text().append("● ", _style(str(state))).append(printable(str(state)))


def _style(word: str) -> str:
    return COLOURS.get(word, "dim" if word == "stopped" else "")


def _urgency(seconds: float | None) -> str:
    if seconds is None or seconds < LONG:
        return ""
    return "yellow" if seconds < TOO_LONG else "bold red"
