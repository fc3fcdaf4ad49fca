"""The corpus of raw requests in tests/requests, in the notation that its README explains."""

from __future__ import annotations

import re
from pathlib import Path

CORPUS = Path(__file__).parents[1] / "requests"
_ESCAPES = {"r": b"\r", "n": b"\n", "t": b"\t", "0": b"\0", "\\": b"\\", '"': b'"'}


def raw(path: Path) -> bytes:
    """What the file says is sent."""
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.startswith("#!")]
    pieces = re.split(r'\{"([^"]*)" \* (\d+)\}', "".join(lines))
    data = _unescape(pieces[0])
    for repeated, count, rest in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        data += _unescape(repeated) * int(count) + _unescape(rest)
    return data


def expected_refusal(path: Path) -> tuple[int, str, int]:
    """Of an invalid one: the status, what the reason contains, and how many good requests come before it."""
    first, second = ([*path.read_text().splitlines(), ""])[:2]
    _, status, reason = first.split(" ", 2)
    return int(status), reason, int(second.removeprefix("#! after ")) if second.startswith("#! after ") else 0


def _unescape(text: str) -> bytes:
    def one(match: re.Match[str]) -> str:
        code = match[1]
        return chr(int(code[1:], 16)) if code[0] == "x" else _ESCAPES[code].decode("latin-1")

    return re.sub(r"\\(x[0-9a-f]{2}|.)", one, text).encode("latin-1")
