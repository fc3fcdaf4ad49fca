"""`@procman.job`: functions that can be called later."""

from __future__ import annotations

import inspect
import json
import math
from datetime import datetime, timedelta
from functools import cached_property, update_wrapper
from importlib import import_module
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload
from uuid import uuid4

import psycopg2.errors

from procman import signaling
from procman.jobs.channels import full_name
from procman.jobs.retry import check_pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from procman.jobs.retry import RetryPattern

P = ParamSpec("P")
R = TypeVar("R")

_ROWS_PER_STATEMENT = 1000

_INSERT = """
INSERT INTO procman.job
    (uuid, args, kwargs, function, channel, priority, max_retries, retry_pattern, identity_key, eta)
SELECT uuid, args, kwargs, %(function)s, %(channel)s, %(priority)s, %(retries)s, %(retry_pattern)s::jsonb,
       %(identity_key)s, coalesce(%(eta)s::timestamptz, clock_timestamp() + make_interval(secs => %(seconds)s))
FROM unnest(%(uuids)s::uuid[], %(args)s::jsonb[], %(kwargs)s::jsonb[]) WITH ORDINALITY AS call (uuid, args, kwargs, n)
ORDER BY n
"""

_TWIN = """
SELECT uuid::text FROM procman.job WHERE waiting_key = %s
"""


class JobFunction(Generic[P, R]):
    """A function that can be called as ever, and later by ``delay``."""

    def __init__(self, function: Callable[P, R], **options: Any) -> None:
        if not callable(function) or not hasattr(function, "__qualname__"):
            raise TypeError(f'procman.job takes a function or keywords, @procman.job(channel="…"), got {function!r}')
        if "<locals>" in function.__qualname__:
            raise TypeError(f"{function.__qualname__}: a job must be importable, so it can't be made inside a function")
        self.function = function
        self.options_given = options
        update_wrapper(self, function)

    @property
    def reference(self) -> str:
        """How any process finds it: ``module:qualname``."""
        return f"{self.function.__module__}:{self.function.__qualname__}"

    @cached_property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Have the call made later; returns the job's uuid. See `Delayed.delay`."""
        return self.options().delay(*args, **kwargs)

    def delay_many(self, arguments: Iterable[tuple[Any, ...]]) -> list[str]:
        """One job for each tuple of positional arguments, in few statements; returns their uuids."""
        return self.options().delay_many(arguments)

    def options(
        self,
        *,
        eta: datetime | timedelta | float | None = None,
        identity_key: str | None = None,
        channel: str | None = None,
        priority: int | None = None,
        retries: int | None = None,
    ) -> Delayed[P, R]:
        """The same function with other settings for the jobs to be made: ``f.options(eta=60).delay(…)``.

        ``eta``: not before this time (a datetime with a time zone), or so long from now (a timedelta, or seconds).
        ``identity_key``: while a job of this key waits, no other one is made. The rest replaces what the
        decorator says.
        """
        given = {"channel": channel, "priority": priority, "retries": retries}
        settings = {**self.options_given, **{name: value for name, value in given.items() if value is not None}}
        return Delayed(self, _checked(settings), eta, identity_key)


