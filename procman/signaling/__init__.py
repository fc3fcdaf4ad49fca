"""The registry-signaling runtime: transactions, and caches that are right in every process on every machine.

DESIGN: one unit is one REPEATABLE READ transaction, opened when first needed; the message that begins it also
reads the signals (`store`), and the caches a unit may use are those tagged with exactly these signals
(`cache`). So a value is never older than the unit's own snapshot of the data.
"""

from procman.signaling.loading import registry, registry_loader, reload_registry
from procman.signaling.memo import cached
from procman.signaling.retry import lost_against_another, repeating, retryable, transaction
from procman.signaling.runtime import (
    begin,
    configure,
    connect,
    cursor,
    database_url,
    databases,
    invalidate,
    lend,
    open_session,
    unit,
)
from procman.signaling.statistics import CacheStatistics, statistics
from procman.signaling.triggers import signal_on_change
from procman.signaling.units import Collected, Meter, Unit, current, roll_back_leftover

__all__ = [
    "CacheStatistics",
    "Collected",
    "Meter",
    "Unit",
    "begin",
    "cached",
    "configure",
    "connect",
    "current",
    "cursor",
    "database_url",
    "databases",
    "invalidate",
    "lend",
    "lost_against_another",
    "open_session",
    "registry",
    "registry_loader",
    "reload_registry",
    "repeating",
    "retryable",
    "roll_back_leftover",
    "signal_on_change",
    "statistics",
    "transaction",
    "unit",
]
