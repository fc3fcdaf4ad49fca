"""The real command line, with nothing but a database in its environment."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from tests.support.daemon import program

if TYPE_CHECKING:
    from pathlib import Path


def run(directory: Path, url: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run it in this directory, and expect this exit code."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PROCMAN")}
    done = subprocess.run(
        [program("procmanctl"), *arguments],
        cwd=directory,
        env=clean | {"PROCMAN_DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done