class Delayed(Generic[P, R]):
    """A job function with the settings of the jobs that it makes."""

    def __init__(
        self,
        job: JobFunction[P, R],
        settings: dict[str, Any],
        eta: datetime | timedelta | float | None,
        identity_key: str | None,
    ) -> None:
        if identity_key is not None and not (isinstance(identity_key, str) and identity_key):
            raise ValueError(f"identity_key: expected a text, got {identity_key!r}")
        self._job = job
        self._identity_key = identity_key
        at, seconds = _moment(eta)
        self._settings = {**settings, "eta": at, "seconds": seconds, "identity_key": identity_key}

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Have the call made later, if the current unit commits; outside of units at once. Returns the uuid.

        Arguments are what JSON can say: None, bool, int, float, str, and lists and dicts of them. A tuple
        arrives as a list. With an ``identity_key`` for which a job waits already, that job's uuid is returned.
        Raises TypeError or ValueError for arguments that can't be passed on.
        """
        call = self._encoded(args, kwargs)
        if self._identity_key is not None:
            return self._insert_unless_there(call)
        with signaling.cursor() as cr:
            return self._insert(cr, [call])[0]

    def delay_many(self, arguments: Iterable[tuple[Any, ...]]) -> list[str]:
        """One job for each tuple of positional arguments, all in the same transaction; returns their uuids."""
        if self._identity_key is not None:
            raise ValueError("several jobs can't have one identity_key")
        calls = iter([self._encoded(tuple(each), {}) for each in arguments])
        uuids: list[str] = []
        with signaling.cursor() as cr:
            while batch := list(islice(calls, _ROWS_PER_STATEMENT)):
                uuids += self._insert(cr, batch)
        return uuids

    def _insert(self, cr: Any, calls: list[tuple[str, str]]) -> list[str]:
        uuids = [str(uuid4()) for _ in calls]
        args, kwargs = zip(*calls, strict=True)
        cr.execute(
            _INSERT,
            {
                **self._settings,
                "function": self._reference(),
                "uuids": uuids,
                "args": list(args),
                "kwargs": list(kwargs),
            },
        )
        return uuids

    def _insert_unless_there(self, call: tuple[str, str]) -> str:
        """Insert, or find the job that waits under the same key, also one that this transaction can't see.

        Not ON CONFLICT DO NOTHING: under REPEATABLE READ that fails the transaction when the other one was
        committed after its snapshot (INSERT in PostgreSQL's manual; 13.2.2), and the other is then to be
        found only outside of this transaction.
        """
        with signaling.cursor() as cr:
            while True:
                cr.execute("SAVEPOINT procman_job")
                try:
                    uuid = self._insert(cr, [call])[0]
                except psycopg2.errors.UniqueViolation:
                    cr.execute("ROLLBACK TO SAVEPOINT procman_job")
                else:
                    cr.execute("RELEASE SAVEPOINT procman_job")
                    return uuid
                if found := self._find(cr):
                    return found

    def _find(self, cr: Any) -> str | None:
        """The job that waits; None if the one in the way has begun meanwhile."""
        cr.execute(_TWIN, (self._identity_key,))
        seen = cr.fetchone()
        unit = signaling.current()
        with signaling.lend(unit.database if unit else None) as connection, connection.cursor() as beside:
            beside.execute(_TWIN, (self._identity_key,))
            waiting = beside.fetchone()
            if waiting is None and seen is not None:
                beside.execute("SELECT FROM procman.job WHERE uuid = %s", seen)
                # What nobody else can see is this transaction's own.
                waiting = seen if beside.fetchone() is None else None
        return waiting[0] if waiting else None

    def _encoded(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, str]:
        try:
            bound = self._job.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._job.function.__name__}(): {error}") from None
        for name, value in bound.arguments.items():
            _check_json(value, f"{self._job.function.__name__}(): argument {name!r}")
        return json.dumps(args), json.dumps(kwargs)

    def _reference(self) -> str:
        job = self._job
        if job.function.__module__ == "__main__":
            raise TypeError(f"{job.function.__qualname__} is defined in the program itself, which workers can't import")
        return job.reference


def find(reference: str) -> JobFunction[..., Any]:
    """The job function of that name; LookupError when there is none, so that no row can have anything else run."""
    module, _, qualname = reference.partition(":")
    found: Any = import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    if not isinstance(found, JobFunction):
        raise LookupError(f"{reference!r} is not a function marked with @procman.job")
    return found


@overload
def job(function: Callable[P, R], /) -> JobFunction[P, R]: ...
@overload
def job(
    *,
    channel: str = ...,
    priority: int = ...,
    retries: int = ...,
    retry_pattern: RetryPattern | None = ...,
) -> Callable[[Callable[P, R]], JobFunction[P, R]]: ...
def job(
    function: Callable[..., Any] | None = None,
    /,
    *,
    channel: str = "root",
    priority: int = 10,
    retries: int = 5,
    retry_pattern: RetryPattern | None = None,
) -> Any:
    """Let a function be called later: ``@procman.job``, then ``f.delay(…)``. Called directly it is as it was.

    ``channel``: whose capacity the job takes. ``priority``: smaller is sooner. ``retries``: how many tries it has
    when it raises `RetryableJobError` or its worker dies; 0: any number. ``retry_pattern``: tries done → seconds
    to wait, or a pair to draw them from; ``{1: 10, 5: 60}`` is 10 s after each of the first four tries, then 60 s.
    """
    options = {"channel": channel, "priority": priority, "retries": retries, "retry_pattern": retry_pattern}
    _checked(options)
    if function is not None:
        return JobFunction(function, **options)
    return lambda decorated: JobFunction(decorated, **options)


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """The settings as they go into the row."""
    channel = options["channel"]
    if not isinstance(channel, str) or not channel.strip() or not {",", ":", "\n", "\0"}.isdisjoint(channel):
        raise ValueError(f"channel: expected a name such as 'root.mail', got {channel!r}")
    for name, least in (("priority", -(2**31)), ("retries", 0)):
        value = options[name]
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
            raise ValueError(f"{name}: expected a whole number, got {value!r}")
    pattern = check_pattern(options["retry_pattern"])
    return {**options, "channel": full_name(channel), "retry_pattern": pattern and json.dumps(pattern)}


def _moment(eta: datetime | timedelta | float | None) -> tuple[datetime | None, float | None]:
    """A point in time, or seconds from now."""
    if eta is None:
        return None, None
    if isinstance(eta, datetime):
        if eta.tzinfo is None:
            raise ValueError(f"eta: {eta} has no time zone")
        return eta, None
    seconds = eta.total_seconds() if isinstance(eta, timedelta) else eta
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise TypeError(f"eta: expected a datetime, a timedelta or seconds, got {eta!r}")
    return None, float(seconds)


def _check_json(value: Any, where: str) -> None:
    """TypeError or ValueError unless jsonb can hold it and give it back."""
    if isinstance(value, str):
        # PostgreSQL, 8.14: jsonb has no \u0000; and text that is no Unicode can't be sent.
        if "\0" in value or (not value.isascii() and any("\ud800" <= sign <= "\udfff" for sign in value)):
            raise ValueError(f"{where}: a text with NUL or half a surrogate pair can't be stored")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where}: {value} can't be stored")
    elif value is not None and not isinstance(value, int):
        for part in _parts(value, where):
            _check_json(part, where)


def _parts(value: Any, where: str) -> Iterator[Any]:
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where}: the key {key!r} is not a str, and JSON has no other")
        yield from value
        yield from value.values()
    elif isinstance(value, list | tuple):
        yield from value
    else:
        raise TypeError(f"{where}: {type(value).__module__}.{type(value).__qualname__} can't be said in JSON")
