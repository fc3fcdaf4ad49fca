from __future__ import annotations

import os

import pytest

from procman.daemon import figures
from procman.daemon.figures import FRESH, _Known
from procman.observe import processes


@pytest.fixture
def looks(monkeypatch):
    """How often the kernel was asked."""
    asked = []

    def usage(pid):
        asked.append(pid)
        return real(pid)

    real = processes.usage
    monkeypatch.setattr(figures.processes, "usage", usage)
    return asked


@pytest.fixture
def shown(looks):
    made = figures.Figures(None, None, None, 0.0)
    return lambda now: made._usage(os.getpid(), 0.0, now)


def test_what_the_kernel_has_said_is_good_for_a_moment(shown, looks):
    first = shown(100.0)
    assert shown(100.0 + FRESH / 2) == first
    assert len(looks) == 1


def test_then_it_is_asked_again(shown, looks):
    shown(100.0)
    shown(100.0 + FRESH)
    assert len(looks) == 2


def test_a_percentage_is_that_of_the_time_since_the_last_look():
    known = _Known(spawned=0.0, since=0.0)
    known.look(os.getpid(), 100.0)
    used = known.cpu_seconds
    assert known.cpu_percent == round(used, 1)
    known.look(os.getpid(), 100.0 + FRESH)
    assert known.cpu_percent == round(100.0 * (known.cpu_seconds - used) / FRESH, 1)


def test_nothing_is_said_of_a_process_that_is_gone(looks):
    known = _Known(spawned=0.0, since=0.0)
    known.look(os.getpid(), 100.0)
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    known.look(pid, 200.0)
    assert (known.usage, known.rss, known.cpu_percent, known.info) == (None, 0, 0.0, None)


def test_whoever_asks_for_the_number_of_the_slot_gets_it_also_after_one_who_did_not():
    made = figures.Figures(None, None, None, 0.0)
    pid = os.getpid()
    made._usage(pid, 0.0, 100.0)
    without = made.circus(pid, 1.0)
    assert "wid" not in without
    assert made.circus(pid, 1.0, 3) == {**without, "wid": 3}
    assert made.circus(pid, 1.0) == without
