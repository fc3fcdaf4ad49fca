"""The access log: a line for each request, after its response is on its way.

Text is the combined format that every tool reads, and behind it the unit's own figures as NAME=VALUE; JSON is one
object per line. What came from outside is escaped, so that it can't end a line or a field.

Lines are collected while the worker serves and written between two turns of its loop, all in one write(2) to the end
of the file (O_APPEND), so that those of several workers do not mix. Nothing here waits or raises: what a full disk or a
pipe without a reader does not take is kept, up to `MOST_KEPT`, and then dropped, counted, and told in the log.
"""

from __future__ import annotations

import logging
import os
import re
import select
import stat
import time
from collections import deque
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING

from procman.observe.logs import Outlet

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("procman.http")

MOST_KEPT = 1024 * 1024  # bytes
_LOOK_AT_FILE = 1.0  # seconds between looks whether the file has been moved away
_STDOUT = 1
_MODE = 0o640

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_SAFE = re.compile(r"[ !#-\[\]-~]*")
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 256))} | {34: '\\"', 92: "\\\\"}


@dataclass(slots=True, kw_only=True)
class Visit:
    """One request and what came of it. Texts are as they came, latin-1 in a str; None where there was nothing.

    ``ended`` is in seconds since the epoch, all other times are durations: ``wait`` from the arrival of the request in
    this machine to the begin of its unit, ``real`` and ``cpu`` of the unit. ``sent`` and ``received`` are the bytes of
    the bodies.
    """

    ended: float
    remote: str
    method: str | None
    target: str | None
    protocol: str | None
    status: int
    sent: int = 0
    received: int = 0
    host: str | None = None
    scheme: str = "http"
    referer: str | None = None
    user_agent: str | None = None
    wait: float = 0.0
    real: float = 0.0
    cpu: float = 0.0
    queries: int | None = None
    query_time: float | None = None


class TextLines:
    """Combined format, the worker and the figures; times in seconds."""

    def __init__(self, worker: str, generation: int) -> None:
        self._worker = f"{worker}@{generation}"
        self._second = -1
        self._stamp = ""

    def __call__(self, visit: Visit) -> str:
        second = int(visit.ended)
        if second != self._second:
            self._second, self._stamp = second, _stamp(second)
        asked = "-" if visit.method is None else f"{visit.method} {_escaped(visit.target)} {visit.protocol}"
        return (
            f'{visit.remote or "unix"} - - [{self._stamp}] "{asked}" {visit.status} {visit.sent} '
            f'"{_escaped(visit.referer)}" "{_escaped(visit.user_agent)}" '
            f"worker={self._worker} wait={visit.wait:.6f} real={visit.real:.6f} cpu={visit.cpu:.6f} "
            f"queries={_or(visit.queries, 'd', '-')} query_time={_or(visit.query_time, '.6f', '-')}\n"
        )


class JsonLines:
    """One object per line; times in seconds, ``time`` in UTC."""

    def __init__(self, worker: str, generation: int) -> None:
        self._worker = _json(worker)
        self._generation = generation
        self._second = -1
        self._stamp = ""

    def __call__(self, visit: Visit) -> str:
        second = int(visit.ended)
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        # A third of the time that an encoder takes to find out what it has before it.
        return (
            f'{{"time":"{self._stamp}.{int(visit.ended % 1 * 1000):03d}Z","remote":{_json(visit.remote or "unix")},'
            f'"scheme":"{visit.scheme}","host":{_json(visit.host)},"method":{_json(visit.method)},'
            f'"target":{_json(visit.target)},"protocol":{_json(visit.protocol)},"status":{visit.status},'
            f'"sent":{visit.sent},"received":{visit.received},"referer":{_json(visit.referer)},'
            f'"user_agent":{_json(visit.user_agent)},"worker":{self._worker},"generation":{self._generation},'
            f'"wait":{visit.wait:.6f},"real":{visit.real:.6f},"cpu":{visit.cpu:.6f},'
            f'"queries":{_or(visit.queries, "d", "null")},"query_time":{_or(visit.query_time, ".6f", "null")}}}\n'
        )


