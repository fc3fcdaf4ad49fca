"""When to start again what has died: at once if it had lived, ever later if it dies young, and not for ever."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from procman.core.spec import Backoff


def growing(first: float, most: float, times: int, *, factor: float = 2.0) -> float:
    """``first`` for the first time, ``factor`` times as much each time, and never more than ``most``."""
    # The exponent is bounded before the power is taken, which would overflow after a thousand times.
    return min(most, first * factor ** min(times - 1, 64))


@dataclass(slots=True)
class Pauses:
    """Pauses between tries at something that fails: from ``first`` seconds each twice as long, up to ``most``."""

    first: float
    most: float
    failures: int = 0  # in a row

    def next(self) -> float:
        """It has failed (again): seconds to wait before the next try."""
        self.failures += 1
        return growing(self.first, self.most, self.failures)

    def over(self) -> None:
        """It has succeeded."""
        self.failures = 0


def delay(backoff: Backoff, failures: int, chance: float) -> float:
    """Seconds to wait after that many young deaths in a row, with full jitter (``chance`` in [0, 1)).

    The first one is free: a single death says nothing about the next start.
    """
    if failures <= 1:
        return 0.0
    cap = growing(backoff.first, backoff.most, failures - 1, factor=backoff.factor)
    # Full jitter, yet never nothing: half of the wait is certain, so that a crash loop can't spin.
    return cap * (0.5 + 0.5 * chance)


@dataclass(slots=True)
class Restarts:
    """The young deaths of a pool: how many rounds in a row, and when the last ones were.

    Workers that were started before the last counted death belong to its round: eight workers that fail for
    one and the same cause are one failure, not eight. From the second round on one worker alone tries
    (``probing``): the others follow when it is ready, and fifty need not die for one and the same cause.
    """

    in_a_row: int = 0
    probing: bool = False
    not_before: float = 0.0
    recent: deque[float] = field(default_factory=deque)

    def lived(self) -> None:
        """Something has lived long enough: what was before does not count any more."""
        self.in_a_row = 0
        self.probing = False
        self.not_before = 0.0
        self.recent.clear()

    def died_young(self, backoff: Backoff, now: float, *, started: float, chance: float) -> None:
        """One more young death, of something that was started at ``started``."""
        if self.recent and started < self.recent[-1]:
            return
        self.in_a_row += 1
        self.probing = self.in_a_row > 1
        self.recent.append(now)
        self.not_before = now + delay(backoff, self.in_a_row, chance)

    def exhausted(self, most: int, window: float, now: float) -> bool:
        """More than ``most`` rounds within the last ``window`` seconds."""
        while self.recent and self.recent[0] <= now - window:
            self.recent.popleft()
        return len(self.recent) > most
