"""`@procman.job`: functions that can be called later."""

from __future__ import annotations

import hashlib
import inspect
from functools import cached_property, update_wrapper
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from procman import signaling
from procman.jobs import enqueue, values
from procman.jobs.enqueue import Call
from procman.jobs.graph import Prepared
from procman.jobs.settings import Settings, Template, uuids_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import timedelta

    from procman.jobs.retry import RetryPattern
    from procman.jobs.settings import Eta, KeyFunction

P = ParamSpec("P")
R = TypeVar("R")


class JobFunction(Generic[P, R]):
    """A function that can be called as ever, and later by ``delay``."""

    def __init__(self, function: Callable[P, R], settings: Settings) -> None:
        if not callable(function) or not hasattr(function, "__qualname__"):
            raise TypeError(f'procman.job takes a function or keywords, @procman.job(channel="…"), got {function!r}')
        if "<locals>" in function.__qualname__:
            raise TypeError(f"{function.__qualname__}: a job must be importable, so it can't be made inside a function")
        self.function = function
        self.settings = settings
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

    def prepare(self, *args: P.args, **kwargs: P.kwargs) -> Prepared:
        """The call, to be put into a `group` or a `chain`; nothing is enqueued yet."""
        return self.options().prepare(*args, **kwargs)

    def at(self, eta: Eta) -> Delayed[P, R]:
        """Not before this time (a datetime with a time zone), or so long from now (a timedelta, or seconds)."""
        return self.options(eta=eta)

    def options(
        self,
        *,
        eta: Eta = None,
        identity_key: str | KeyFunction | None = None,
        after: str | Iterable[str] | None = None,
        channel: str | None = None,
        priority: int | None = None,
        retries: int | None = None,
        retry_pattern: RetryPattern | None = None,
        timeout: float | timedelta | None = None,
        description: str | None = None,
        batch: int | None = None,
    ) -> Delayed[P, R]:
        """The same function with other settings for the jobs to be made: ``f.options(eta=60).delay(…)``.

        ``eta``: not before this time (a datetime with a time zone), or so long from now (a timedelta, or seconds).
        ``after``: the uuid of a job that is there already, or several: not before they are done.
        ``identity_key``: while a job of this key waits, no other one is made; a text, taken as it is, or a function of
        the arguments. The rest replaces what the decorator says.
        """
        settings = self.settings.but(
            eta=eta,
            identity_key=identity_key,
            after=None if after is None else uuids_of(after),
            channel=channel,
            priority=priority,
            retries=retries,
            retry_pattern=retry_pattern,
            timeout=timeout,
            description=None if description is None else description.replace("{", "{{").replace("}", "}}"),
            batch=batch,
        )
        return Delayed(self, settings)


