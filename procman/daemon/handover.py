"""What the running image of the daemon leaves to the next one, as one JSON document: written, and understood.

`procman.core.handover` says how versions get along with each other's documents. To understand one changes nothing:
the descriptors in it are numbers until `procman.daemon.takeover` takes them up. So the next image can try, in a process
of its own and with a copy, before the one that runs gives way to it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from procman.control.door import Kept
from procman.core import codec, lifecycle
from procman.core import handover as core
from procman.core.lifecycle import Seat
from procman.core.spec import Address, DaemonSpec, PoolSpec
from procman.daemon.store import PREFIX
from procman.observe import scoreboard
from procman.unix.sockets import passed
from procman.version import __version__

if TYPE_CHECKING:
    from procman.core.arbiter import Arbiter
    from procman.daemon.errands import Running
    from procman.daemon.main import Daemon
    from procman.daemon.output import Stream
    from procman.daemon.processes import TemplateProcess, WorkerProcess

# Raised when a reader of the format before would go wrong without noticing it. What is added has a default instead.
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateLeft:
    """A template. ``spec`` is its number in the table of specifications; descriptors are numbers."""

    spec: int
    generation: int
    channel: int | None = None
    pid: int | None = None
    pidfd: int | None = None
    dump_fd: int | None = None
    traceback: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLeft:
    """A worker, as `TemplateLeft`."""

    id: int
    spec: int
    slot: int
    generation: int
    channel: int | None = None
    pid: int | None = None
    pidfd: int | None = None
    record: int | None = None
    killed: bool = False
    dump_fd: int | None = None
    relatives: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLeft:
    """A pipe that commands write to; ``rest`` is what has come of a line, as Latin-1."""

    pool: str
    worker: str
    reader: int
    rest: str = ""
    last: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HookLeft:
    """A hook that runs, by its number in the pool; ``reader`` says which stream is its own."""

    id: int
    name: str
    spec: int
    reader: int
    seat: Seat
    output: int | None = None
    generation: int = 0
    relatives: tuple[tuple[int, int], ...] = ()
    channel: int | None = None
    pid: int | None = None
    pidfd: int | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketLeft:
    """A listening socket of the workers; ``pool`` is empty unless it is one for that pool alone."""

    pool: str
    address: Address
    fd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationLeft:
    """An operation. ``ends`` and ``extra`` are JSON texts: what is in them is for the clients."""

    id: str
    command: str
    parts: tuple[str, ...] = ()
    began: float = 0.0
    deadline: float | None = None
    by: str | None = None
    ended: float | None = None
    ends: str = "{}"
    extra: str = "{}"
    asked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandsLeft:
    """The operations, and those whose parts are not pools."""

    last_number: int = 0
    operations: tuple[OperationLeft, ...] = ()
    kills: tuple[tuple[int, str, str], ...] = ()
    shutdowns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonLeft:
    """The daemon itself. ``started`` is a time of CLOCK_MONOTONIC, ``signals`` have come and were not yet heeded."""

    spec: DaemonSpec
    started: float
    lock: int
    board: int
    records: int
    open_files: int = 0
    readiness: int | None = None
    operation: str = ""
    signals: tuple[int, ...] = ()
    serving: bool = False
    stored: bool = False
    passed: tuple[int, ...] = ()
    sequence: int = 0
    events: tuple[str, ...] = ()
    commands: CommandsLeft = field(default_factory=CommandsLeft)
    templates: tuple[TemplateLeft, ...] = ()
    workers: tuple[WorkerLeft, ...] = ()
    hooks: tuple[HookLeft, ...] = ()
    streams: tuple[StreamLeft, ...] = ()
    sockets: tuple[SocketLeft, ...] = ()
    control: tuple[Kept, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """A document that was understood. ``foreign``: the workers of before do not speak quite as those of this version.

    ``told_by`` is the version that has written it.
    """

    arbiter: Arbiter
    daemon: DaemonLeft
    specs: tuple[PoolSpec, ...]
    foreign: bool
    told_by: str


def descriptors(left: DaemonLeft) -> list[int]:
    """Every descriptor that the next image is to find open."""
    found = [left.lock, left.board, left.readiness, *left.passed]
    for template in left.templates:
        found += [template.channel, template.pidfd, template.dump_fd]
    for worker in left.workers:
        found += [worker.channel, worker.pidfd, worker.dump_fd]
    for hook in left.hooks:
        found += [hook.channel, hook.pidfd, hook.output]
    found += [stream.reader for stream in left.streams]
    found += [listening.fd for listening in left.sockets]
    found += [listening.fd for listening in left.control]
    return [fd for fd in found if fd is not None]


def collect(daemon: Daemon, operation: str) -> tuple[bytes, DaemonLeft]:
    """The document of a daemon whose events are worked off, and what is in it besides the arbiter."""
    writer = core.Writer()
    arbiter = core.dump(daemon.arbiter, writer)
    children = daemon.children
    left = DaemonLeft(
        spec=daemon.spec,
        started=daemon.started,
        lock=daemon.place.lock,
        board=daemon.board.fd,
        records=daemon.board.size,
        open_files=children.launcher.open_files,
        readiness=children.launcher.readiness.fileno(),
        operation=operation,
        signals=daemon.signals.pending(),
        serving=daemon.herald.is_serving,
        stored=daemon.store.active,
        passed=tuple(fd for fd, name in passed(os.environ) if not name.startswith(PREFIX)),
        sequence=daemon.publisher.sequence,
        events=daemon.publisher.remembered,
        commands=daemon.commands.leave(),
        templates=tuple(_template(template, writer) for template in children.templates.values()),
        workers=tuple(_worker(worker, writer) for worker in children.workers.values()),
        hooks=tuple(_hook(number, running, writer) for number, running in daemon.errands.hooks()),
        streams=tuple(_stream(stream) for stream in daemon.outputs.streams if stream.reader >= 0),
        sockets=tuple(SocketLeft(pool=pool, address=a, fd=fd) for (pool, a), fd in daemon.listeners.descriptors()),
        control=tuple(daemon.reception.kept()),
    )
    document = {
        "format": FORMAT,
        "version": __version__,
        "layout": scoreboard.LAYOUT,
        "protocol": lifecycle.PROTOCOL,
        "specs": writer.specs,
        "arbiter": arbiter,
        "daemon": codec.encode(left),
    }
    return json.dumps(document, separators=(",", ":")).encode("ascii"), left


def _template(template: TemplateProcess, writer: core.Writer) -> TemplateLeft:
    return TemplateLeft(
        spec=writer.write(template.spec),
        generation=template.generation,
        channel=template.channel.fileno() if template.channel is not None else None,
        pid=template.pid,
        pidfd=template.pidfd,
        dump_fd=template.dump_fd,
        traceback=template.traceback,
    )


def _worker(worker: WorkerProcess, writer: core.Writer) -> WorkerLeft:
    return WorkerLeft(
        id=worker.id,
        spec=writer.write(worker.spec),
        slot=worker.slot,
        generation=worker.generation,
        channel=worker.channel.fileno() if worker.channel is not None else None,
        pid=worker.pid,
        pidfd=worker.pidfd,
        record=worker.record,
        killed=worker.killed,
        relatives=tuple(worker.relatives.items()),
        dump_fd=worker.dump_fd,
    )


def _hook(number: int, running: Running, writer: core.Writer) -> HookLeft:
    errand = running.errand
    return HookLeft(
        id=number,
        name=errand.name,
        spec=writer.write(errand.spec),
        reader=running.stream.reader,
        seat=errand.seat,
        output=errand.output if errand.output >= 0 else None,
        generation=errand.generation,
        relatives=tuple(errand.relatives.items()),
        channel=errand.channel.fileno() if errand.channel is not None else None,
        pid=errand.pid,
        pidfd=errand.pidfd,
        failure=errand.failure,
    )


def _stream(stream: Stream) -> StreamLeft:
    return StreamLeft(
        pool=stream.pool,
        worker=stream.worker,
        reader=stream.reader,
        rest=stream.rest.decode("latin-1"),
        last=stream.last,
    )


def understand(data: bytes) -> Handover:
    """What the document says. Raises `core.Unreadable`, which says what could not be understood."""
    document = load(data)
    if not isinstance(document.get("format"), int) or document["format"] > FORMAT:
        raise core.Unreadable(f"the state is in format {document.get('format')!r}, this version knows {FORMAT}")
    reader = core.Reader(document.get("specs", []))
    arbiter = core.restore(document.get("arbiter", {}), reader)
    left = _decode(document.get("daemon"))
    known = {worker for pool in arbiter.pools.values() for worker in pool.workers}
    if strangers := [worker.id for worker in left.workers if worker.id not in known]:
        raise core.Unreadable(f"there are processes of workers that nobody knows: {strangers}")
    return Handover(
        arbiter=arbiter,
        daemon=left,
        specs=tuple(reader.read(PoolSpec, number) for number in range(len(document["specs"]))),
        foreign=(document.get("layout"), document.get("protocol")) != (scoreboard.LAYOUT, lifecycle.PROTOCOL),
        told_by=str(document.get("version", "?")),
    )


def load(data: bytes) -> dict[str, Any]:
    """The document, not yet understood. Raises `core.Unreadable` when it is none at all."""
    try:
        document = json.loads(data)
    except ValueError as error:
        raise core.Unreadable(f"the state is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise core.Unreadable("the state is no JSON object")
    return document


def sockets_of(data: bytes) -> list[SocketLeft]:
    """The listening sockets alone, of a document of which all the rest may be beyond understanding."""
    found = []
    try:
        items = load(data)["daemon"]["sockets"]
    except (core.Unreadable, KeyError, TypeError):
        return []
    for item in items:
        try:
            found.append(codec.decode(SocketLeft, item))
        except ValueError:
            continue  # an address of a kind that this version does not know
    return found


def _decode(data: Any) -> DaemonLeft:
    try:
        return codec.decode(DaemonLeft, data)  # type: ignore[no-any-return]
    except (ValueError, TypeError) as error:
        raise core.Unreadable(f"the daemon: {error}") from None
