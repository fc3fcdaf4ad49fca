"""Cache statistics as people read them: in the log after USR1, and as the answer to `procmanctl cachestats`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from procman.observe.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HEAD = ("group", "entries", "hits", "misses", "ratio", "size", "function")


def worker_caches(entry: Mapping[str, Any]) -> str:
    """One worker's block: a line for each of its cached functions, under a line that names the worker."""
    title = f"Worker {entry.get('worker')} ({entry.get('pid')})"
    caches = entry.get("caches")
    if caches is None:
        return f"{title} has not answered"
    if not caches:
        return f"{title} has no cached functions"
    return "\n".join((title, *_table([_HEAD, *(_row(cache) for cache in caches)])))


def _row(cache: Mapping[str, Any]) -> Sequence[str]:
    return (
        printable(str(cache.get("group"))),
        *(str(cache.get(name)) for name in ("entries", "hits", "misses")),
        f"{100 * float(cache.get('ratio') or 0):.1f}%",
        _size(int(cache.get("size") or 0)),
        printable(str(cache.get("function"))),
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return [
        "  " + "  ".join(_aligned(text, widths[column], column) for column, text in enumerate(row)).rstrip()
        for row in rows
    ]


def _aligned(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column in (0, len(_HEAD) - 1) else text.rjust(width)


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
