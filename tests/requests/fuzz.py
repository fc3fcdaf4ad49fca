"""Fuzzing of the HTTP codec guided by coverage: ``python -m tests.requests.fuzz -max_total_time=600``.

Needs ``pip install atheris`` and begins with the corpus beside this file. What it holds the codec to is what
tests/properties/test_http_codec.py does: no exception, the same outcome however the bytes are cut, and requests that
h11 reads in the same way. A case that it finds belongs into the corpus.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(include=["procman.wire", "h11"]):
    from procman.wire.http import RequestParser
    from tests.properties.test_http_codec import feed, ours, outcome, same_but_for_case
    from tests.support import reference
    from tests.support.raw_requests import CORPUS, raw


def one_input(data: bytes) -> None:
    """The first byte says how the rest is cut."""
    step, data = (data[0] % 32 + 1, data[1:]) if data else (1, b"")
    whole = outcome(feed([data]))
    assert outcome(feed([data[at : at + step] for at in range(0, len(data), step)])) == whole
    for mine, other in zip(ours(data), reference.requests(data), strict=False):
        assert same_but_for_case(mine) == same_but_for_case(other)
    RequestParser().feed(data)


def main() -> None:
    with TemporaryDirectory() as seeds:
        for path in CORPUS.glob("*/*.http"):
            data = raw(path)
            if len(data) < 4096:
                Path(seeds, path.parent.name + path.stem).write_bytes(b"\x06" + data)
        atheris.Setup([*sys.argv, seeds], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
