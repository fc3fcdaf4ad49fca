"""Which functions can be called from elsewhere, and by what name."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, overload

from procman.rpc.faults import InvalidParams, MethodNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

F = TypeVar("F", bound="Callable[..., Any]")

_NAME = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*", re.ASCII)
# "rpc." is reserved by JSON-RPC 2.0 (section 4), "system." by XML-RPC's introspection.
_RESERVED = ("rpc.", "system.")


@dataclass(frozen=True, slots=True)
class Exposed:
    """A function that can be called. ``streams``: it is a generator, whose pages are sent as they come."""

    name: str
    function: Callable[..., Any]
    public: bool
    streams: bool
    signature: inspect.Signature

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise InvalidParams unless the function can be called like this."""
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidParams(f"{self.name}{self.signature}: {error}") from None


_exposed: dict[str, Exposed] = {}


@overload
def expose(function: F, /) -> F: ...
@overload
def expose(name: str | None = None, /, *, public: bool = False) -> Callable[[F], F]: ...
def expose(what: Any = None, /, *, public: bool = False) -> Any:
    """Let the function be called over XML-RPC and JSON-RPC, by its own name or by a dotted one of your choice.

    Each call is a unit: a transaction of its own, committed when the function returns, repeated when it loses
    against another one, ended by the pool's limits. Arguments come as JSON or XML has them; the result may also
    hold dates, Decimal (sent as text), UUID, bytes, sets, dataclasses and enums. A generator's pages are sent as
    they come, as the elements of one array, all from one snapshot.

    Only callers whom the `authenticator` knows may call it, unless it is ``public``.
    Raises ValueError for a name that can't be one or is taken, TypeError for what is no plain function.
    """
    if callable(what):
        return _add(what, what.__name__, public=public)

    def decorate(function: F) -> F:
        return _add(function, what or function.__name__, public=public)

    return decorate


def exposed(name: str) -> Exposed:
    """The function of that name; raises MethodNotFound."""
    try:
        return _exposed[name]
    except KeyError:
        raise MethodNotFound(f"no function {name!r} is exposed") from None


def names() -> list[str]:
    """The names of all that is exposed, sorted."""
    return sorted(_exposed)


def _add(function: F, name: str, *, public: bool) -> F:
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function) or inspect.isclass(function):
        raise TypeError(f"{function.__qualname__} can't be exposed: it is not a plain function")
    if not _NAME.fullmatch(name) or name.startswith(_RESERVED):
        raise ValueError(f"{name!r} can't be the name of an exposed function: expected one such as 'product.price'")
    there = _exposed.get(name)
    if there is not None and _origin(there.function) != _origin(function):
        raise ValueError(f"{name!r} is exposed twice: by {_origin(there.function)} and {_origin(function)}")
    streams = inspect.isgeneratorfunction(inspect.unwrap(function))
    _exposed[name] = Exposed(name, function, public, streams, inspect.signature(function))
    return function


def _origin(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"
