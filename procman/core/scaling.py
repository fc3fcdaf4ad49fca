"""How many workers a pool that scales itself is to have.

Rules of this file: what is measured comes in, how many workers are wanted goes out. What a pool has to do, its *load*,
is counted in workers: so many were busy, on an average since the measurement before, and so many connections waited for
one. There are enough workers when each is busy for no more than ``busy`` of its time.

Up at once: a request that waits is a client that waits. Down one by one, when fewer have been enough for a while: a
worker that is not needed costs memory, which is cheap, and one that is stopped too early costs a wait. Between the
load at which a worker is added and that at which it is taken away lies a margin, so a load that stays the same can't
cause one after the other: ``up = ceil(load / busy)`` is never more than ``down = ceil(load / (busy * MARGIN))``, fewer
workers than ``up`` become ``up``, more than ``down`` become ``down``, and what lies between stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from procman.core.spec import Scaling

MEASURE_EVERY = 1.0  # seconds; a client hardly notices a wait that is shorter
# A pool that has nothing to do need not be met so soon: its idle workers are there for the first clients. It is the
# waking that costs, not the reading.
QUIET_EVERY = 3.0  # seconds; CALM is a multiple of it
QUIET = 0.01  # workers
# Of each measurement half counts and half what was known before: a burst of less than a second starts nobody, and one
# that lasts is met after two or three.
WEIGHT = 0.5
# Seconds for which fewer workers have to have been enough before one goes: longer than the pause in which a person
# reads a page, and short enough that a quiet evening is used.
CALM = 15.0
MARGIN = 0.8
# In one step so many times the workers there are: a full backlog says that they are too few, not how few.
MOST_GROWTH = 2
MEMORY_EVERY = 30.0  # seconds; the kernel walks all page tables of a worker to say what it uses


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What was measured. ``memory``: bytes of all workers together (PSS); None when nobody has asked for it."""

    busy: float
    waiting: int = 0
    memory: int | None = None


@dataclass(slots=True)
class Scaler:
    """What a pool that scales itself remembers."""

    measure_at: float | None = None
    load: float | None = None  # smoothed, in workers
    calm_since: float | None = None
    share: float | None = None  # bytes of memory of one worker, on an average
    share_at: float = 0.0

    def target(self, scaling: Scaling, load: Load, *, target: int, ready: int, now: float) -> int:
        """How many workers are wanted, of a pool that wants ``target`` and has ``ready`` ones.

        May put `measure_at` to now, when it has to know how much memory is used before it can say, or farther away,
        when there is nothing to do.
        """
        if load.memory is not None and ready:
            self.share, self.share_at = load.memory / ready, now
        measured = min(load.busy + load.waiting, MOST_GROWTH * max(ready, 1))
        self.load = measured if self.load is None else WEIGHT * measured + (1 - WEIGHT) * self.load
        if self.load < QUIET:
            self.measure_at = now + QUIET_EVERY
        up = needed(self.load, scaling.busy)
        if up > target:
            self.calm_since = None
            # A step that was decided has to have been made before the next one.
            wanted = up if ready >= target else target
        else:
            wanted = self._calmer(target, needed(self.load, scaling.busy * MARGIN), now)
        return self._affordable(scaling, scaling.clamp(wanted), target, now)

    def rest(self, now: float) -> None:
        """Somebody else has said how many: go down from there no sooner than from anywhere."""
        self.calm_since = now

    def needs_memory(self, scaling: Scaling, now: float) -> bool:
        """The memory of the workers is to be measured too."""
        return scaling.memory_budget is not None and (self.share is None or now >= self.share_at + MEMORY_EVERY)

    def _calmer(self, target: int, enough: int, now: float) -> int:
        if enough >= target:
            self.calm_since = None
        elif self.calm_since is None:
            self.calm_since = now
        elif now >= self.calm_since + CALM:
            self.calm_since = now
            return target - 1
        return target

    def _affordable(self, scaling: Scaling, wanted: int, target: int, now: float) -> int:
        """No more than the memory allows; but so many at least as there are to be in any case."""
        if scaling.memory_budget is None:
            return wanted
        if not self.share:
            return min(wanted, target)
        if wanted > target and now > self.share_at:
            # Before it grows it has to know.
            self.share, self.measure_at = None, now
            return target
        return max(scaling.least, min(wanted, int(scaling.memory_budget / self.share)))


def needed(load: float, busy: float) -> int:
    """So many workers are busy for no more than this part of their time."""
    # A ten-thousandth of a worker is a rounding error, not a reason to start one.
    return max(1, math.ceil(load / busy - 1e-4))
