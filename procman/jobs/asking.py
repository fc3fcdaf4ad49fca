"""Questions to a job runner, and its answers: what does this job wait for? Read-only, from its memory.

Only which job is meant has to be looked up, by the task of its database, between other things.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import UUID

from procman.jobs.scheduler import PENDING

if TYPE_CHECKING:
    from collections.abc import Callable

    from procman.jobs.dialect import Key
    from procman.jobs.explain import Explanation
    from procman.jobs.link import Link
    from procman.jobs.runner import Runner


class Lookups:
    """Which keys jobs have, of which the uuids are known."""

    def __init__(self) -> None:
        self._waiting: list[tuple[str, Callable[[Key | None], object]]] = []

    def add(self, uuid: str, then: Callable[[Key | None], object]) -> None:
        """Hand ``then`` the key of the job, or None, before long."""
        self._waiting.append((uuid, then))

    def carry_out(self, find: Callable[[str], Key | None]) -> None:
        """Look up what is waited for."""
        while self._waiting:
            uuid, then = self._waiting[0]
            key = find(uuid)
            del self._waiting[0]
            then(key)

    def give_up(self) -> None:
        """The database can't be asked."""
        waiting, self._waiting = self._waiting, []
        for _, then in waiting:
            then(None)


def answer(runner: Runner, text: str, reply: Callable[[str], object]) -> None:
    """Answer a question, now or before long; what is no question that is known here has an empty answer."""
    try:
        question = json.loads(text)
        uuid, database = str(UUID(question["uuid"])), question.get("database")
    except (ValueError, TypeError, KeyError):
        reply("{}")
        return
    links = [link for link in runner.links.values() if database in (None, link.database, link.name)]
    found: list[dict[str, Any]] = []
    left = len(links)
    if not links:
        reply(json.dumps({"databases": []}))

    def collect(link: Link, key: Key | None) -> None:
        nonlocal left
        left -= 1
        if key is not None or not link.feed.connected:
            found.append(_of_link(runner, link, key))
        if not left:
            reply(json.dumps({"databases": found}))

    for link in links:
        link.look_up(uuid, lambda key, link=link: collect(link, key))  # type: ignore[misc]


def _of_link(runner: Runner, link: Link, key: Key | None) -> dict[str, Any]:
    now = monotonic()
    answer: dict[str, Any] = {"database": link.database, **link.state(), "known": False}
    explanation = None if key is None else runner.scheduler.explain(link.name, key, now)
    if explanation is None:
        return answer
    return {
        **answer,
        "known": True,
        "state_in_memory": explanation.job.state,
        "waits_for": [*_obstacles(explanation), *_elsewhere(runner, explanation, now)],
        "ahead": explanation.ahead,
        "ahead_in_all": explanation.ahead_in_all,
        "by_turns": explanation.by_turns,
    }


def _obstacles(explanation: Explanation) -> list[dict[str, Any]]:
    """What is in its way, with a word for programs and a sentence for people."""
    return [{"for": word(one), "text": str(one), **asdict(one)} for one in explanation.obstacles]


def word(obstacle: object) -> str:
    """``HeldUp`` is ``held_up``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(obstacle).__name__).lower()


def _elsewhere(runner: Runner, explanation: Explanation, now: float) -> list[dict[str, Any]]:
    """What keeps all jobs from starting."""
    if explanation.job.state != PENDING:
        return []
    seconds = runner.target.closed_until - now
    if seconds > 0:
        text = f"{runner.target} takes no jobs at the moment; it is asked again in {seconds:.1f} s"
        return [{"for": "target", "text": text, "seconds": round(seconds, 3)}]
    if runner.room() <= 0:
        text = f"a worker at {runner.target}: {runner.underway} jobs are on their way, to {runner.capacity}"
        return [{"for": "worker", "text": text, "underway": runner.underway}]
    return []
