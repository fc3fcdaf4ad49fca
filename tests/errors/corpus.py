"""The corpus of wrong configurations: NAME.toml and, in NAME.expected, exactly what is said about it.

A case is diagnosed as ``procmand --check -c NAME.toml`` in this directory would. Lines ``#: NAME=VALUE`` at the top
of a case set environment variables; ``#: uid=N`` says as which user (else as root). This directory is
``{directory}`` in the expectations.

``python -m tests.errors.corpus`` writes the expectations anew: for looking at the difference, not for believing it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from procman.config import check
from procman.errors import ConfigurationError

DIRECTORY = Path(__file__).parent
CASES = [*sorted(path.stem for path in DIRECTORY.glob("*.toml")), "no-such-file"]


def diagnose(name: str) -> str:
    """What is said about the case; to be called in its directory."""
    environ, uid = _circumstances(Path(f"{name}.toml"))
    try:
        check(f"{name}.toml", environ, uid=uid)
    except ConfigurationError as error:
        return str(error).replace(os.getcwd(), "{directory}") + "\n"
    return ""


def _circumstances(path: Path) -> tuple[dict[str, str], int]:
    environ = {"PATH": "/usr/bin:/bin", "NAME": "value", "GIVEN_EMPTY": ""}
    uid = 0
    lines = path.read_bytes().splitlines() if path.is_file() else []
    for line in lines:
        if not line.startswith(b"#: "):
            break
        name, _, value = line[3:].decode().partition("=")
        if name == "uid":
            uid = int(value)
        else:
            environ[name] = value
    return environ, uid


if __name__ == "__main__":
    os.chdir(DIRECTORY)
    for case in sys.argv[1:] or CASES:
        Path(f"{case}.expected").write_text(diagnose(case), encoding="utf-8")
