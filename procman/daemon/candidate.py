"""The configuration on disk, which the next reload would read: would it be taken?"""

from __future__ import annotations

import os

from procman import config
from procman.errors import ConfigurationError


class Candidate:
    """Reads the file when it is another one than at the last look: whoever may only look must not cost much."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._seen: tuple[int, ...] | None = None
        self._problems: list[str] = []

    def problems(self) -> list[str]:
        """What is wrong with it, one line for each; nothing when a reload would take it."""
        seen = self._identity()
        if seen is None or seen != self._seen:
            self._seen = seen
            try:
                config.read(self._source, os.environ)
            except ConfigurationError as error:
                self._problems = str(error).splitlines()
            else:
                self._problems = []
        return self._problems

    def _identity(self) -> tuple[int, ...] | None:
        try:
            found = os.stat(self._source)
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
