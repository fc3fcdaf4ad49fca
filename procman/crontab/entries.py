"""What applications declare: functions, and when they are to run."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from procman.crontab.schedule import every as every_schedule
from procman.crontab.schedule import expression as expression_schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from procman.crontab.schedule import Schedule

F = TypeVar("F", bound="Callable[[], Any]")

MOST_NAME_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """A function with its schedule. ``name`` is what the database and the operators know it by."""

    name: str
    schedule: Schedule
    function: Callable[[], Any]


class Cron:
    """The entries of this process. `procman.cron` is the one instance."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    @property
    def entries(self) -> Mapping[str, Entry]:
        """All entries by name."""
        return MappingProxyType(self._entries)

    def __call__(
        self,
        expression: str | None = None,
        *,
        every: float | str | None = None,
        tz: str | None = None,
        name: str | None = None,
    ) -> Callable[[F], F]:
        """Let the cron workers run a function, in each configured database, in a unit of its own.

            @procman.cron(every="10m")
            @procman.cron("*/5 8-18 * * mon-fri", tz="Europe/Brussels")

        ``every`` is in seconds or a duration such as ``"10s"``; the first call is at once. A cron expression is in
        the time of the zone ``tz``, default UTC; at the switches of daylight saving it behaves as in Debian's cron.
        ``name`` is by default ``module:qualname``; an entry keeps its times for as long as it keeps its name.

        The function has no parameters and stays what it is. Of one entry there is never more than one run at a
        time, whatever the number of workers and machines. Calls that were missed are skipped. What it changes,
        sends and invalidates is committed together with the fact that it has run; when it raises, all of that is
        rolled back, the failure is recorded and the next call comes at its time. A run that has lost against
        another transaction is repeated.

        Raises TypeError or ValueError, when the module is imported, for what can't be a schedule, a name or such
        a function.
        """
        schedule = _schedule(expression, every, tz)

        def register(function: F) -> F:
            checked = _checked(function)
            self._add(Entry(_checked_name(name, checked), schedule, checked))
            return function

        return register

    def _add(self, entry: Entry) -> None:
        known = self._entries.get(entry.name)
        if known is not None and not _is_reloaded(known.function, entry.function):
            raise ValueError(f"there are two cron entries with the name {entry.name!r}; give one another `name`")
        self._entries[entry.name] = entry


def _schedule(expression: Any, every: Any, tz: str | None) -> Schedule:
    if callable(expression):
        raise TypeError('procman.cron needs a schedule: @procman.cron(every="10s") or @procman.cron("*/5 * * * *")')
    if (expression is None) == (every is None):
        raise TypeError("procman.cron takes either a cron expression or `every`")
    if every is None:
        return expression_schedule(expression, "UTC" if tz is None else tz)
    if tz is not None:
        raise TypeError("`tz` is for cron expressions; `every` is the same in all time zones")
    return every_schedule(every)


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
