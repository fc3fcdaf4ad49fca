"""How procmanctl shows cron entries to people. Pure: data to text."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from procman.cli.output import duration, table
from procman.observe.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LONGEST = 60


def listing(reply: Mapping[str, Any]) -> str:
    """``cron list``: a line for each entry."""
    entries: Sequence[Mapping[str, Any]] = reply["entries"]
    if not entries:
        return "There is no cron entry."
    several = len({entry["database"] for entry in entries}) > 1
    header = ["NAME", *(["DATABASE"] if several else []), "STATE", "SCHEDULE", "NEXT", "LAST", "TOOK", ""]
    rows = [
        (
            entry["name"],
            *([entry["database"]] if several else []),
            entry["state"],
            plan(entry["schedule"]),
            _next(entry),
            _ago(entry["last_call"]),
            _took(entry["last_seconds"]),
            _cut(_remark(entry)) or " ",
        )
        for entry in entries
    ]
    return table(header, rows, ("NEXT", "LAST", "TOOK"))


def plan(text: str) -> str:
    """A schedule without what goes without saying."""
    return text.removeprefix("CRON_TZ=UTC ").removeprefix("CRON_TZ=").removeprefix("@")


def _next(entry: Mapping[str, Any]) -> str:
    if entry["state"] in ("disabled", "running", "gone") or entry["next_call"] is None:
        return "-"
    seconds = _moment(entry["next_call"]) - time.time()
    return f"in {duration(seconds)}" if seconds > 0 else "now"


def _ago(moment: str | None) -> str:
    return "-" if moment is None else f"{duration(max(0.0, time.time() - _moment(moment)))} ago"


def _remark(entry: Mapping[str, Any]) -> str:
    """The one thing to know of an entry in its state."""
    if entry["state"] == "disabled":
        return str(entry["disabled_reason"])
    if entry["state"] == "running":
        since = max(0.0, time.time() - _moment(entry["running_since"]))
        return f"{entry['running_worker']} on {entry['running_host']} for {duration(since)}"
    if entry["state"] == "gone":
        return "is in the code no more"
    if entry["failure_count"]:
        times = "once" if entry["failure_count"] == 1 else f"{entry['failure_count']} times"
        return f"failed {times}: {_last_line(entry['last_error'])}".removesuffix(": ")
    return f"{entry['remaining']:g} to do" if entry["remaining"] else ""


def history(reply: Mapping[str, Any]) -> str:
    """``cron history``: a line for each run."""
    runs: Sequence[Mapping[str, Any]] = reply["runs"]
    if not runs:
        return "It has never run, as far as its history goes."
    several = len({run["database"] for run in runs}) > 1
    header = ["RUN", *(["DATABASE"] if several else []), "BEGAN", "LATE", "TOOK", "OUTCOME", "CAUSE", "WORKER", ""]
    rows = [
        (
            run["number"],
            *([run["database"]] if several else []),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(_moment(run["began"]))),
            _late(run),
            _took(run["seconds"]),
            run["outcome"],
            run["cause"],
            None if run["worker"] is None else f"{run['worker']}@{run['host']}",
            _cut(why(run)) or " ",
        )
        for run in runs
    ]
    return table(header, rows, ("RUN", "LATE", "TOOK"))


def history_in_full(reply: Mapping[str, Any]) -> str:
    """The same, with all that is known of what went wrong."""
    parts = [history(reply)]
    for run in reply["runs"]:
        for what in ("error", "stacks"):
            if run[what]:
                lines = "\n".join(f"  {printable(line)}" for line in str(run[what]).rstrip().splitlines())
                parts.append(f"Run {run['number']}, {run['outcome']}:\n{lines}")
    return "\n\n".join(parts)


def outcome(run: Mapping[str, Any]) -> str:
    """``cron run``: how it went."""
    text = f"{run['name']} {_PHRASES[run['outcome']]}"
    if run["seconds"] is not None:
        text += f", after {_took(run['seconds'])}"
    if reason := why(run):
        text += f": {reason}"
    if run["outcome"] == "failed" and run["error"]:
        text += "\n" + "\n".join(printable(line) for line in str(run["error"]).rstrip().splitlines())
    return text


_PHRASES = {
    "done": "is done",
    "partial": "has done a part, and goes on with the rest",
    "failed": "has failed",
    "killed": "has ended with its worker, and is tried again",
    "skipped": "was skipped",
}


def why(run: Mapping[str, Any]) -> str:
    """What is to be known of its end."""
    if run["reason"]:
        return str(run["reason"])
    if run["error"]:
        return _last_line(run["error"])
    if run["remaining"]:
        return f"{run['remaining']:g} to do"
    return ""


def _last_line(text: str | None) -> str:
    lines = (text or "").strip().splitlines()
    return lines[-1].strip() if lines else ""


def _late(run: Mapping[str, Any]) -> str:
    return "-" if run["due"] is None else _took(max(0.0, _moment(run["began"]) - _moment(run["due"])))


def _took(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.0f}ms" if seconds < 1 else duration(seconds)


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _cut(text: str) -> str:
    text = printable(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
