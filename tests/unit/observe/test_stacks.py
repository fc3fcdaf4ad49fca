"""Stacks of threads and greenlets, and the line above them."""

from __future__ import annotations

import sys
import threading

import gevent
import pytest

from procman.observe.stacks import format_stacks, heading, worker_text

UNIT = {
    "name": "GET /slow?seconds=2",
    "database": "shop",
    "user": 7,
    "queries": 3,
    "query_seconds": 0.0123,
    "python_seconds": 1.5,
    "seconds": 1.5123,
}


def test_heading_of_a_request():
    assert heading("http.1", 4711, UNIT) == (
        "Worker http.1 (4711) GET /slow?seconds=2 (db:shop uid:7 url:/slow?seconds=2 qc:3 qt:0.012 pt:1.500)"
    )


def test_heading_of_something_else():
    unit = {**UNIT, "name": "cron refresh", "database": None, "user": None, "queries": 0}
    expected = "Worker cron.1 (4711) cron refresh (db:n/a uid:n/a url:n/a qc:0 qt:0.012 pt:1.500)"
    assert heading("cron.1", 4711, unit) == expected


def test_heading_between_units():
    assert heading("http.1", 4711, None) == "Worker http.1 (4711) idle"


def test_heading_is_one_line_whatever_the_path():
    assert "\n" not in heading("http.1", 1, {**UNIT, "name": "GET /a\nWorker http.2 (2) idle\x1b[2J"})


@pytest.mark.parametrize(
    ("entry", "lines"),
    [
        ({"text": "Thread MainThread\n", "by": "python"}, ["Worker http.1 (1) idle", "Thread MainThread"]),
        (
            {"text": "Current thread 0x1\n", "by": "faulthandler"},
            ["Worker http.1 (1) idle", "inside a call of C; innermost call first", "Current thread 0x1"],
        ),
        ({"text": "", "by": "python"}, ["Worker http.1 (1) idle", "no stack: the worker has not answered"]),
    ],
)
def test_block_of_a_worker(entry, lines):
    assert worker_text({"worker": "http.1", "pid": 1, "unit": None, **entry}).splitlines() == lines


def test_every_thread_the_main_thread_first():
    go, there = threading.Event(), threading.Event()

    def waits_here() -> None:
        there.set()
        go.wait()

    thread = threading.Thread(target=waits_here, name="helper")
    thread.start()
    there.wait()
    try:
        text = format_stacks()
    finally:
        go.set()
        thread.join()
    assert text.startswith("Thread MainThread (0x")
    assert "Thread helper (0x" in text
    assert "in waits_here" in text
    assert "in test_every_thread_the_main_thread_first" in text


def test_the_interrupted_frame_stands_for_the_calling_thread():
    def interrupted():
        return sys._getframe()

    text = format_stacks(interrupted())
    assert "in interrupted" in text
    assert "in format_stacks" not in text


def test_greenlets_that_wait():
    def waits_in_a_greenlet() -> None:
        gevent.sleep(60)

    greenlet = gevent.spawn(waits_in_a_greenlet)
    try:
        gevent.sleep(0)
        text = format_stacks()
    finally:
        greenlet.kill()
        gevent.get_hub().destroy(destroy_loop=True)
    assert "Greenlet <Greenlet at" in text
    assert "in waits_in_a_greenlet" in text
