"""PostgreSQL's log on its standard error, as events: pure, bytes in, events out.

The server writes each message with one write(2), its further lines (DETAIL, HINT, STATEMENT, or what begins
with a tab) right behind. ``log_line_prefix`` is "[pid] " (`procman.db.embedded`), messages are in English.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace

_LINE = re.compile(r"\[(\d+)\] ([A-Z]+\d?):  (.*)")
_FURTHER = frozenset({"DETAIL", "HINT", "CONTEXT", "STATEMENT", "QUERY", "LOCATION"})

# LOG is what a server says about itself. Most of it is chatter; these begin or end a crash.
_NOTABLE = re.compile(
    r"was terminated by signal|terminating any other active|was interrupted|"
    r"not properly shut down|database system is ready"
)
# Said once for every session that comes while the server starts, or is there when it ends.
_EXPECTED = re.compile(
    r"terminating connection (due to (administrator command|unexpected postmaster exit)|because of crash)|"
    r"the database system is (shutting down|starting up|in recovery mode|not (yet )?accepting connections)"
)
# SQLSTATE class 40 is no fault: who works in REPEATABLE READ tries again (PostgreSQL, 13.5), and who gives up says so.
_TRIED_AGAIN = re.compile(r"could not serialize access|deadlock detected")

_LEVELS = {
    "WARNING": logging.WARNING,
    "ERROR": logging.WARNING,  # a client's error, which that client has been told too
    "FATAL": logging.ERROR,
    "PANIC": logging.CRITICAL,
}


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One message: the level it deserves in procman's log, PostgreSQL's word for it, who says it, and its text."""

    level: int
    severity: str
    pid: int
    text: str


class ServerLog:
    """Takes the stream as it comes and gives events; keeps the last lines for an obituary."""

    def __init__(self, keep: int = 20) -> None:
        self._keep = keep
        self._rest = b""
        self.tail: list[str] = []

    def feed(self, data: bytes) -> list[ServerEvent]:
        """The events that are complete with ``data``."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return self._group([line.decode("utf-8", "replace") for line in lines])

    def end(self) -> list[ServerEvent]:
        """What is left when the stream has ended in the middle of a line."""
        rest, self._rest = self._rest, b""
        return self._group([rest.decode("utf-8", "replace")]) if rest else []

    def _group(self, lines: list[str]) -> list[ServerEvent]:
        self.tail = [*self.tail, *lines][-self._keep :]
        events: list[ServerEvent] = []
        for line in lines:
            found = _LINE.fullmatch(line)
            further = found[2] in _FURTHER if found else line.startswith("\t")
            if further and events:
                last = events[-1]
                text = f"{found[2]}: {found[3]}" if found else line
                events[-1] = replace(last, text=f"{last.text}\n{text}")
            elif found:
                text = f"[{found[1]}] {found[2]}: {found[3]}"
                events.append(ServerEvent(_level(found[2], found[3]), found[2], int(found[1]), text))
            else:
                # Not a message of the server: the loader, a library, a C assertion.
                events.append(ServerEvent(logging.WARNING, "", 0, line))
        return events


def _level(severity: str, text: str) -> int:
    if severity in ("FATAL", "WARNING") and _EXPECTED.search(text):
        return logging.DEBUG
    if severity == "ERROR" and _TRIED_AGAIN.search(text):
        return logging.DEBUG
    if severity == "LOG" and _NOTABLE.search(text):
        return logging.INFO
    return _LEVELS.get(severity, logging.DEBUG)
