"""What a job runner says of itself, again and again: to the daemon, which hands it on to `stats`, metrics and people.

One JSON document, never longer than a message may be. What changes all the time by itself, such as an age, is not in
it, so that nothing is said when nothing happens.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING, Any

from procman.core.lifecycle import MOST_JSON
from procman.jobs.census import Census
from procman.jobs.meter import BOUNDS

if TYPE_CHECKING:
    from procman.jobs.runner import Runner

EVERY = 1.0  # seconds between two
AGAIN = 15.0  # seconds after which it is said once more what has been said: to a daemon that has been executed anew

_States = list[list[Any]]  # database, channel, state, how many, and since when the oldest one could have started


class Figures:
    """To be asked after each turn of the runner."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._census = Census()
        self._next = 0.0
        self._again = 0.0
        self._said = ""
        self._since = round(time.time(), 3)
        self._missed = False  # something may have happened since we looked

    def due(self, now: float) -> str | None:
        """What is to be said now, if anything."""
        if now < self._next:
            self._missed = True
            return None
        lag = max(0.0, now - self._next) if self._missed else 0.0
        self._next, self._missed = now + EVERY, False
        self._census.go_on(self._runner.scheduler.tree, now)
        said = _fitting(self._document())
        text = json.dumps(said, separators=(",", ":"))
        if text == self._said and now < self._again:
            return None
        self._said, self._again = text, now + AGAIN
        return json.dumps({"at": round(time.time(), 3), "lag": round(lag, 4), **said}, separators=(",", ":"))

    def seconds_left(self, now: float) -> float:
        """When `due` is to be asked though nothing happens."""
        return max(0.0, (self._next if self._missed else self._again) - now)

    # -- the document --------------------------------------------------------------------------------------

    def _document(self) -> dict[str, Any]:
        runner = self._runner
        return {
            "since": self._since,
            "target": {"address": str(runner.target), "open": runner.target.closed_until <= monotonic()},
            "databases": {name: link.state() for name, link in runner.links.items()},
            "channels": self._channels(),
            "jobs": self._jobs(),
            "rescued": dict(runner.meter.rescued),
            "refused": dict(runner.meter.refused),
            "ended": {channel: dict(ends) for channel, ends in runner.meter.ended.items()},
            "bounds": BOUNDS,
            "times": {
                channel: {"waited": waited.as_dict(), "ran": runner.meter.ran[channel].as_dict()}
                for channel, waited in runner.meter.waited.items()
            },
        }

    def _channels(self) -> dict[str, Any]:
        scheduler = self._runner.scheduler
        figures = scheduler.figures()
        nodes = scheduler.tree.nodes
        return {
            name: {
                "capacity": channel.capacity,
                "running": figures[name].running,
                "waiting": figures[name].waiting,
                "paused": nodes[name].paused,
                "sequential": channel.sequential,
                "throttle": channel.throttle,
                "fair": channel.fair,
            }
            for name, channel in scheduler.channels().items()
        }

    def _jobs(self) -> _States:
        waiting = [[*place, "pending", count.jobs, count.oldest] for place, count in self._census.waiting.items()]
        running = Counter(
            (name, job.channel, "running")  # whether its worker has begun is known from the row alone
            for name, database in self._runner.scheduler.tree.databases.items()
            for job in database.running.values()
        )
        resting = [
            [name, channel, state, jobs, None]
            for name, link in self._runner.links.items()
            for (channel, state), jobs in link.resting.items()
        ]
        return [*waiting, *([*place, jobs, None] for place, jobs in running.items()), *resting]


def _fitting(document: dict[str, Any]) -> dict[str, Any]:
    """The document, without the places of the fewest jobs where it would be too long; ``left_out`` says how many."""
    while len(json.dumps(document, separators=(",", ":"))) > MOST_JSON:
        longest = max(("jobs", "channels", "times", "databases"), key=lambda name: len(json.dumps(document[name])))
        part = document[longest]
        keep = len(part) // 2
        if isinstance(part, list):
            document[longest] = sorted(part, key=lambda place: -place[3])[:keep]
        else:
            document[longest] = dict(list(part.items())[:keep])
        left_out = document.setdefault("left_out", {})
        left_out[longest] = left_out.get(longest, 0) + len(part) - keep
    return document
