"""How procmanctl shows what the daemon answers, to people: aligned tables and one-line facts. Pure: data to text."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from procman.observe.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MIB = 1024 * 1024
LONGEST_UNIT = 48

COLOURS = {
    "done": "green",
    "failed": "red",
    "superseded": "yellow",
    "running": "green",
    "ready": "green",
    "starting": "yellow",
    "waiting": "yellow",
    "reloading": "yellow",
    "draining": "yellow",
    "stopping": "yellow",
    "parked": "red",
    "dumping": "red",
    "killing": "red",
    "crashed": "red",
    "oom": "red",
    "boot_failed": "red",
    "boot_timeout": "red",
}

Row = tuple[str, ...]


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], right: Iterable[str] = ()) -> str:
    """Rows under a header, each column as wide as its widest cell; the columns named in ``right`` aligned right."""
    cells = [tuple(header), *(tuple(_cell(value) for value in row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    to_right = set(right)
    lines = []
    for number, row in enumerate(cells):
        padded = [
            text.rjust(width) if name in to_right else text.ljust(width)
            for name, text, width in zip(header, row, widths, strict=True)
        ]
        lines.append("  ".join(padded if number == 0 else map(_coloured, padded)).rstrip())
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return "-" if value is None or value == "" else printable(str(value))


def _coloured(padded: str) -> str:
    colour = COLOURS.get(padded.strip())
    return padded if colour is None else styled(padded, colour)


def styled(text: str, colour: str) -> str:
    """Coloured; `click.echo` takes the colour off again where it does not belong."""
    import click

    return click.style(text, fg=colour)


def duration(seconds: float | None) -> str:
    """``1.5s``, ``3m 20s``, ``2h 5m``, ``4d 7h``: two units at most."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h {minutes}m"
    return f"{hours // 24}d {hours % 24}h"


def mebibytes(size: float | None) -> str:
    """A size in MiB with one digit after the point."""
    return "-" if size is None else f"{size / MIB:.1f}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def workers(number: int) -> str:
    """``1 worker``, ``2 workers``."""
    return f"{number} worker{'' if number == 1 else 's'}"


def arbiter_line(arbiter: Mapping[str, Any]) -> str:
    """``procmand 0.1.0 (pid 1) running, up 3m 20s, 31.0 MiB, 0.1 % cpu``"""
    return (
        f"procmand {arbiter.get('version', '?')} (pid {arbiter.get('pid', '?')}) {arbiter.get('state', '?')}, "
        f"up {duration(arbiter.get('uptime'))}, {mebibytes(arbiter.get('rss'))} MiB, "
        f"{percent(arbiter.get('cpu_percent'))} % cpu"
    )


def status_text(reply: Mapping[str, Any]) -> str:
    """The answer to ``status``: the pools, then what is parked or under way, then the last exits."""
    pools: Mapping[str, Mapping[str, Any]] = reply.get("pools", {})
    rows = [
        (
            name,
            p.get("kind"),
            p.get("state"),
            f"{p.get('ready', 0)}/{p.get('target', 0)}",
            p.get("busy"),
            p.get("generation"),
        )
        for name, p in pools.items()
    ]
    header = ("POOL", "KIND", "STATE", "READY", "BUSY", "GENERATION")
    blocks = [arbiter_line(reply.get("arbiter", {})), table(header, rows, ("READY", "BUSY", "GENERATION"))]
    notes = [line for name, pool in pools.items() for line in _notes(name, pool)]
    if notes:
        blocks.append("\n".join(notes))
    exits = [one for pool in pools.values() for one in pool.get("exits") or ()]
    if exits:
        blocks.append("Last exits\n" + _exits(exits))
    return "\n\n".join(blocks)


def _notes(name: str, pool: Mapping[str, Any]) -> Iterable[str]:
    if pool.get("parked"):
        yield styled(f"{name} is parked: {printable(str(pool['parked']))}", "red")
    if pool.get("operation"):
        progress = pool.get("progress")
        how_far = f", {_part({'outcome': 'running', **progress})}" if progress else ""
        yield f"{name}: {printable(str(pool['operation']))} is under way{how_far}"


def _exits(exits: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            _clock(e.get("at")),
            e.get("worker"),
            e.get("pid"),
            e.get("reason"),
            ending(e.get("status")),
            duration(e.get("lived")),
        )
        for e in sorted(exits, key=lambda e: e.get("at") or 0)
    ]
    return table(("AT", "WORKER", "PID", "REASON", "STATUS", "LIVED"), rows, ("PID", "LIVED"))


def ending(status: Any) -> Any:
    """An exit status is itself; that of a process which a signal has ended is the signal's name (subprocess, too)."""
    if not isinstance(status, int) or status >= 0:
        return status
    from signal import Signals

    return Signals(-status).name if -status in set(Signals) else f"signal {-status}"


def _clock(at: float | None) -> str:
    return "-" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def stats_text(reply: Mapping[str, Any]) -> str:
    """The answer to ``stats``: one line for each worker."""
    rows = [_worker(worker) for pool in reply.get("pools", {}).values() for worker in pool.get("workers", ())]
    times = ("P50 ms", "P99 ms")
    header = (
        "NAME",
        "PID",
        "STATE",
        "GEN",
        "BUSY",
        "UNIT",
        "SECONDS",
        "REQUESTS",
        *times,
        "RSS MiB",
        "CPU %",
        "UPTIME",
    )
    right = ("PID", "GEN", "SECONDS", "REQUESTS", *times, "RSS MiB", "CPU %", "UPTIME")
    return f"{arbiter_line(reply.get('arbiter', {}))}\n\n{table(header, rows, right)}"


