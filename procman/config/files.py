"""Which configuration file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from procman.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "PROCMAN_CONFIG"
PLACES = ("procman.toml", "/etc/procman/procman.toml")


def find(explicit: str | None, environ: Mapping[str, str]) -> str:
    """The file that was asked for, else ``$PROCMAN_CONFIG``, else the first of the usual places that exists.

    A file that was asked for need not exist: reading it says so. Raises ConfigurationError when none was asked for
    and there is none.
    """
    asked = explicit or environ.get(VARIABLE)
    if asked:
        return asked
    for place in PLACES:
        if os.path.exists(place):
            return place
    raise ConfigurationError(
        f"no configuration: expected -c FILE, ${VARIABLE}, {' or '.join(os.path.join('.', place) for place in PLACES)}"
    )
