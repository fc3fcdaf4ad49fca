"""Stacks that one can paste into a report: of this process, and as the daemon shows those of its workers.

A worker's are headed by the unit that it is in, in the words of Odoo's dumpstacks: qc, qt and pt are the number of
queries, the seconds in queries and the seconds in Python.
"""

from __future__ import annotations

import gc
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

from procman.observe.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import FrameType

MOST_FRAMES = 100
MOST_GREENLETS = 1000


def format_stacks(current: FrameType | None = None) -> str:
    """Every thread's stack, the main thread first, then every greenlet's that waits.

    ``current`` stands for the frame of the calling thread: a signal handler passes the one it has interrupted.
    """
    frames = sys._current_frames()
    if current is not None:
        # Not threading.get_ident(): after gevent's patching that is the number of a greenlet.
        own = sys._getframe()
        frames = {ident: current if frame is own else frame for ident, frame in frames.items()}
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().ident
    blocks = [
        f"Thread {names.get(ident, '?')} ({ident:#x})\n{_stack(frames[ident])}"
        for ident in sorted(frames, key=lambda ident: ident != main)
    ]
    blocks.extend(f"Greenlet {name}\n{_stack(frame)}" for name, frame in _greenlets())
    return "\n".join(blocks)


def _stack(frame: FrameType) -> str:
    return "".join(traceback.format_list(traceback.extract_stack(frame, limit=MOST_FRAMES)))


def _greenlets() -> Iterator[tuple[str, FrameType]]:
    """Those that are switched away: the one that runs is its thread's stack."""
    module = sys.modules.get("greenlet")
    if module is None:
        return
    found = 0
    for candidate in gc.get_objects():
        # By type, not isinstance: that asks proxies for their __class__, which can run code of the application.
        if issubclass(type(candidate), module.greenlet) and candidate.gr_frame is not None:
            found += 1
            if found > MOST_GREENLETS:
                return
            yield printable(repr(candidate)), candidate.gr_frame


def heading(worker: str, pid: int | None, unit: Mapping[str, Any] | None) -> str:
    """``Worker http.1 (4711) GET /slow (db:shop uid:7 url:/slow qc:3 qt:0.012 pt:1.998)``, or ``… idle``.

    What is called ``http@3`` is no worker but the template of that generation.
    """
    if "@" in worker:
        return f"Template {worker} ({pid})"
    if unit is None:
        return f"Worker {worker} ({pid}) idle"
    name = printable(str(unit.get("name") or "?"))
    method, _, path = name.partition(" ")
    url = path if path.startswith("/") and method.isupper() else None
    return (
        f"Worker {worker} ({pid}) {name} (db:{_or_na(unit.get('database'))} uid:{_or_na(unit.get('user'))} "
        f"url:{_or_na(url)} qc:{_or_na(unit.get('queries'))} qt:{_seconds(unit.get('query_seconds'))} "
        f"pt:{_seconds(unit.get('python_seconds'))})"
    )


def worker_text(entry: Mapping[str, Any]) -> str:
    """One worker's block of the answer to `dumpstacks`: its heading, then its stacks."""
    title = heading(str(entry.get("worker")), entry.get("pid"), entry.get("unit"))
    text = str(entry.get("text") or "").rstrip()
    if not text:
        return f"{title}\nno stack: the worker has not answered"
    if entry.get("by") == "faulthandler":
        # Python's own handler had no turn: no byte code runs. faulthandler writes the innermost call first.
        return f"{title}\ninside a call of C; innermost call first\n{text}"
    return f"{title}\n{text}"


def _or_na(value: Any) -> str:
    return "n/a" if value is None or value == "" else printable(str(value))


def _seconds(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
