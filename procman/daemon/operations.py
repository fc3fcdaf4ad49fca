"""Operations: commands that take a while. Each has an id, a progress and a result, and the last ones are kept.

An operation consists of parts, one for each pool (or worker) that it concerns, which end one by one and in their
own time. Whoever asked may wait for the end, or leave and come back with the id.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from procman.control.protocol import Errno
from procman.core.effect import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from procman.control.server import Call

KEPT = 100  # that have ended

RUNNING = "running"

NOT_OF_POOLS = frozenset({"kill", "shutdown", "upgrade"})


@dataclass(eq=False)
class Operation:
    """``ends`` has how each part has ended, and is given as ``pools`` in the answer when the parts are pools.

    ``extra`` is for the answer, too; ``by`` says who asked (`Call.by`), None: a signal. Times are
    seconds since the epoch.
    """

    id: str
    command: str
    parts: tuple[str, ...]
    began: float
    deadline: float | None = None
    by: str | None = None
    ended: float | None = None
    ends: dict[str, dict[str, Any]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    asked: tuple[str, ...] = ()  # the id of the request that has begun it

    @property
    def failed(self) -> dict[str, dict[str, Any]]:
        """The parts that have not ended well."""
        return {part: end for part, end in self.ends.items() if end["outcome"] != Outcome.DONE.value}

    @property
    def state(self) -> str:
        """``running``, or how it has ended: ``done``, ``superseded`` when nothing worse happened, ``failed``."""
        if self.ended is None:
            return RUNNING
        outcomes = {end["outcome"] for end in self.ends.values()}
        worst = [Outcome.FAILED, Outcome.SUPERSEDED]
        return next((one.value for one in worst if one.value in outcomes), Outcome.DONE.value)


class Operations:
    """Those under way, and the last KEPT that have ended."""

    def __init__(self, progress: Callable[[Operation, str], dict[str, Any]]) -> None:
        self._progress = progress
        self.last_number = 0
        self._running: dict[str, Operation] = {}
        self._ended: deque[Operation] = deque(maxlen=KEPT)

    def begin(self, command: str, parts: Iterable[str], call: Call | None, **extra: Any) -> str:
        """Note a new operation on these parts; its id, which is the answer to a call that does not wait."""
        self.last_number += 1
        operation = Operation(f"{command}-{self.last_number}", command, tuple(parts), time.time(), extra=extra)
        self._running[operation.id] = operation
        if call is not None:
            operation.deadline = call.request.deadline
            operation.by = call.by
            operation.asked = (call.request.id,) if isinstance(call.request.id, str) else ()
            if call.request.waiting:
                operation.calls.append(call)
            else:
                call.reply({"operation": operation.id, **extra})
        self._end_if_complete(operation)
        return operation.id

    def part_ended(self, operation_id: str, part: str, end: dict[str, Any]) -> None:
        """One part has ended; when it was the last, those who wait get the answer."""
        operation = self._running.get(operation_id)
        if operation is not None and part in operation.parts:
            operation.ends[part] = end
            self._end_if_complete(operation)

    def wait(self, call: Call) -> None:
        """Answer the call when the operation it names has ended."""
        wanted = call.properties["operation"]
        if wanted in self._running:
            self._running[wanted].calls.append(call)
            return
        for operation in self._ended:
            if operation.id == wanted:
                _answer(operation, call)
                return
        call.fail(f"no operation {wanted!r} is under way or among the last {KEPT} that have ended")

    def join(self, call: Call) -> bool:
        """A request that has come before, on a connection that is lost: False when it has begun no operation."""
        for operation in (*self._running.values(), *self._ended):
            if call.request.id in operation.asked and call.by == operation.by:
                if operation.ended is not None:
                    _answer(operation, call)
                elif call.request.waiting:
                    operation.calls.append(call)
                else:
                    call.reply({"operation": operation.id, **operation.extra})
                return True
        return False

    def everything(self) -> list[Operation]:
        """Those that have ended, and those under way."""
        return [*self._ended, *self._running.values()]

    def adopt(self, operations: Iterable[Operation], last_number: int) -> None:
        """Go on with what the image of the daemon before this one knew."""
        self.last_number = last_number
        for operation in operations:
            if operation.ended is None:
                self._running[operation.id] = operation
            else:
                self._ended.append(operation)

    def send_away(self, reason: str) -> None:
        """Tell all who wait that their connection is about to be lost. `procman.control.client` comes back."""
        for operation in self._running.values():
            calls, operation.calls = operation.calls, []
            for call in calls:
                text = f"{reason}; {operation.id} goes on, `wait` tells its end"
                call.fail(text, errno=Errno.UPGRADING, fields={"operation": operation.id})

    def under_way(self, command: str) -> bool:
        """An operation of this command is running."""
        return any(operation.command == command for operation in self._running.values())

    def at(self, part: str) -> tuple[str | None, dict[str, Any] | None]:
        """The id of the last operation that is under way on this part, and how far it is there; None when none is."""
        for operation in reversed(self._running.values()):
            if part in operation.parts and part not in operation.ends:
                return operation.id, self._progress(operation, part)
        return None, None

    def describe(self) -> list[dict[str, Any]]:
        """Every operation that is known, in the order in which they began."""
        known = sorted([*self._ended, *self._running.values()], key=lambda one: one.began)
        return [self._describe(operation) for operation in known]

    def _describe(self, operation: Operation) -> dict[str, Any]:
        parts = {
            part: operation.ends.get(part) or {"outcome": RUNNING, **self._progress(operation, part)}
            for part in operation.parts
        }
        return {
            "operation": operation.id,
            "command": operation.command,
            "state": operation.state,
            "began": round(operation.began, 3),
            "ended": None if operation.ended is None else round(operation.ended, 3),
            "deadline": operation.deadline,
            "by": operation.by,
            "parts": parts,
        }

    def _end_if_complete(self, operation: Operation) -> None:
        if len(operation.ends) < len(operation.parts):
            return
        operation.ended = time.time()
        self._ended.append(self._running.pop(operation.id))
        calls, operation.calls = operation.calls, []
        for call in calls:
            _answer(operation, call)


def _answer(operation: Operation, call: Call) -> None:
    fields = {"operation": operation.id, **operation.extra}
    if operation.command not in NOT_OF_POOLS:
        fields["pools"] = operation.ends
    if operation.failed:
        ends = (f"{operation.command} {part}: {end['reason']}" for part, end in operation.failed.items())
        call.fail("; ".join(ends), fields=fields)
    else:
        call.reply(fields)
