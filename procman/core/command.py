"""The words that a command's configuration is written in, for those who carry it out without having read it.

The nursery uses this module, and has to stay small: nothing is imported here.
"""

from __future__ import annotations

INHERIT = "inherit"
NULL = "null"
LOG = "log"
# The variable that holds the mark of a worker: as systemd's INVOCATION_ID, another one for each start.
MARK = "PROCMAN_INVOCATION_ID"

SLOT = "${slot}"


def in_slot(text: str, slot: int) -> str:
    """The text with the number of the slot in it, where it asks for that."""
    return text.replace(SLOT, str(slot))
