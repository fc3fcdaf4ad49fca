"""What there is at one moment, as plain frozen values: what `stats` and `status` are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from procman.core.pool import PoolState
    from procman.core.worker import ExitRecord, State


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSnapshot:
    id: int
    name: str
    slot: int
    generation: int
    pid: int | None
    state: State
    spawned_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSnapshot:
    name: str
    kind: str
    state: PoolState
    generation: int
    target: int
    ready: int
    parked: str | None
    operation: str | None
    workers: tuple[WorkerSnapshot, ...]
    exits: tuple[ExitRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    state: str
    pools: tuple[PoolSnapshot, ...]
