"""The configuration file: found, read, checked, printed.

``read(path, environ)`` gives the `DaemonSpec`; ``find`` says which file; ``check`` reads and also tries what can be
tried without starting anything; ``render`` writes a specification as the TOML it could have come from.
"""

from __future__ import annotations

from procman.config.find import find
from procman.config.reader import read
from procman.config.render import render
from procman.config.trial import check

__all__ = ["check", "find", "read", "render"]
