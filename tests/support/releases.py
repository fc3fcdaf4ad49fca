"""Releases of procman in directories of their own, each a patched copy, and a link to the current one on the path."""

from __future__ import annotations

import shutil
from pathlib import Path

import procman

PACKAGE = Path(procman.__file__).parent

# At the begin of what the next image does: tell that it is there, and wait while there is a file called hold.
HELD = """
    import time
    here = os.environ["PM_TEST_DIR"]
    open(here + "/taking-over", "w").close()
    while os.path.exists(here + "/hold"):
        time.sleep(0.005)
"""


class Releases:
    """``env`` is for the daemon. A release is made as a copy of the package in which texts are replaced."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._current = directory / "current"
        self.make("first")
        self.install("first")

    @property
    def env(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self._current)}

    def make(self, name: str, *patches: tuple[str, str, str], version: str | None = None) -> None:
        """A release with these patches: file, text, what stands for it. Every text must be there."""
        package = self._directory / name / "procman"
        shutil.copytree(PACKAGE, package)
        if version is not None:
            patches += (("version.py", f'"{procman.__version__}"', f'"{version}"'),)
        for file, text, instead in patches:
            before = (package / file).read_text()
            assert text in before, (file, text)
            (package / file).write_text(before.replace(text, instead, 1))

    def install(self, name: str) -> None:
        """Make it the current one, at once for everybody."""
        new = self._directory / "new"
        new.symlink_to(self._directory / name)
        new.rename(self._current)
