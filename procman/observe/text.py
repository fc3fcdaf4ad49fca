"""Text that came from outside, made safe to look at.

A request's path or an exception's message can hold anything, also what moves the cursor of the terminal on which a
log is read, or what looks like the end of a record.
"""

from __future__ import annotations

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {0x2028: "\\u2028", 0x2029: "\\u2029"}
_CONTROL_BUT_TAB = {code: text for code, text in _CONTROL.items() if code != 9}


def printable(text: str) -> str:
    """``text`` as one line: control characters, line ends among them, become visible escapes; a tab stays."""
    return text if text.isprintable() else text.translate(_CONTROL_BUT_TAB)
