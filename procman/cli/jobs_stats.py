"""`procmanctl jobs stats`: the channels, by what job runners say of themselves, or by the rows. Pure: data to data, and
to text.

A channel's figures are those of it and of the channels below it, as its capacity is.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from procman.cli.jobs_text import ago, took
from procman.cli.output import duration, styled, table
from procman.core.sample import quantile
from procman.observe.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ENDS = ("done", "failed", "retried", "cancelled")


def of_runners(
    pools: Mapping[str, Mapping[str, Any]], meant: Sequence[str], database: str | None
) -> dict[str, Any] | None:
    """The document, from the answer to ``stats``; None when no job runner has said anything."""
    said = {name: pool["jobs"] for name, pool in pools.items() if pool.get("jobs")}
    if not said:
        return None
    channels = [
        _channel(pool, name, channel, figures, database)
        for pool, figures in said.items()
        for name, channel in sorted(figures["channels"].items())
        if not meant or name in meant
    ]
    return {
        "source": "runners",
        "channels": channels,
        "runners": [
            {"pool": pool, **{key: figures[key] for key in ("databases", "target", "rescued", "refused", "lag")}}
            for pool, figures in said.items()
        ],
        "problems": {},
    }


def _channel(
    pool: str, name: str, channel: Mapping[str, Any], figures: Mapping[str, Any], database: str | None
) -> dict[str, Any]:
    below = [one for one in figures["jobs"] if _within(one[1], name) and database in (None, one[0])]
    ended = {end: sum(_ends(figures, name, end)) for end in ENDS}
    waited = _together(figures, name, "waited")
    oldest = min((one[4] for one in below if one[4] is not None), default=None)
    seconds = max(1.0, figures["at"] - figures["since"])
    return {
        "runner": pool,
        "name": name,
        **{key: channel[key] for key in ("capacity", "paused", "sequential", "throttle")},
        "running": channel["running"] if database is None else _count(below, "running"),
        "waiting": channel["waiting"] if database is None else _count(below, "pending"),
        "failed": _count(below, "failed"),
        "wait_dependencies": _count(below, "wait_dependencies"),
        "oldest_pending": None if oldest is None else datetime.fromtimestamp(oldest, UTC).isoformat(),
        "ended": ended,
        "done_per_minute": round(60 * ended["done"] / seconds, 2),
        "waited_p50": _quantile(waited, figures["bounds"], 0.5),
        "waited_p99": _quantile(waited, figures["bounds"], 0.99),
    }


def _within(channel: str, name: str) -> bool:
    return f"{channel}.".startswith(f"{name}.")


def _ends(figures: Mapping[str, Any], name: str, end: str) -> Iterable[int]:
    for channel, one in figures["ended"].items():
        if _within(channel, name) or name == "root":
            yield one.get(end, 0)


def _together(figures: Mapping[str, Any], name: str, what: str) -> list[int]:
    """The classes of times of the channel and those below it, added up."""
    every = [one[what]["counts"] for channel, one in figures["times"].items() if _within(channel, name)]
    return [sum(counts) for counts in zip(*every, strict=True)]


def _quantile(counts: Sequence[int], bounds: Sequence[float], share: float) -> float | None:
    found = quantile(counts, share, bounds) if counts else None
    return None if found is None else round(found, 6)


def _count(jobs: Iterable[Sequence[Any]], *states: str) -> int:
    return sum(one[3] for one in jobs if one[2] in states)


def of_rows(
    rows: Mapping[str, Mapping[str, Any]], meant: Sequence[str], problems: Mapping[str, str], why: str | None
) -> dict[str, Any]:
    """The document, from the counted rows of each database; ``why`` no runner was asked."""
    names = sorted({name for channels in rows.values() for name in channels} | {"root"})
    channels = []
    for name in names:
        if meant and name not in meant:
            continue
        below = [one for found in rows.values() for channel, one in found.items() if _within(channel, name)]
        oldest = min((one["oldest_pending"] for one in below if one["oldest_pending"]), default=None)
        channels.append(
            {
                "runner": None,
                "name": name,
                "running": sum(one["states"].get(state, 0) for one in below for state in ("enqueued", "started")),
                "waiting": sum(one["states"].get("pending", 0) for one in below),
                "failed": sum(one["states"].get("failed", 0) for one in below),
                "wait_dependencies": sum(one["states"].get("wait_dependencies", 0) for one in below),
                "oldest_pending": oldest,
            }
        )
    return {
        "source": "rows",
        "why": why or "the daemon has no job runner that has said anything",
        "channels": channels,
        "runners": [],
        "problems": dict(problems),
    }


# -- for people -------------------------------------------------------------------------------------------


def text(reply: Mapping[str, Any]) -> str:
    """For people: a table of the channels, and what is not as it should be."""
    header = ("CHANNEL", "RUNNING", "WAITING", "BLOCKED", "FAILED", "OLDEST", "DONE/MIN", "WAIT P50", "WAIT P99", "")
    rows = [
        (
            one["name"],
            f"{one['running']}/{one['capacity'] or '∞'}" if "capacity" in one else one["running"],
            one["waiting"],
            one["wait_dependencies"],
            one["failed"],
            "" if one["oldest_pending"] is None else duration(max(0.0, ago(one["oldest_pending"]))),
            f"{one['done_per_minute']:g}" if "done_per_minute" in one else "",
            *("" if one.get(key) is None else took(one[key]) for key in ("waited_p50", "waited_p99")),
            _remarks(one) or " ",
        )
        for one in reply["channels"]
    ]
    blocks = [table(header, rows, header[1:9])]
    if reply["source"] == "rows":
        blocks.append(styled(f"By the rows alone: {printable(reply['why'])}", "yellow"))
    blocks += ["\n".join(lines) for lines in ([*_complaints(reply)],) if lines]
    return "\n\n".join(blocks)


def _remarks(channel: Mapping[str, Any]) -> str:
    found = [word for word in ("paused", "sequential") if channel.get(word)]
    if channel.get("throttle"):
        found.append(f"throttle {channel['throttle']:g} s")
    return ", ".join(found)


def _complaints(reply: Mapping[str, Any]) -> Iterable[str]:
    for runner in reply["runners"]:
        for name, database in runner["databases"].items():
            if database["state"] == "down":
                yield styled(f"{runner['pool']} can't reach database {name}: {printable(database['problem'])}", "red")
            elif database["state"] == "stands by":
                yield f"{printable(database['leader'])} starts the jobs of database {name}"
        if not runner["target"]["open"]:
            yield styled(f"{runner['pool']}: no jobs are taken at {runner['target']['address']}", "red")
        if rescued := sum(runner["rescued"].values()):
            yield f"{runner['pool']}: tries found dead, whose jobs were queued again, since it started: {rescued}"
