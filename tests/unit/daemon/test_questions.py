"""Questions to job runners: one at a time, with a pause, and to nobody who has gone."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from procman.core.spec import Kind
from procman.daemon.questions import MOST_WAITING, PATIENCE, PAUSE, Questions
from procman.errors import ChannelClosed


class Loop:
    """Time passes when it is told to."""

    def __init__(self):
        self.now = 0.0
        self._timers = []

    def call_later(self, seconds, callback):
        timer = SimpleNamespace(cancel=lambda: self._timers.remove(entry))
        entry = (self.now + seconds, len(self._timers), callback)
        self._timers.append(entry)
        return timer

    def pass_time(self, seconds):
        until = self.now + seconds
        while due := sorted(entry for entry in self._timers if entry[0] <= until):
            self._timers.remove(due[0])
            self.now = due[0][0]
            due[0][2]()
        self.now = until


class Runner:
    """A job runner as the daemon knows it."""

    def __init__(self, name, *, closed=False):
        self.name, self.pid, self.spec = name, 7, SimpleNamespace(kind=Kind.JOBRUNNER)
        self.channel, self.on_answer, self.asked, self._closed = self, {}, [], closed

    def send(self, question):
        if self._closed:
            raise ChannelClosed("gone")
        self.asked.append(json.loads(question.text))

    def answer(self, text):
        number, callback = next(iter(self.on_answer.items()))
        del self.on_answer[number]
        callback(text)


@pytest.fixture
def loop():
    return Loop()


def questions(loop, *runners):
    other = SimpleNamespace(spec=SimpleNamespace(kind=Kind.HTTP))
    return Questions(loop, SimpleNamespace(workers=dict(enumerate((*runners, other)))))


def test_all_runners_are_asked_and_told_by_name(loop):
    second, first = Runner("b.1"), Runner("a.1")
    answers = []
    questions(loop, second, first).ask({"q": 1}, answers.append)
    assert first.asked == second.asked == [{"q": 1}]
    second.answer('{"x": 1}')
    assert answers == []
    first.answer("nonsense")
    expected = [{"worker": "a.1", "pid": 7, "answer": None}, {"worker": "b.1", "pid": 7, "answer": {"x": 1}}]
    assert answers == [expected]


def test_one_question_at_a_time_and_a_pause_after_it(loop):
    runner = Runner("a.1")
    asking = questions(loop, runner)
    answers = []
    for number in range(3):
        asking.ask({"q": number}, answers.append)
    assert runner.asked == [{"q": 0}]
    runner.answer("{}")
    assert len(answers) == 1
    assert len(runner.asked) == 1
    loop.pass_time(PAUSE)
    assert runner.asked == [{"q": 0}, {"q": 1}]
    runner.answer("{}")
    loop.pass_time(PAUSE)
    runner.answer("{}")
    loop.pass_time(PAUSE)
    asking.ask({"q": 3}, answers.append)
    assert runner.asked[-1] == {"q": 3}


def test_who_does_not_answer_or_is_gone_is_said_to_have_said_nothing(loop):
    silent, gone = Runner("a.1"), Runner("b.1", closed=True)
    answers = []
    questions(loop, silent, gone).ask({}, answers.append)
    loop.pass_time(PATIENCE)
    assert [one["answer"] for one in answers[0]] == [None, None]
    assert silent.on_answer == gone.on_answer == {}
    loop.pass_time(PAUSE)
    assert len(answers) == 1


def test_without_runners_the_answer_is_empty(loop):
    answers = []
    questions(loop).ask({}, answers.append)
    assert answers == [[]]


def test_too_many_are_turned_away_and_who_has_left_is_not_asked_for(loop):
    runner = Runner("a.1")
    asking = questions(loop, runner)
    answers = []
    assert asking.ask({"q": "first"}, answers.append)
    assert all(asking.ask({"q": number}, answers.append, lambda: False) for number in range(MOST_WAITING - 1))
    assert asking.ask({"q": "last"}, answers.append)
    assert not asking.ask({"q": "too many"}, answers.append)
    runner.answer("{}")
    loop.pass_time(PAUSE)
    assert runner.asked == [{"q": "first"}, {"q": "last"}]