class Delayed(Generic[P, R]):
    """A job function with the settings of the jobs that it makes."""

    def __init__(self, job: JobFunction[P, R], settings: Settings) -> None:
        self._job = job
        self._settings = settings
        self._columns = settings.columns()

    def at(self, eta: Eta) -> Delayed[P, R]:
        """`JobFunction.at`, with these settings."""
        return Delayed(self._job, self._settings.but(eta=eta))

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Have the call made later, if the current unit commits; outside of units at once. Returns the uuid.

        Arguments are None, bool, int, float, str, bytes, Decimal, UUID, date, datetime, time, timedelta, and lists and
        dicts of them. A tuple arrives as a list. With an ``identity_key`` for which a job waits already, that job's
        uuid is returned. Raises TypeError or ValueError for arguments that can't be passed on, LookupError for a job in
        ``after`` that is not there.
        """
        prepared = self.prepare(*args, **kwargs)
        if self._settings.after:
            return prepared.delay().uuids[0]
        with signaling.cursor() as cr:
            return enqueue.insert(cr, [prepared.row()])[0].uuid

    def delay_many(self, arguments: Iterable[tuple[Any, ...]]) -> list[str]:
        """One job for each tuple of positional arguments, all in the same transaction; returns their uuids."""
        if isinstance(self._settings.identity_key, str):
            raise ValueError("several jobs can't have one identity_key")
        if self._settings.after:
            raise ValueError("delay_many() has jobs wait for nothing: use a group of calls")
        calls = [self._call(tuple(each), {}) for each in arguments]
        with signaling.cursor() as cr:
            return [made.uuid for made in enqueue.insert(cr, calls)]

    def prepare(self, *args: P.args, **kwargs: P.kwargs) -> Prepared:
        """The call, to be put into a `group` or a `chain`; nothing is enqueued yet. Raises what `delay` raises."""
        return Prepared(self._job.function.__name__, self._call(args, kwargs), self._settings.after)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        name = self._job.function.__name__
        try:
            bound = self._job.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}(): {error}") from None
        positional, named = self._encoded(bound.arguments, args, kwargs)
        bound.apply_defaults()
        description = self._settings.description
        return Call(
            function=self._reference(),
            args=positional,
            kwargs=named,
            identity_key=self._identity_key(args, kwargs, bound.arguments),
            description=description and _filled(description, bound.arguments, f"{name}(): description"),
            **self._columns,
        )

    def _encoded(self, arguments: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, str]:
        try:
            return values.encode(args, ""), values.encode(kwargs, "")
        except (TypeError, ValueError):
            for argument, value in arguments.items():
                values.encode(value, f"{self._job.function.__name__}(): argument {argument!r}")
            raise

    def _identity_key(self, args: tuple[Any, ...], kwargs: dict[str, Any], named: dict[str, Any]) -> str | None:
        given = self._settings.identity_key
        where = f"{self._job.function.__name__}(): identity_key"
        if given is None or isinstance(given, str):
            return given
        key = _filled(given.text, named, where) if isinstance(given, Template) else given(*args, **kwargs)
        if not (key is None or (isinstance(key, str) and key)):
            raise TypeError(f"{where}: expected a text or None, got {key!r}")
        # Of two functions, equal arguments are not an equal job.
        return None if key is None else f"{self._job.reference} {key}"

    def _reference(self) -> str:
        job = self._job
        if job.function.__module__ == "__main__":
            raise TypeError(f"{job.function.__qualname__} is defined in the program itself, which workers can't import")
        return job.reference


def exact(*args: Any, **kwargs: Any) -> str:
    """An ``identity_key``: jobs of the same function with the same arguments are equal."""
    text = values.encode([list(args), sorted(kwargs.items())], "identity_key")
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


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
    identity_key: str | KeyFunction | None = ...,
    timeout: float | timedelta | None = ...,
    description: str | None = ...,
    batch: int | None = ...,
) -> Callable[[Callable[P, R]], JobFunction[P, R]]: ...
def job(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Let a function be called later: ``@procman.job``, then ``f.delay(…)``. Called directly it is as it was.

    ``channel``: whose capacity the job takes. ``priority``: smaller is sooner. ``retries``: how many tries it has
    when it raises `RetryJob` or its worker dies; 0: any number. ``retry_pattern``: tries done → seconds
    to wait, or a pair to draw them from; ``{1: 10, 5: 60}`` is 10 s after each of the first four tries, then 60 s.
    ``identity_key``: while an equal job waits, no other one is made; ``"invoice {number}"`` is filled in with the
    arguments, a function is called with them, `exact` takes them all. ``timeout``: seconds (or a timedelta) that one
    try may take. ``description``: for people, filled in with the arguments. ``batch``: up to so many jobs
    of a channel that say so may be run one after the other in one transaction.
    """
    settings = Settings().but(**options)
    if isinstance(settings.identity_key, str):
        settings = settings.but(identity_key=Template(settings.identity_key))
    if function is not None:
        return JobFunction(function, settings)
    return lambda decorated: JobFunction(decorated, settings)


def _filled(template: str, arguments: dict[str, Any], where: str) -> str:
    try:
        return template.format(**arguments)
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: {template!r} can't be filled in with the arguments: {error!r}") from None
