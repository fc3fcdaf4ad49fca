"""Finding the application that a pool names: ``module:attribute``, or a factory ``module:make_app()``."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from procman.errors import ApplicationError

if TYPE_CHECKING:
    from types import ModuleType


def load(reference: str) -> Any:
    """The object that ``reference`` names; what a factory returns when it ends with ``()``.

    Raises ApplicationError when the attribute is missing or what comes of it can't be called. An exception
    raised by the application's own code while it is imported is passed on: its traceback is what helps.
    """
    module_name, _, path = reference.partition(":")
    is_factory = path.endswith("()")
    found: Any = import_module(module_name)
    for attribute in path.removesuffix("()").split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise ApplicationError(
                f"{reference!r}: {getattr(found, '__name__', found)!s} has no attribute {attribute!r}"
            ) from None
    if is_factory:
        found = found()
    if not callable(found):
        raise ApplicationError(f"{reference!r} is {type(found).__name__}, which can't be called")
    return found


def import_modules(names: tuple[str, ...]) -> list[ModuleType]:
    """Import these modules, for what importing them registers."""
    return [import_module(name) for name in names]


def make_importable(directory: str) -> None:
    """Put the pool's working directory first on the module search path."""
    sys.path[:] = [directory, *(entry for entry in sys.path if entry != directory)]
