"""One record is one line or one indented block, whatever is in it, and logging never raises."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys

import pytest

from procman.observe.logs import JsonFormatter, Sink, TextFormatter
from procman.observe.text import printable


class Unprintable:
    def __str__(self) -> str:
        raise ValueError("no")


@pytest.fixture
def written(tmp_path):
    """A logger that writes to a file through a Sink, and a function that reads what it has written."""

    def make(formatter):
        fd = os.open(tmp_path / "log", os.O_CREAT | os.O_RDWR | os.O_APPEND)
        opened.append(fd)
        logger = logging.Logger("procman.arbiter")
        logger.addHandler(Sink(formatter, fd))
        return logger, lambda: (tmp_path / "log").read_text()

    opened: list[int] = []
    yield make
    for fd in opened:
        os.close(fd)


def test_text(written):
    logger, read = written(TextFormatter("http", "http.1"))
    logger.info("Worker %s (%d) alive", "http.1", 4711)
    line = rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d,\d{{3}} {os.getpid()} INFO http http\.1 procman\.arbiter: "
    assert re.fullmatch(line + r"Worker http\.1 \(4711\) alive\n", read())


def test_text_shows_the_local_time_with_its_milliseconds():
    record = logging.makeLogRecord({"msg": "x", "created": 1795250000.0425, "name": "a", "levelname": "INFO"})
    formatter = TextFormatter("-", "arbiter")
    first = formatter.format(record)
    record.created += 1
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:20,042 ", first)
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:21,042 ", formatter.format(record))


def test_the_daemon_says_of_which_worker_it_speaks(written):
    logger, read = written(TextFormatter("-", "arbiter"))
    logger.info("gone", extra={"pool": "http", "worker": "http.2"})
    logger.info("up", extra={"pool": None, "worker": None})
    first, second = read().splitlines()
    assert " INFO http http.2 procman.arbiter: gone" in first
    assert " INFO - arbiter procman.arbiter: up" in second


def test_further_lines_are_indented_and_control_characters_shown(written):
    logger, read = written(TextFormatter("http", "http.1"))
    logger.info("GET %s", "/a\n2026-11-21 09:41:00,123 1 INFO forged\r\x1b[2J\u2028tail\x00")
    first, *rest = read().splitlines()
    assert first.endswith("GET /a")
    assert rest == ["  2026-11-21 09:41:00,123 1 INFO forged", "  \\x1b[2J", "  tail\\x00"]


def test_json(written):
    logger, read = written(JsonFormatter("http", "http.1"))
    logger.warning("two\nlines", extra={"unit": "GET /", "seconds": 1.5, "pool": "cron", "reason": None})
    record = json.loads(read())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("time"))
    assert record == {
        "level": "WARNING",
        "pool": "cron",
        "worker": "http.1",
        "pid": os.getpid(),
        "logger": "procman.arbiter",
        "message": "two\nlines",
        "unit": "GET /",
        "seconds": 1.5,
    }


@pytest.mark.parametrize("formatter", [TextFormatter("http", "http.1"), JsonFormatter("http", "http.1")])
def test_traceback(written, formatter):
    logger, read = written(formatter)
    try:
        raise KeyError("price")
    except KeyError:
        logger.exception("failed")
    text = read()
    if isinstance(formatter, JsonFormatter):
        assert text.count("\n") == 1
        assert json.loads(text)["traceback"].splitlines()[-1] == "KeyError: 'price'"
    else:
        assert text.splitlines()[1] == "  Traceback (most recent call last):"
        assert text.splitlines()[-1] == "  KeyError: 'price'"


CIRCLE: dict[str, object] = {}
CIRCLE["self"] = CIRCLE


@pytest.mark.parametrize("extra", [{"x": float("nan")}, {"x": CIRCLE}, {"x": {(1, 2): 3}}])
def test_json_stays_json_when_the_extra_is_none(written, extra):
    logger, read = written(JsonFormatter("http", "http.1"))
    logger.info("kept", extra=extra)
    assert json.loads(read())["message"] == "kept"


@pytest.mark.parametrize("formatter", [TextFormatter("http", "http.1"), JsonFormatter("http", "http.1")])
def test_arguments_that_can_not_be_formatted(written, formatter):
    logger, read = written(formatter)
    logger.info("%d apples", "three")
    logger.info("%s", Unprintable())
    assert read().count("[the arguments of this record can't be formatted: TypeError]") == 1
    assert read().count("[the arguments of this record can't be formatted: ValueError]") == 1


def test_what_was_lost_is_told(written):
    logger, read = written(TextFormatter("http", "http.1"))
    logger.info(Unprintable())
    logger.info(Unprintable())
    logger.info("after")
    first, second = read().splitlines()
    assert first.endswith("procman.log: 2 log records were lost before this one")
    assert second.endswith("after")


def test_a_surrogate_from_a_file_name_is_written(written):
    logger, read = written(TextFormatter("http", "http.1"))
    logger.info("file %s", "\udcff")
    assert read().endswith("file \\udcff\n")


def test_a_full_disk_costs_records_and_nothing_else():
    fd = os.open("/dev/full", os.O_WRONLY)
    logger = logging.Logger("x")
    sink = Sink(TextFormatter("-", "arbiter"), fd)
    logger.addHandler(sink)
    try:
        for _ in range(3):
            logger.info("lost")
    finally:
        os.close(fd)
    logger.info("closed")
    assert sink._lost == 4


def test_a_torn_record_does_not_swallow_the_next(tmp_path):
    """A pipe that does not block takes the first part of a record; when there is room again, a new line begins."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    logger = logging.Logger("x")
    logger.addHandler(Sink(TextFormatter("-", "arbiter"), writer))
    logger.info("x" * 1_000_000)
    os.read(reader, 1 << 20)
    logger.info("after")
    lines = os.read(reader, 65536).decode().splitlines()
    os.close(reader)
    os.close(writer)
    assert lines[0] == ""
    assert lines[1].endswith("1 log records were lost before this one")
    assert lines[2].endswith("after")