def _worker(worker: Mapping[str, Any]) -> Row:
    unit, seconds = worker.get("unit"), worker.get("unit_seconds")
    return (
        _cell(worker.get("name")),
        _cell(worker.get("pid")),
        _cell(worker.get("state")),
        _cell(worker.get("generation")),
        "busy" if worker.get("busy") else "",
        _cut(f"{int(100 * share)} % {unit}" if (share := worker.get("progress")) is not None else unit or ""),
        "" if seconds is None else f"{seconds:.1f}",
        _cell(worker.get("requests")),
        _milliseconds(worker.get("p50")),
        _milliseconds(worker.get("p99")),
        mebibytes(worker.get("rss")),
        percent(worker.get("cpu_percent")),
        duration(worker.get("uptime")),
    )


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.1f}"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_UNIT else text[: LONGEST_UNIT - 1] + "…"


def reload_text(reply: Mapping[str, Any]) -> str:
    """One line for each pool that was to be reloaded: which generation serves now, and whether it is the new one."""
    lines = []
    for name, pool in reply.get("pools", {}).items():
        match pool.get("outcome"):
            case "done" if pool.get("change") == "nothing":
                lines.append(f"{name}: nothing has changed")
            case "done" if pool.get("change") == "live":
                lines.append(f"{name}: goes on with its new settings")
            case "done" if pool.get("ready") == 0:
                lines.append(f"{name}: nothing runs that could be replaced; it will start with the new code")
            case "done":
                lines.append(f"{name}: generation {pool.get('generation')} serves")
            case "superseded":
                lines.append(f"{name}: superseded by a later command")
            case outcome:
                lines.append(f"{name}: {outcome}, generation {pool.get('generation')} goes on serving")
    return "\n".join(lines)


def outcomes(reply: Mapping[str, Any]) -> str:
    """How an operation ended in each pool."""
    return "\n".join(
        f"{name}: {pool['outcome']}"
        for name, pool in reply.get("pools", {}).items()
        if isinstance(pool, dict) and "outcome" in pool
    )


def operations_text(reply: Mapping[str, Any]) -> str:
    """The answer to ``operations``: one line for each, the parts that have not ended with how far they are."""
    rows = [
        (
            one.get("operation"),
            one.get("state"),
            _clock(one.get("began")),
            duration((one.get("ended") or time.time()) - one.get("began", 0)),
            ", ".join(f"{name} {_part(part)}" for name, part in one.get("parts", {}).items()),
        )
        for one in reply.get("operations", ())
    ]
    return table(("OPERATION", "STATE", "BEGAN", "TOOK", "OF"), rows, ("TOOK",)) if rows else "There was none."


def _part(part: Mapping[str, Any]) -> str:
    if part.get("outcome") != "running":
        return str(part.get("outcome"))
    if "ready" not in part:
        return "running"
    if not part["target"] and "left" in part:
        return f"{workers(part['left'])} still there"
    return f"{part['ready']}/{part['target']} ready"


def tracebacks(reply: Mapping[str, Any]) -> str:
    """Why new generations could not be built, in their own words."""
    return "\n".join(
        f"{name}:\n{str(pool['traceback']).rstrip()}"
        for name, pool in reply.get("pools", {}).items()
        if isinstance(pool, dict) and pool.get("traceback")
    )


_EVERY_EVENT = frozenset({"v", "seq", "ts", "topic", "pool", "slot", "gen", "pid", "reason"})
_LONGEST_DETAIL = 80


def event_line(event: Mapping[str, Any]) -> str:
    """One event, or the gap that missing ones have left, in one line."""
    if "missed" in event:
        return styled(f"-- {event['missed']} events were missed ({event['from']} to {event['to']}) --", "yellow")
    at = float(event.get("ts") or 0)
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) + f".{int(at * 1000) % 1000:03d}"
    name = str(event.get("topic", "")).rpartition(".")[2]
    who = event.get("slot") or event.get("pool") or "arbiter"
    generation = "" if event.get("gen") is None else f"@{event['gen']}"
    words = [stamp, printable(f"{who}{generation}").ljust(16), _coloured(printable(name).ljust(15))]
    if event.get("reason"):
        words.append(_coloured(printable(str(event["reason"]))))
    if event.get("pid") is not None:
        words.append(f"pid={event['pid']}")
    words.extend(_details(event))
    return " ".join(words).rstrip()


def _details(event: Mapping[str, Any]) -> Iterable[str]:
    for name, value in event.items():
        if name in _EVERY_EVENT or value is None:
            continue
        text = ending(value) if name == "status" else round(value, 3) if isinstance(value, float) else value
        text = str(text).strip() if isinstance(text, (str, int, float)) else "…"
        # Of a traceback, the last line says what it was.
        text = printable(text.rpartition("\n")[2])
        yield f"{printable(str(name))}={text if len(text) <= _LONGEST_DETAIL else text[: _LONGEST_DETAIL - 1] + '…'}"
