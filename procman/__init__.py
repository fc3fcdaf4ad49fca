"""procman: one daemon and PostgreSQL for web, cron, jobs and push.

This module is the whole public surface. Names are loaded when first used, so that the arbiter, which imports
`procman.daemon`, never loads a database driver or an application's runtime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from procman.version import __version__

if TYPE_CHECKING:
    from procman import bus, jobs, rpc
    from procman.crontab import cron
    from procman.jobs import RetryJob, chain, group, job, progress
    from procman.observe.whom import set_user
    from procman.rpc import expose
    from procman.signaling import (
        cached,
        cursor,
        invalidate,
        registry,
        registry_loader,
        reload_registry,
        retryable,
        signal_on_change,
        transaction,
    )

__all__ = [
    "RetryJob",
    "__version__",
    "bus",
    "cached",
    "chain",
    "cron",
    "cursor",
    "expose",
    "group",
    "invalidate",
    "job",
    "jobs",
    "progress",
    "registry",
    "registry_loader",
    "reload_registry",
    "retryable",
    "rpc",
    "set_user",
    "signal_on_change",
    "transaction",
]

_HOME = {
    "RetryJob": "procman.jobs",
    "cached": "procman.signaling",
    "chain": "procman.jobs",
    "cron": "procman.crontab",
    "cursor": "procman.signaling",
    "expose": "procman.rpc",
    "group": "procman.jobs",
    "invalidate": "procman.signaling",
    "job": "procman.jobs",
    "progress": "procman.jobs",
    "registry": "procman.signaling",
    "registry_loader": "procman.signaling",
    "reload_registry": "procman.signaling",
    "retryable": "procman.signaling",
    "set_user": "procman.observe.whom",
    "signal_on_change": "procman.signaling",
    "transaction": "procman.signaling",
}

_PACKAGES = ("bus", "jobs", "rpc")


if not TYPE_CHECKING:  # to a type checker it would say that there is every name

    def __getattr__(name: str) -> Any:
        if name in _PACKAGES:
            return import_module(f"procman.{name}")
        if name in _HOME:
            return getattr(import_module(_HOME[name]), name)
        raise AttributeError(f"module 'procman' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
