"""Keys as a terminal sends them."""

from __future__ import annotations

import pytest

from procman.cli.top import keys_in
from procman.cli.view import DOWN, ESCAPE, PAGE_UP, UP


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        (b"q", ["q"]),
        (b"sS/", ["s", "S", "/"]),
        (b"\x1b", [ESCAPE]),
        (b"\x1bq", [ESCAPE, "q"]),  # Escape, and then q, in one read
        (b"\x1b[A\x1bOB\x1b[5~", [UP, DOWN, PAGE_UP]),
        (b"\x1b[1;5Cx", ["", "x"]),  # Ctrl with an arrow means nothing here
        (b"\x1b\x1b[A", [ESCAPE, UP]),
        ("é/".encode(), ["é", "/"]),
        (b"\xff", ["\N{REPLACEMENT CHARACTER}"]),
    ],
)
def test_each_is_known_by_itself(sent, keys):
    assert keys_in(sent) == keys
