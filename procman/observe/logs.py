"""The log: one record per event on the standard error, in the spirit of Odoo's.

Text:  2026-11-21 09:41:00,123 4711 INFO http http.1 procman.arbiter: Worker http.1 (4711) alive
JSON:  {"time":"2026-11-21T08:41:00.123Z","level":"INFO","pool":"http","worker":"http.1","pid":4711,…}

The daemon, its templates and their workers share one standard error. Each record is one write(2): to a file the
kernel keeps such writes apart, and to a pipe those up to PIPE_BUF, 4096 bytes (pipe(7)); a longer record, a traceback
as a rule, may be cut by another process's when both write to a pipe at the same moment.

A log that can't be written must not stop what it tells about, so nothing here ever raises into the caller, and nothing
waits for a reader who does not read: the daemon not at all, which keeps some of what could not be written for when it
can be; the other processes a moment, once. What is lost meanwhile is counted, and told when writing works again.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import stat
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from procman.observe.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    WhenWritable = Callable[[int, Callable[[], None]], None]

STDERR = 2
PATIENCE = 0.1  # seconds that a process without a backlog waits for a reader, before it takes it to be gone
MOST_BACKLOG = 1024 * 1024  # bytes of records that the daemon keeps for a reader who is slow
LAST_PATIENCE = 1.0  # seconds that it waits for one in the end

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
        self._outlet = Outlet(fd)
        self._lost = 0
        self._torn = False
        self._patient = True
        self._backlog = bytearray()
        self._when_writable: WhenWritable | None = None
        self._waiting = False

    def keep_backlog(self, when_writable: WhenWritable) -> None:
        """From now on keep what can't be written yet, and wait for nobody.

        ``when_writable`` is given a descriptor and what to call, once, when it can be written.
        """
        self._when_writable = when_writable

    def give_up_backlog(self) -> None:
        """Write what was kept, if there is a reader yet, and keep nothing any more."""
        self._when_writable = None
        if self._backlog and self._outlet.wait(LAST_PATIENCE):
            self._put_some(self._backlog)

    def follow(self, fd: int = STDERR) -> None:
        """Write to what this descriptor is now."""
        self._outlet = Outlet(fd)

    def drain(self) -> None:
        """Write the backlog, as much as can be written, and come back for the rest."""
        self._waiting = False
        self._put_some(self._backlog)
        if self._backlog:
            self._wait()
        elif self._lost:
            self._write(None)

    def _wait(self) -> None:
        if self._when_writable is not None and not self._waiting:
            self._waiting = True
            self._when_writable(self._outlet.fd, self.drain)

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

    def _write(self, text: str | None) -> None:
        """Write a record, and before it how many were lost; None: only that."""
        lost, self._lost = self._lost, 0
        if lost:
            notice = logging.makeLogRecord(
                {
                    "name": "procman.log",
                    "levelno": logging.WARNING,
                    "levelname": "WARNING",
                    "msg": f"{lost} log records were lost before this one",
                    "process": os.getpid(),
                }
            )
            text = self.format(notice) + ("" if text is None else f"\n{text}")
        if text is not None and not self._put(text):
            self._lost = lost + 1

    def _put(self, text: str) -> bool:
        line = text.encode("utf-8", "backslashreplace") + b"\n"
        data = bytearray(b"\n" + line if self._torn else line)
        if self._when_writable is not None:
            return self._put_or_keep(data)
        whole = len(data)
        if not self._put_some(data) and self._patient and self._outlet.wait(PATIENCE):
            self._put_some(data)
        # Who has not read once is not waited for again, until something could be written.
        self._patient = not data
        self._torn = bool(data) and (self._torn or len(data) < whole)
        return not data

    def _put_or_keep(self, data: bytearray) -> bool:
        if self._backlog:
            self._put_some(self._backlog)
        if self._backlog:
            if len(self._backlog) + len(data) > MOST_BACKLOG:
                return False
            self._backlog += data
            return True
        whole = len(data)
        if self._put_some(data):
            self._torn = False
            return True
        if self._outlet.blocked:
            self._backlog += data
            self._wait()
            return True
        self._torn = self._torn or len(data) < whole
        return False

    def _put_some(self, data: bytearray) -> bool:
        """Write the data and take away what could be written; whether that is all."""
        # Less than all is written when the disk is just full, or to a pipe whose reader is slow.
        while data:
            written = self._outlet.write(data)
            if not written:
                return False
            del data[:written]
        return True


class Outlet:
    """A descriptor that is written without waiting, though it may be one that waits for others who have it.

    O_NONBLOCK is a property of the open file, which we share with whoever started us, and with our workers. A pipe or a
    terminal can be opened once more, by its name in procfs; a socket takes the wish with each message. Where neither
    is possible (a pipe of another user), asking before each piece does nearly as well.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.blocked = False  # the last write would have had to wait
        self._ask = False
        self._own = False
        self._socket: socket.socket | None = None
        try:
            mode = os.fstat(fd).st_mode
        except OSError:
            return
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(fd))
        elif stat.S_ISFIFO(mode) or os.isatty(fd):
            try:
                self.fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
                self._own = True
            except OSError:
                self._ask = True

    def __del__(self) -> None:
        if self._own:
            os.close(self.fd)

    def write(self, data: bytearray) -> int:
        """How many bytes could be written; none if it would have to wait, or can't be done at all."""
        self.blocked = False
        try:
            if self._socket is not None:
                return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            if not self._ask:
                return os.write(self.fd, data)
            if self.wait(0):
                return os.write(self.fd, data[: select.PIPE_BUF])
            self.blocked = True
        except BlockingIOError:
            self.blocked = True
        except OSError:  # ENOSPC, EPIPE, EBADF: nobody can be told, and the work goes on
            pass
        return 0

    def wait(self, seconds: float) -> bool:
        """Wait until it can be written; whether it can."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))


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


def follow_stderr() -> None:
    """The standard error is another one now: write there."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Sink):
            handler.follow()


def keep_backlog(when_writable: WhenWritable | None) -> None:
    """Have the log of this process wait for nobody, see `Sink.keep_backlog`; None: no longer."""
    for handler in logging.getLogger().handlers:
        if not isinstance(handler, Sink):
            continue
        if when_writable is None:
            handler.give_up_backlog()
        else:
            handler.keep_backlog(when_writable)


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
