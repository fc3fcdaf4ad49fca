"""The registry: what the application builds from the database once, and anew after a signal.

An example is the set of installed modules with their models. It is loaded once per process and database for
each state that was signalled by `reload_registry`.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from procman.db.connection import execute
from procman.errors import ApplicationError, DatabaseUnavailable
from procman.signaling import runtime
from procman.signaling.cache import MISSING
from procman.signaling.store import REGISTRY
from procman.signaling.units import current

if TYPE_CHECKING:
    from collections.abc import Callable

    from procman.db.connection import Cursor
    from procman.signaling.database import SharedRegistry
    from procman.signaling.store import Tag
    from procman.signaling.units import Unit

log = logging.getLogger("procman.signaling")

Loader = TypeVar("Loader", bound="Callable[[Cursor], Any]")

LONGEST_RETRY = 60.0  # seconds between two attempts with a loader that keeps failing

_loaders: list[Callable[[Cursor], Any]] = []


def registry_loader(loader: Loader) -> Loader:
    """Make this function, called with a cursor, the one that builds the registry. The last one counts."""
    _loaders[:] = [loader]
    return loader


def registry() -> Any:
    """The registry of the unit's database, as the unit's snapshot wants it.

    When the loader fails, the error is logged, the last registry that could be loaded stays, and the loader is
    tried again after 1, 2, 4, … 60 seconds or the next signal. If there is no earlier one the error is raised.
    Raises ApplicationError without a loader.
    """
    unit = current()
    if unit is not None:
        return _of(unit)
    with runtime.unit() as unit:
        return _of(unit)


def reload_registry() -> None:
    """Let every process load the registry anew, from the commit of this unit on (at once outside of units)."""
    runtime.signal(REGISTRY)


def _of(unit: Unit) -> Any:
    if unit.registry is MISSING:
        unit.registry = _shared(unit)
    return unit.registry


def _shared(unit: Unit) -> Any:
    shared = unit.require_database().registry
    tag = unit.tag(REGISTRY)
    if unit.has_invalidated(REGISTRY):
        return _load(unit)  # its own, from its own changes, until they are committed
    if shared.loaded is not None and shared.loaded[0] == tag:
        return shared.loaded[1]
    with shared.lock:
        # Another thread may have loaded it while this one waited.
        if shared.loaded is not None and shared.loaded[0] == tag:
            return shared.loaded[1]
        return _renew(unit, shared, tag)


def _renew(unit: Unit, shared: SharedRegistry, tag: Tag) -> Any:
    if shared.loaded is not None and shared.failed == tag and monotonic() < shared.retry_at:
        return shared.loaded[1]
    try:
        value = _load(unit)
    except DatabaseUnavailable:
        raise
    except Exception:
        # The loader's boundary: a registry that is a little old serves better than none.
        if shared.loaded is None:
            raise
        _note_failure(shared, tag)
        log.exception("The registry of %s can't be loaded; the old one stays", unit.database)
        return shared.loaded[1]
    if unit.is_clean() and not tag.is_older(shared.loaded and shared.loaded[0]):
        shared.loaded = (tag, value)
        shared.failed = None
    return value


def _note_failure(shared: SharedRegistry, tag: Tag) -> None:
    shared.failures = shared.failures + 1 if shared.failed == tag else 0
    shared.failed = tag
    shared.retry_at = monotonic() + min(2.0**shared.failures, LONGEST_RETRY)


def _load(unit: Unit) -> Any:
    if not _loaders:
        raise ApplicationError("there is no registry: decorate a function with @procman.registry_loader")
    connection = unit.connection()
    # In a savepoint, so that a loader's failed query does not take the unit with it.
    execute(connection, "SAVEPOINT procman_registry")
    try:
        with unit.cursor() as cursor:
            value = _loaders[-1](cursor)
    except BaseException:
        if not connection.closed:
            execute(connection, "ROLLBACK TO SAVEPOINT procman_registry; RELEASE SAVEPOINT procman_registry")
        raise
    execute(connection, "RELEASE SAVEPOINT procman_registry")
    return value
