"""Asking job runners, which alone know why a job waits. The question goes over the channel, and so does the answer.

One question at a time, and a pause after each: whoever reads may ask, and must not keep a runner from its jobs. With a
million of them waiting, to see who comes before one takes it 60 ms.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from procman.core.lifecycle import Question
from procman.core.spec import Kind
from procman.errors import ChannelClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from procman.daemon.children import Children
    from procman.daemon.loop import Loop
    from procman.daemon.processes import WorkerProcess

PATIENCE = 2.0  # seconds for an answer: a runner that reads a million rows answers in between
PAUSE = 0.25  # seconds from one answer to the next question
MOST_WAITING = 100

Answers = list[dict[str, Any]]


class _Waiting(NamedTuple):
    question: Mapping[str, Any]
    then: Callable[[Answers], object]
    wanted: Callable[[], bool]


class Questions:
    def __init__(self, loop: Loop, children: Children) -> None:
        self._loop = loop
        self._children = children
        self._numbers = itertools.count(1)
        self._waiting: deque[_Waiting] = deque()
        self._asking = False

    def ask(
        self, question: Mapping[str, Any], then: Callable[[Answers], object], wanted: Callable[[], bool] = lambda: True
    ) -> bool:
        """Hand ``then`` what the job runners say, in the order of their names; False when too many have asked.

        A question that is not ``wanted`` any more when its turn comes is not asked.
        """
        if len(self._waiting) >= MOST_WAITING:
            return False
        self._waiting.append(_Waiting(question, then, wanted))
        if not self._asking:
            self._next()
        return True

    def _next(self) -> None:
        while self._waiting and not self._waiting[0].wanted():
            self._waiting.popleft()
        if not self._waiting:
            self._asking = False
            return
        self._asking = True
        question, then, _ = self._waiting.popleft()
        runners = [worker for worker in self._children.workers.values() if worker.spec.kind is Kind.JOBRUNNER]
        answers: Answers = []

        def collect(worker: WorkerProcess, text: str | None) -> None:
            answers.append({"worker": worker.name, "pid": worker.pid, "answer": _read(text)})
            if len(answers) == len(runners):
                answers.sort(key=lambda one: str(one["worker"]))
                then(answers)
                self._loop.call_later(PAUSE, self._next)

        for worker in runners:
            self._ask_one(worker, json.dumps(question), collect)
        if not runners:
            then([])
            self._loop.call_later(PAUSE, self._next)

    def _ask_one(self, worker: WorkerProcess, text: str, then: Callable[[WorkerProcess, str | None], None]) -> None:
        number = next(self._numbers)

        def answered(text: str | None) -> None:
            timer.cancel()
            then(worker, text)

        def impatient() -> None:
            worker.on_answer.pop(number, None)
            then(worker, None)

        timer = self._loop.call_later(PATIENCE, impatient)
        worker.on_answer[number] = answered
        try:
            if worker.channel is None or worker.pid is None:
                raise ChannelClosed("it is not there")
            worker.channel.send(Question(number=number, text=text))
        except ChannelClosed:
            del worker.on_answer[number]
            self._loop.call_later(0.0, lambda: answered(None))


def _read(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None