def run(code: str, **kwargs) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=60, **kwargs)


CONFIGURE = "import logging, os, threading, warnings\nfrom procman.observe import logs\n"


def test_configure_takes_over_everything_that_goes_to_the_standard_error():
    code = CONFIGURE + (
        "logging.basicConfig()\n"
        "logs.configure('json', pool='http', worker='http.1')\n"
        "logging.getLogger('app').debug('not shown')\n"
        "logging.getLogger('app').info('shown')\n"
        "warnings.warn('old', stacklevel=1)\n"
        "thread = threading.Thread(target=lambda: 1 / 0, name='helper')\n"
        "thread.start(); thread.join()\n"
        "raise RuntimeError('at the end')\n"
    )
    done = run(code)
    records = [json.loads(line) for line in done.stderr.splitlines()]
    assert [record["level"] for record in records] == ["INFO", "WARNING", "ERROR", "CRITICAL"]
    assert records[0]["message"] == "shown"
    assert "old" in records[1]["message"]
    assert records[2]["message"] == "Uncaught ZeroDivisionError in thread helper"
    assert records[3]["traceback"].endswith("RuntimeError: at the end")
    assert done.returncode == 1


def test_a_closed_standard_error_does_not_give_the_log_to_the_next_file(tmp_path):
    code = CONFIGURE + (
        "os.close(2)\n"
        "logs.configure('text', pool='-', worker='arbiter')\n"
        f"file = open({str(tmp_path / 'data')!r}, 'w')\n"
        "logging.getLogger().info('log')\n"
        "assert file.fileno() != 2\n"
    )
    assert run(code).returncode == 0
    assert (tmp_path / "data").read_text() == ""


def test_records_of_several_processes_do_not_mix():
    code = CONFIGURE + (
        "logs.configure('text', pool='http', worker='http.1')\n"
        "children = []\n"
        "for n in range(4):\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        for _ in range(500): logging.getLogger('x').info('<%s>', str(n) * 1000)\n"
        "        os._exit(0)\n"
        "    children.append(pid)\n"
        "for pid in children: os.waitpid(pid, 0)\n"
    )
    lines = run(code).stderr.splitlines()
    assert len(lines) == 2000
    assert all(re.search(r"<(\d)\1{999}>$", line) for line in lines)


def test_a_signal_handler_may_log_while_logging():
    code = CONFIGURE + (
        "import signal\n"
        "logs.configure('text', pool='http', worker='http.1')\n"
        "log = logging.getLogger('x')\n"
        "signal.signal(signal.SIGALRM, lambda *_: log.info('tick'))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)\n"
        "for _ in range(20000): log.info('work')\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
    )
    lines = run(code).stderr.splitlines()
    assert sum(line.endswith("x: work") for line in lines) == 20000
    assert any(line.endswith("x: tick") for line in lines)


@pytest.mark.parametrize(
    ("text", "shown"), [("a\tb", "a\tb"), ("ünï ✓", "ünï ✓"), ("\x00\x7f\x9b\u2029", "\\x00\\x7f\\x9b\\u2029")]
)
def test_printable(text, shown):
    assert printable(text) == shown
