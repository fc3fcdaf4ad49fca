"""`cached`: results of functions, kept in this process and right in all of them."""

from __future__ import annotations

import inspect
from functools import update_wrapper
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, TypeVar, overload

from procman.signaling import runtime
from procman.signaling.cache import MISSING
from procman.signaling.store import check_public_group
from procman.signaling.units import current
from procman.signaling.weight import weight

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from procman.signaling.cache import Generation
    from procman.signaling.units import Unit

P = ParamSpec("P")
R = TypeVar("R")

# A unit waits for another thread that computes the same value. If that thread waits for a row lock of this very
# unit, PostgreSQL does not see the deadlock: so not for longer than this, in seconds.
LONGEST_WAIT = 5.0


def cached(
    group: str, *, key: Callable[..., Hashable] | None = None, maxsize: int = 8192, ttl: float | None = None
) -> Callable[[Callable[P, R]], Cached[P, R]]:
    """Remember the function's results until somebody, anywhere, commits an `invalidate` of ``group``.

    Results are kept per process and database, at most ``maxsize`` of the function, those used least recently
    leave first. They are told apart by the arguments, which must be hashable; ``key`` is called with the same
    arguments and returns what to tell them apart by instead. A method's ``self`` is an argument like any other.
    Every caller gets the same object: do not change it. An exception is not remembered. With ``ttl`` a result is
    remembered for that many seconds at most, for what depends on more than the database.

    All cached values of a process together take at most `[database] cache_size` (default 256 MiB, as
    estimated when they are put); beyond that the functions with the most give up what they used least recently.

    Raises NoDatabase and DatabaseUnavailable like `cursor`, for each unit checks once whether its caches hold.
    """
    if callable(group):
        raise TypeError('procman.cached needs the name of a group: @procman.cached("prices")')
    check_public_group(group)
    if maxsize < 1 or (ttl is not None and not ttl > 0):
        raise ValueError("expected a maxsize of at least 1 and a ttl of more than 0 seconds")

    def decorate(function: Callable[P, R]) -> Cached[P, R]:
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise TypeError(f"{function.__qualname__}() can't be cached: what it returns can be used only once")
        return Cached(function, group, key, maxsize, ttl)

    return decorate


class _Timed(NamedTuple):
    """A result that is good until a time of the monotonic clock."""

    value: Any
    until: float


class Cached(Generic[P, R]):
    """A function with a memory. ``hits`` and ``misses`` are of this process, over all databases."""

    __wrapped__: Callable[P, R]

    def __init__(
        self,
        function: Callable[P, R],
        group: str,
        key: Callable[..., Hashable] | None,
        maxsize: int,
        ttl: float | None,
    ) -> None:
        update_wrapper(self, function)
        self.group = group
        self.maxsize = maxsize
        self.ttl = ttl
        self.hits = 0
        self.misses = 0
        self._function = function
        self._key = key
        self._signature = inspect.signature(function)
        runtime.known_functions.append(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        key = self._make_key(args, kwargs)
        unit = current()
        if unit is not None:
            return self._look_up(unit, key, args, kwargs)
        with runtime.unit() as unit:
            return self._look_up(unit, key, args, kwargs)

    @overload
    def __get__(self, instance: None, owner: Any) -> Cached[P, R]: ...
    @overload
    def __get__(self, instance: object, owner: Any) -> Callable[..., R]: ...
    def __get__(self, instance: object | None, owner: Any) -> Any:
        """Bind it like a method when it is one."""
        return self if instance is None else _Bound(self, instance)

    def clear(self) -> None:
        """Forget all results, in this process alone: `procman.invalidate` tells everybody."""
        runtime.clear(self)

    def __repr__(self) -> str:
        return f"<cached {self.__wrapped__.__qualname__} of group {self.group!r}>"

    def _look_up(self, unit: Unit, key: Hashable, args: Any, kwargs: Any) -> R:
        value = self._find(unit, key)
        if value is not MISSING:
            self.hits += 1
            unit.count_cache(hit=True)
            return value  # type: ignore[no-any-return]
        self.misses += 1
        unit.count_cache(hit=False)
        return self._compute(unit, key, args, kwargs)

    def _find(self, unit: Unit, key: Hashable) -> Any:
        own = unit.own(self.group)
        if own is not None:
            value = self._fresh(own, key)
            if value is not MISSING:
                return value
        return self._fresh(unit.generation(self.group), key)

    def _fresh(self, generation: Generation, key: Hashable) -> Any:
        value = generation.get(self, key)
        if self.ttl is None or value is MISSING:
            return value
        if monotonic() < value.until:
            return value.value
        generation.discard(self, key, value)
        return MISSING

    def _compute(self, unit: Unit, key: Hashable, args: Any, kwargs: Any) -> R:
        generation = unit.generation(self.group)
        # Who is computing something already waits for nobody: two that wait for each other would wait for ever.
        while unit.computing == 0 and (other := generation.claim(self, key)) is not None:
            if not other.wait(LONGEST_WAIT):
                return self._call(unit, key, args, kwargs)
            value = self._fresh(generation, key)
            if value is not MISSING:
                return value  # type: ignore[no-any-return]
        if unit.computing:
            return self._call(unit, key, args, kwargs)
        try:
            return self._call(unit, key, args, kwargs)
        finally:
            generation.release(self, key)

    def _call(self, unit: Unit, key: Hashable, args: Any, kwargs: Any) -> R:
        unit.computing += 1
        try:
            value = self._function(*args, **kwargs)
        finally:
            unit.computing -= 1
        self._put(unit, key, value)
        return value

    def _put(self, unit: Unit, key: Hashable, value: R) -> None:
        kept = value if self.ttl is None else _Timed(value, monotonic() + self.ttl)
        if unit.has_invalidated(self.group) or not unit.is_clean():
            unit.keep(self.group).put(self, key, kept, maxsize=self.maxsize)
            return
        size = weight(key) + weight(value)
        unit.generation(self.group).put(self, key, kept, maxsize=self.maxsize, size=size)
        runtime.limit_caches()

    def _make_key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
        key: Hashable
        if self._key is not None:
            key = self._key(*args, **kwargs)
        elif kwargs:
            bound = self._signature.bind(*args, **kwargs)
            key = (bound.args, tuple(sorted(bound.kwargs.items()))) if bound.kwargs else bound.args
        else:
            key = args
        try:
            hash(key)
        except TypeError:
            raise TypeError(self._complaint(args, kwargs)) from None
        return key

    def _complaint(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        name = self.__wrapped__.__qualname__
        if self._key is not None:
            return f"{name}() is cached by a key that is not hashable"
        for argument, value in self._signature.bind(*args, **kwargs).arguments.items():
            try:
                hash(value)
            except TypeError:
                kind = type(value).__name__
                return (
                    f"{name}() is cached, but its argument {argument!r} is not hashable ({kind}): pass key= to cached"
                )
        return f"{name}() is cached, but its arguments are not hashable: pass key= to cached"


class _Bound(Generic[R]):
    """A cached method of one object."""

    def __init__(self, method: Cached[..., R], instance: object) -> None:
        self._method = method
        self.__self__ = instance

    def __call__(self, *args: Any, **kwargs: Any) -> R:
        return self._method(self.__self__, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._method, name)
