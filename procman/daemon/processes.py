"""What is known of a child process: its channel, its descriptors, its place in the pool."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from procman.core.lifecycle import Seat

if TYPE_CHECKING:
    from collections.abc import Callable

    from procman.core.lifecycle import CacheFigures
    from procman.core.spec import PoolSpec
    from procman.daemon.loop import Loop
    from procman.unix.channel import Channel


@dataclass(eq=False)
class Process:
    """A child process. ``pid`` is unknown while it has not been forked, or has not said so yet."""

    name: str
    spec: PoolSpec
    channel: Channel | None
    pid: int | None = None
    pidfd: int | None = None
    generation: int = 0
    dump_fd: int | None = None
    on_dump: list[Callable[[str], None]] = field(default_factory=list)
    orders: int = 0  # how often the nursery was asked to fork it
    relatives: dict[int, int] = field(default_factory=dict)  # pid and time of start of those seen below it
    clearing: bool = False  # it has ended, and is reaped when its family has, too

    @property
    def mark(self) -> str:
        """What is in its environment, and in that of nobody who does not descend from it; the same after an upgrade."""
        return ""

    def forget_stacks(self) -> None:
        """Empty the file that stacks are written to; its offset is shared with the process, which writes there."""
        if self.dump_fd is not None:
            os.ftruncate(self.dump_fd, 0)
            os.lseek(self.dump_fd, 0, os.SEEK_SET)

    def no_more_stacks(self) -> None:
        """It is gone: whoever waits for its stacks gets none."""
        waiting, self.on_dump = self.on_dump, []
        for callback in waiting:
            callback("")
        if self.dump_fd is not None:
            os.close(self.dump_fd)
            self.dump_fd = None

    def end_channel(self, loop: Loop) -> None:
        """Listen to it no more, and speak to it no more."""
        if self.channel is not None:
            loop.remove_reader(self.channel.fileno())
            self.channel.close()
            self.channel = None


@dataclass(eq=False)
class TemplateProcess(Process):
    traceback: str = ""


@dataclass(eq=False)
class WorkerProcess(Process):
    id: int = 0
    slot: int = 0
    record: int | None = None
    killed: bool = False  # by us
    on_caches: list[Callable[[tuple[CacheFigures, ...] | None], None]] = field(default_factory=list)

    published: str = ""  # of a job runner or cron worker: its last figures, in JSON
    on_answer: dict[int, Callable[[str | None], None]] = field(default_factory=dict)

    def no_more_answers(self) -> None:
        """It is gone: whoever has asked it something gets no answer."""
        waiting, self.on_answer = self.on_answer, {}
        for callback in waiting.values():
            callback(None)

    def no_more_caches(self) -> None:
        """It is gone: whoever waits for the figures of its caches gets none."""
        waiting, self.on_caches = self.on_caches, []
        for callback in waiting:
            callback(None)

    @property
    def mark(self) -> str:
        return f"{os.getpid()}.{self.id}"

    @property
    def seat(self) -> Seat:
        """What the worker is told of its place."""
        record = self.record or 0
        return Seat(name=self.name, slot=self.slot, generation=self.generation, record=record, mark=self.mark)


@dataclass(eq=False)
class Errand(Process):
    """A command that is run for a pool and comes to an end. ``failure``: why it could not even be executed.

    ``output`` is a descriptor that belongs to the errand until the order for it has been carried out.
    """

    seat: Seat = field(kw_only=True)  # its mark is the errand's own
    output: int = -1
    on_end: Callable[[int | None], None] = lambda status: None
    failure: str = ""

    @property
    def mark(self) -> str:
        return self.seat.mark

    def close_output(self) -> None:
        """It has been handed over, or will never be."""
        if self.output >= 0:
            os.close(self.output)
            self.output = -1


Child = TemplateProcess | WorkerProcess | Errand
Command = WorkerProcess | Errand  # what the nursery may be asked to fork