def _json(text: str | None) -> str:
    return "null" if text is None else encode_basestring_ascii(text)


def _or(number: float | None, form: str, none: str) -> str:
    return none if number is None else format(number, form)


def _escaped(text: str | None) -> str:
    if not text:
        return "-"
    return text if _SAFE.fullmatch(text) else text.translate(_ESCAPES)


def _stamp(second: int) -> str:
    # Not %b: the month's name is to be English in every locale.
    local = time.localtime(second)
    return f"{local.tm_mday:02d}/{_MONTHS[local.tm_mon - 1]}/{time.strftime('%Y:%H:%M:%S %z', local)}"


class AccessLog:
    """``where`` is ``text`` or ``json`` for the standard output, or with ``:PATH`` for a file.

    A file that has been moved or removed (logrotate's way) is opened anew within a second or so. Raises OSError when
    it can't be opened at first.
    """

    def __init__(self, where: str, worker: str, generation: int) -> None:
        form, _, path = where.partition(":")
        self._line: Callable[[Visit], str] = (JsonLines if form == "json" else TextLines)(worker, generation)
        self._lines: deque[str] = deque()  # to which threads append while it is emptied
        self._kept = bytearray()
        self._lost = 0
        self._torn = False  # the last line could be written in part only
        self._path = path
        self._look_at = 0.0
        self._fd = _open(path) if path else _STDOUT
        self._put: Callable[[bytearray], int] = self._append if path else Outlet(_STDOUT).write
        self._is_pipe = stat.S_ISFIFO(os.fstat(self._fd).st_mode)

    @property
    def pending(self) -> bool:
        """There are lines that are not written yet."""
        return bool(self._lines or self._kept)

    def add(self, visit: Visit) -> None:
        """A line more, to be written by `flush`."""
        self._lines.append(self._line(visit))

    def flush(self, now: float) -> None:
        """Write what there is, as much as can be written without waiting. ``now`` is a time of CLOCK_MONOTONIC."""
        if self._lines:
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            self._keep("".join(lines).encode("ascii"), len(lines))
        if self._path and now >= self._look_at:
            self._look_at = now + _LOOK_AT_FILE
            self._follow_the_name()
        kept = self._kept
        while kept:
            if self._torn:
                # Others may have written since: what is left of the line belongs to nothing.
                kept[: kept.find(b"\n") + 1] = b"\n"
                self._torn = False
            written = self._put(self._piece(kept))
            if not written:
                return
            self._torn = kept[written - 1] != 10
            del kept[:written]
        if self._lost:
            log.warning("%d lines of the access log were lost: it could not be written", self._lost)
            self._lost = 0

    def _keep(self, data: bytes, lines: int) -> None:
        if len(self._kept) + len(data) > MOST_KEPT:
            self._lost += lines
        else:
            self._kept += data

    def _piece(self, data: bytearray) -> bytearray:
        """As much as the kernel keeps in one piece: in a pipe that is PIPE_BUF, all or nothing (pipe(7))."""
        if not self._is_pipe or len(data) <= select.PIPE_BUF:
            return data
        return data[: data.rfind(b"\n", 0, select.PIPE_BUF) + 1 or data.find(b"\n") + 1]

    def _append(self, data: bytearray) -> int:
        try:
            return os.write(self._fd, data)
        except OSError:  # ENOSPC, EAGAIN of a pipe, EBADF
            return 0

    def _follow_the_name(self) -> None:
        try:
            try:
                there, ours = os.stat(self._path), os.fstat(self._fd)
                moved = (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)
            except FileNotFoundError:
                moved = True
            if moved:
                fd = _open(self._path)
                os.close(self._fd)
                self._fd = fd
        except OSError as error:
            # Then on with the old one: it is still there, under whatever name.
            log.warning("Cannot open the access log %s: %s", self._path, error.strerror)


def _open(path: str) -> int:
    # O_NONBLOCK: a named pipe without a reader is an error, and a full one no reason to wait (fifo(7)).
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, _MODE)
