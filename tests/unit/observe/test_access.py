"""The access log: what a line looks like, what can't get into one, and what is not written."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procman.observe import access
from procman.observe.access import AccessLog, JsonLines, TextLines, Visit

if TYPE_CHECKING:
    from pathlib import Path

COMBINED = re.compile(
    r"(?P<remote>\S+) - - \[(?P<time>\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] "
    r'"(?P<asked>(?:[^"\\]|\\.)*)" (?P<status>\d{3}) (?P<sent>\d+) '
    r'"(?P<referer>(?:[^"\\]|\\.)*)" "(?P<agent>(?:[^"\\]|\\.)*)" '
    r"worker=http\.1@3 wait=(?P<wait>[\d.]+) real=[\d.]+ cpu=[\d.]+ queries=(?:\d+|-) query_time=(?:[\d.]+|-)\n"
)


def visit(**more: Any) -> Visit:
    usual = {
        "ended": 1_795_000_000.25,
        "remote": "1.2.3.4",
        "method": "GET",
        "target": "/a?b",
        "protocol": "HTTP/1.1",
        "status": 200,
    }
    return Visit(**(usual | more))


def test_text() -> None:
    line = TextLines("http.1", 3)(
        visit(
            sent=12, referer="http://a/", user_agent="curl", wait=0.5, real=0.25, cpu=0.125, queries=2, query_time=0.1
        )
    )
    found = COMBINED.fullmatch(line)
    assert found is not None, line
    assert found["remote"] == "1.2.3.4"
    assert (found["asked"], found["status"], found["sent"]) == ("GET /a?b HTTP/1.1", "200", "12")
    assert (found["referer"], found["agent"]) == ("http://a/", "curl")
    assert line.endswith("worker=http.1@3 wait=0.500000 real=0.250000 cpu=0.125000 queries=2 query_time=0.100000\n")


def test_text_of_what_was_no_request() -> None:
    line = TextLines("http.1", 3)(visit(remote="", method=None, target=None, protocol=None, status=400))
    found = COMBINED.fullmatch(line)
    assert found is not None
    assert (found["remote"], found["asked"], found["status"]) == ("unix", "-", "400")


def test_json() -> None:
    line = JsonLines("http.1", 3)(visit(host="a", sent=1, received=2, real=0.1234567))
    assert line.endswith("}\n")
    assert json.loads(line) == {
        "time": "2026-11-18T11:06:40.250Z",
        "remote": "1.2.3.4",
        "scheme": "http",
        "host": "a",
        "method": "GET",
        "target": "/a?b",
        "protocol": "HTTP/1.1",
        "status": 200,
        "sent": 1,
        "received": 2,
        "referer": None,
        "user_agent": None,
        "worker": "http.1",
        "generation": 3,
        "wait": 0.0,
        "real": 0.123457,
        "cpu": 0.0,
        "queries": None,
        "query_time": None,
    }


anything = st.text(st.characters(max_codepoint=0xFF))


@given(target=anything, referer=anything, agent=anything)
def test_nothing_from_outside_ends_a_line_or_a_field(target: str, referer: str, agent: str) -> None:
    given = visit(target=target, referer=referer, user_agent=agent)
    line = TextLines("http.1", 3)(given)
    assert line.isascii()
    assert all(character.isprintable() for character in line[:-1])
    assert COMBINED.fullmatch(line)
    line = JsonLines("http.1", 3)(given)
    assert line.count("\n") == 1
    assert json.loads(line)["user_agent"] == agent


def test_lines_of_one_turn_are_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    log = AccessLog(f"text:{tmp_path / 'log'}", "http.1", 3)
    monkeypatch.setattr(access.os, "write", lambda fd, data: written.append(bytes(data)) or len(data))
    for _ in range(3):
        log.add(visit())
    assert log.pending
    assert written == []
    log.flush(0.0)
    assert not log.pending
    assert [data.count(b"\n") for data in written] == [3]


@pytest.mark.parametrize("remove", [False, True])
def test_a_file_that_was_moved_or_removed_is_made_anew(tmp_path: Path, remove: bool) -> None:
    path, moved = tmp_path / "log", tmp_path / "log.1"
    log = AccessLog(f"text:{path}", "http.1", 3)
    log.add(visit())
    log.flush(100.0)
    if remove:
        path.unlink()
    else:
        path.rename(moved)
    log.add(visit(status=201))
    log.flush(100.5)  # it is not looked at with every line
    log.add(visit(status=202))
    log.flush(101.0)
    assert [line.split()[8] for line in path.read_text().splitlines()] == ["202"]
    if not remove:
        assert [line.split()[8] for line in moved.read_text().splitlines()] == ["200", "201"]
    assert path.stat().st_mode & 0o777 == 0o640 & ~os.umask(os.umask(0))


def test_copytruncate_works_too(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = AccessLog(f"json:{path}", "http.1", 3)
    log.add(visit())
    log.flush(0.0)
    os.truncate(path, 0)
    log.add(visit(status=201))
    log.flush(0.1)
    assert json.loads(path.read_text())["status"] == 201


def test_a_pipe_without_room_is_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(OSError, match="No such device"):
        AccessLog(f"text:{path}", "http.1", 3)  # nobody reads
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log = AccessLog(f"text:{path}", "http.1", 3)
    count = 0
    while not log._lost:
        for _ in range(100):
            log.add(visit(user_agent=str(count)))
            count += 1
        log.flush(0.0)
    assert log.pending
    assert len(log._kept) <= access.MOST_KEPT
    seen = b""
    for _ in range(1000):
        try:
            seen += os.read(reader, 1 << 20)
        except BlockingIOError:
            if not log.pending:
                break
        log.flush(0.0)
    os.close(reader)
    lines = seen.decode().splitlines(keepends=True)
    assert all(COMBINED.fullmatch(line) for line in lines)
    told = re.search(r"(\d+) lines of the access log were lost", caplog.text)
    assert told is not None
    assert len(lines) + int(told[1]) == count


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_survived() -> None:
    log = AccessLog("text:/dev/full", "http.1", 3)
    for _ in range(20_000):
        log.add(visit())
        log.flush(0.0)
    assert log.pending
    assert len(log._kept) <= access.MOST_KEPT


def test_a_line_that_was_cut_by_a_full_disk_stands_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    log = AccessLog(f"text:{path}", "http.1", 3)
    write = os.write
    room = [250]

    def as_much_as_there_is_room(fd: int, data: bytearray) -> int:
        taken = write(fd, data[: room[0]]) if room[0] else 0
        room[0] -= taken
        return taken

    monkeypatch.setattr(access.os, "write", as_much_as_there_is_room)
    for status in (200, 201, 202):
        log.add(visit(status=status))
    log.flush(0.0)
    room[0] = 10_000
    log.flush(1.0)
    first, cut, last = path.read_text().splitlines(keepends=True)
    assert COMBINED.fullmatch(first)
    assert not COMBINED.fullmatch(cut)
    assert COMBINED.fullmatch(last)
