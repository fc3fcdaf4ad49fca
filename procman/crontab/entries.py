"""What applications declare: functions, and when they are to run."""

from __future__ import annotations

import inspect
import math
import socket
from dataclasses import dataclass
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from procman.config.problems import Wrong
from procman.config.values import Duration, Given
from procman.crontab import call as calls
from procman.crontab import triggers
from procman.crontab.call import TURN
from procman.crontab.policy import DEFAULT_PRIORITY, LEAST_PRIORITY, Misfire, Terms
from procman.crontab.schedule import NEVER, Every, Never
from procman.crontab.schedule import every as every_schedule
from procman.crontab.schedule import expression as expression_schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from procman.crontab.call import Call
    from procman.crontab.schedule import Schedule

F = TypeVar("F", bound="Callable[[], Any]")

MOST_NAME_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """A function with the terms under which it runs. ``name`` is what the database and the operators know it by."""

    name: str
    terms: Terms
    function: Callable[[], Any]


class Cron:
    """The entries of this process. `procman.cron` is the one instance."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._declared = monotonic()

    @property
    def entries(self) -> Mapping[str, Entry]:
        """All entries by name."""
        return MappingProxyType(self._entries)

    @property
    def age(self) -> float:
        """Seconds since the last of them was declared, which a worker has inherited from its template."""
        return monotonic() - self._declared

    @property
    def imported(self) -> str:
        """A name for the import that has declared them, which no other one has."""
        return f"{socket.gethostname()}/{self._declared!r}"

    def __call__(
        self,
        expression: str | None = None,
        *,
        every: float | str | None = None,
        tz: str | None = None,
        name: str | None = None,
        misfire: str = "once",
        jitter: float | str = 0.0,
        priority: int = DEFAULT_PRIORITY,
        timeout: float | str | None = None,
    ) -> Callable[[F], F]:
        """Let the cron workers run a function, in each configured database, in a unit of its own.

            @procman.cron(every="10m")
            @procman.cron("*/5 8-18 * * mon-fri", tz="Europe/Brussels")
            @procman.cron("never", name="mails")   # only when `procman.cron.trigger("mails")` says so

        ``every`` is in seconds or a duration such as ``"10s"``; the first call is at once. A cron expression is in
        the time of the zone ``tz``, default UTC; at the switches of daylight saving it behaves as in Debian's cron.
        ``name`` is by default ``module:qualname``; an entry keeps its times for as long as it keeps its name.

        ``misfire`` says what becomes of calls that nobody ran when they were due: ``"once"`` (default): one run for
        all of them; ``"all"``: a run for each; ``"skip"``: none, when it would begin more than a minute too late.
        ``jitter`` (seconds or a duration): the entry runs later than planned by up to so much, always by the same
        time. ``priority`` (0 to 1000, default 10): smaller is sooner, by a second of waiting for each step.
        ``timeout`` (seconds or a duration): a run that takes longer is ended, as by ``time_real`` of the pool.

        The function has no parameters and stays what it is. Of one entry there is never more than one run at a
        time, whatever the number of workers and machines. What it changes, sends and invalidates is committed
        together with the fact that it has run; when it raises, all of that is rolled back, the failure is recorded
        and the next call comes at its time, or later if it fails again and again. A run that has lost against another
        transaction is repeated; so is one that has ended with its worker.

        Raises TypeError or ValueError, when the module is imported, for what can't be a schedule, a name or such
        a function.
        """
        schedule = _schedule(expression, every, tz)
        terms = Terms(
            schedule, _misfire(misfire), _jitter(jitter, schedule), _priority(priority), _duration("timeout", timeout)
        )

        def register(function: F) -> F:
            checked = _checked(function)
            self._add(Entry(_checked_name(name, checked), terms, checked))
            return function

        return register

    def trigger(self, name: str, at: datetime | float | Iterable[datetime | float] | None = None) -> None:
        """Have an entry run besides its schedule, if the current unit commits; outside of units at once.

        ``at``: when, as a datetime with a time zone, or in seconds from now, or several of these; by default as soon as
        a worker is free. A run that begins serves all triggers that are due by then; one that comes while the entry is
        being run is for the next run. Raises LookupError for an entry that nobody has ever declared.
        """
        triggers.insert(name, triggers.moments(at), known=self._entries)

    def progress(self, *, done: float | None = None, remaining: float | None = None) -> None:
        """Say within a run how far it is; with something ``remaining``, the entry is run again at once when the
        function has returned, behind all that are due by then. Does nothing when the function is called otherwise.
        """
        if (call := self.current()) is not None:
            call.progress(done=done, remaining=remaining)

    def commit(self, *, done: float | None = None, remaining: float | None = None) -> float:
        """Commit within a run what it has done so far, and go on in a new transaction that still holds the entry.

        Returns the seconds for which it should go on before it returns, so that others have their turn (0: none).
        What comes after and fails takes back only what came after. Cursors of before are closed: take new ones. When
        the function is called otherwise, as by a test, it commits nothing: the transaction is the caller's.
        """
        call = self.current()
        return TURN if call is None else call.commit(done=done, remaining=remaining)

    def current(self) -> Call | None:
        """The call that is being run; None when the function is called otherwise."""
        return calls.current.get()

    def _add(self, entry: Entry) -> None:
        known = self._entries.get(entry.name)
        if known is not None and not _is_reloaded(known.function, entry.function):
            raise ValueError(f"there are two cron entries with the name {entry.name!r}; give one another `name`")
        self._entries[entry.name] = entry
        self._declared = monotonic()


def _schedule(expression: Any, every: Any, tz: str | None) -> Schedule:
    if callable(expression):
        raise TypeError('procman.cron needs a schedule: @procman.cron(every="10s") or @procman.cron("*/5 * * * *")')
    if (expression is None) == (every is None):
        raise TypeError("procman.cron takes either a cron expression or `every`")
    if expression in ("never", NEVER) and tz is None:
        return Never()
    if every is None:
        return expression_schedule(expression, "UTC" if tz is None else tz)
    if tz is not None:
        raise TypeError("`tz` is for cron expressions; `every` is the same in all time zones")
    return every_schedule(every)


def _misfire(given: Any) -> Misfire:
    try:
        return Misfire(given)
    except ValueError:
        expected = " or ".join(f'"{one}"' for one in Misfire)
        raise ValueError(f"misfire: expected {expected}, got {given!r}") from None


def _jitter(given: Any, schedule: Schedule) -> float:
    jitter = _duration("jitter", given, zero=True) or 0.0
    if isinstance(schedule, Every) and jitter > schedule.interval.total_seconds():
        raise ValueError(f"jitter: {given!r} is more than there is between two calls")
    return jitter


def _priority(given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= LEAST_PRIORITY:
        raise ValueError(f"priority: expected a whole number from 0 to {LEAST_PRIORITY}, got {given!r}")
    return given


def _duration(name: str, given: Any, *, zero: bool = False) -> float | None:
    if given is None:
        return None
    try:
        seconds = float(Duration(zero=zero).read(Given(given, (name,), "")))
    except Wrong as wrong:
        raise ValueError(f"{name}: {wrong.problems[0].message}") from None
    if not math.isfinite(seconds):
        raise ValueError(f"{name}: {given!r} is no time")
    return seconds


def _checked(function: F) -> F:
    if not callable(function):
        raise TypeError(f"procman.cron decorates a function, not {type(function).__name__}")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError(f"{function!r} would not run by being called; a cron entry is an ordinary function")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise TypeError(f"{function!r} is called without arguments: {error}") from None
    except ValueError:
        pass  # a callable written in C that does not tell its parameters
    return function


def _checked_name(name: str | None, function: Any) -> str:
    if name is None:
        name = f"{function.__module__}:{getattr(function, '__qualname__', type(function).__qualname__)}"
    if not isinstance(name, str):
        raise TypeError(f"the name of a cron entry is a str, not {type(name).__name__}")
    if not name or "\0" in name or len(name) > MOST_NAME_CHARACTERS:
        raise ValueError(f"the name of a cron entry has 1 to {MOST_NAME_CHARACTERS} characters, no NUL: {name[:80]!r}")
    return name


def _is_reloaded(known: Any, new: Any) -> bool:
    """Whether it is the same function of a module that was imported anew."""
    path = getattr(new, "__qualname__", None)
    if path is None or "<locals>" in path:
        return False
    return bool((known.__module__, getattr(known, "__qualname__", None)) == (new.__module__, path))
