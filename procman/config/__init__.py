"""The configuration file: found, read, checked, printed.

``read(path, environ)`` gives the `DaemonSpec`; ``find`` says which file; ``check`` reads and also tries what can be
tried without starting anything; ``render`` writes a specification as the TOML it could have come from.

Names are loaded when first used: who only asks where the control socket is does not wait for all the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from procman.config.files import find
    from procman.config.printing import render
    from procman.config.reader import read
    from procman.config.trial import check

__all__ = ["check", "find", "read", "render"]

_HOME = {
    "check": "procman.config.trial",
    "find": "procman.config.files",
    "read": "procman.config.reader",
    "render": "procman.config.printing",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
