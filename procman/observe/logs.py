"""The log: one record per event on the standard error, in the spirit of Odoo's.

Text:  2026-11-21 09:41:00,123 4711 INFO http http.1 procman.arbiter: Worker http.1 (4711) alive
JSON:  {"time":"2026-11-21T08:41:00.123Z","level":"INFO","pool":"http","worker":"http.1","pid":4711,…}

The daemon, its templates and their workers share one standard error. Each record is one write(2): to a file the
kernel keeps such writes apart, and to a pipe those up to PIPE_BUF, 4096 bytes (pipe(7)); a longer record, a traceback
as a rule, may be cut by another process's when both write to a pipe at the same moment.

A log that can't be written must not stop what it tells about, so nothing here ever raises into the caller. What is
lost meanwhile is counted, and told when writing works again.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from procman.observe.text import printable

if TYPE_CHECKING:
    from types import TracebackType

STDERR = 2

# What a record has by itself; all else in its __dict__ came by extra=.
_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """A line with time (local), pid, level, pool, worker and logger; further lines of the record are indented."""

    def __init__(self, pool: str, worker: str) -> None:
        super().__init__()
        self._pool = pool
        self._worker = worker
        self._second = -1
        self._stamp = ""

    def format(self, record: logging.LogRecord) -> str:
        second = int(record.created)
        if second != self._second:
            # localtime and strftime cost more than all the rest of a line.
            self._stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
            self._second = second
        trace = _trace(self, record)
        block = _message(record) if trace is None else f"{_message(record)}\n{trace}"
        text = "\n  ".join(map(printable, block.splitlines()))
        milliseconds = int(record.created % 1 * 1000)
        pool, worker = _given(record, "pool") or self._pool, _given(record, "worker") or self._worker
        when = f"{self._stamp},{milliseconds:03d}"
        return f"{when} {record.process} {record.levelname} {pool} {worker} {record.name}: {text}"


class JsonFormatter(logging.Formatter):
    """One object per line. Fields that were given by ``extra=`` stand beside procman's own."""

    def __init__(self, pool: str, worker: str) -> None:
        super().__init__()
        self._pool = pool
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, Any] = {
            "time": f"{stamp}.{int(record.created % 1 * 1000):03d}Z",
            "level": record.levelname,
            "pool": _given(record, "pool") or self._pool,
            "worker": _given(record, "worker") or self._worker,
            "pid": record.process,
            "logger": record.name,
            "message": _message(record),
        }
        trace = _trace(self, record)
        if trace is not None:
            fields["traceback"] = trace
        extra = {
            name: value
            for name, value in record.__dict__.items()
            if value is not None and name not in _OWN and name not in fields
        }
        try:
            return _dump({**fields, **extra})
        except (TypeError, ValueError, RecursionError):  # NaN, a circle, a key that is no text
            return _dump(fields)


def _dump(fields: dict[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":"), allow_nan=False, default=str)


def _given(record: logging.LogRecord, name: str) -> Any:
    """What the caller gave as ``extra``: the daemon says of which pool and worker it speaks."""
    return record.__dict__.get(name)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:
        # The boundary "log sink": arguments that do not fit their format, or whose str() fails, are the caller's
        # mistake; the record is still the best that is known of an event.
        return f"{record.msg} [the arguments of this record can't be formatted: {type(error).__name__}]"


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str | None:
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append(formatter.formatException(record.exc_info))
    elif record.exc_text:
        parts.append(record.exc_text)
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(parts) or None


class Sink(logging.Handler):
    """Writes records to a descriptor; has no lock, because one write needs none.

    So a signal handler may log while the code that it has interrupted is logging, and a fork can't inherit a lock
    that a thread of the parent holds.
    """

    def __init__(self, formatter: logging.Formatter, fd: int = STDERR) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._fd = fd
        self._lost = 0
        self._torn = False

    def handle(self, record: logging.LogRecord) -> bool:
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:
            # The boundary "log sink": an extra= with a broken __str__, a RecursionError deep down in the caller.
            self._lost += 1
            return
        self._write(text)

    def _write(self, text: str) -> None:
        if self._lost:
            lost, self._lost = self._lost, 0
            notice = logging.makeLogRecord(
                {
                    "name": "procman.log",
                    "levelno": logging.WARNING,
                    "levelname": "WARNING",
                    "msg": f"{lost} log records were lost before this one",
                    "process": os.getpid(),
                }
            )
            text = f"{self.format(notice)}\n{text}"
            self._lost = 0 if self._put(text) else lost + 1
        elif not self._put(text):
            self._lost += 1

    def _put(self, text: str) -> bool:
        line = text.encode("utf-8", "backslashreplace") + b"\n"
        data = b"\n" + line if self._torn else line
        written = 0
        try:
            # Less than all is written when the disk is just full, or to a pipe that does not block.
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError:  # ENOSPC, EPIPE, EBADF, EAGAIN: nobody can be told, and the work goes on
            self._torn = self._torn or written > 0
            return False
        self._torn = False
        return True


def configure(log_format: str, *, pool: str, worker: str, level: int = logging.INFO) -> None:
    """Send this process's log to the standard error as "text" or "json". ``pool`` is "-" for the daemon itself.

    Replaces what was configured before, so a worker calls it again after its fork. Python's warnings and exceptions
    that nobody catches become records too, so that in a JSON log every line is JSON.
    """
    _hold_stderr()
    formatter = JsonFormatter(pool, worker) if log_format == "json" else TextFormatter(pool, worker)
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    root.addHandler(Sink(formatter))
    root.setLevel(level)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def _hold_stderr() -> None:
    """If the standard error is closed, keep its number from going to a socket or a file, which would get the log."""
    try:
        os.fstat(STDERR)
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        if null != STDERR:
            os.dup2(null, STDERR)
            os.close(null)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("procman").critical("Uncaught %s", kind.__name__, exc_info=(kind, error, trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if issubclass(args.exc_type, SystemExit):
        return
    name = "?" if args.thread is None else args.thread.name
    error = args.exc_value or args.exc_type()
    logging.getLogger("procman").error(
        "Uncaught %s in thread %s", args.exc_type.__name__, name, exc_info=(args.exc_type, error, args.exc_traceback)
    )
