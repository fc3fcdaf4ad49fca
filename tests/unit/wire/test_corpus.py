"""The corpus of raw requests in tests/requests, each fed whole, byte by byte and in random pieces."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from procman.wire.http import Request, RequestLimits, RequestParser

if TYPE_CHECKING:
    from collections.abc import Iterator

CORPUS = Path(__file__).parents[2] / "requests"
ESCAPES = {"r": b"\r", "n": b"\n", "t": b"\t", "0": b"\0", "\\": b"\\", '"': b'"'}
LIMITS = RequestLimits(body=1000)


def unescape(text: str) -> bytes:
    def one(match: re.Match[str]) -> str:
        code = match[1]
        return chr(int(code[1:], 16)) if code[0] == "x" else ESCAPES[code].decode("latin-1")

    return re.sub(r"\\(x[0-9a-f]{2}|.)", one, text).encode("latin-1")


def raw(path: Path) -> bytes:
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.startswith("#!")]
    pieces = re.split(r'\{"([^"]*)" \* (\d+)\}', "".join(lines))
    data = unescape(pieces[0])
    for repeated, count, rest in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        data += unescape(repeated) * int(count) + unescape(rest)
    return data


def splits(data: bytes) -> Iterator[list[bytes]]:
    yield [data[n : n + 65536] for n in range(0, len(data), 65536)]  # as much as the worker receives at once
    yield [data[n : n + 1] for n in range(len(data))]
    random = Random(len(data))  # the same cuts in every run
    for _ in range(5):
        cuts = sorted(random.sample(range(len(data) + 1), min(len(data), random.randint(1, 12))))
        yield [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def parse(pieces: list[bytes]) -> RequestParser:
    parser = RequestParser(LIMITS)
    for piece in pieces:
        parser.feed(memoryview(piece))
    return parser


def seen(request: Request) -> dict[str, Any]:
    return {
        "method": request.method,
        "path": request.path.decode("latin-1"),
        "query": request.query.decode(),
        "version": request.version,
        "headers": [[name.decode(), value.decode("latin-1")] for name, value in request.headers],
        "body": None if request.body is None else request.body.read().decode("latin-1"),
        "keep_alive": request.keep_alive,
        "authority": None if request.authority is None else request.authority.decode(),
    }


@pytest.mark.parametrize("path", sorted((CORPUS / "valid").glob("*.http")), ids=lambda path: path.stem)
def test_valid(path: Path) -> None:
    expected = json.loads(path.with_suffix(".json").read_text())
    for pieces in splits(raw(path)):
        parser = parse(pieces)
        assert parser.error is None
        found = [seen(request) for request in parser.requests]
        assert [{key: one[key] for key in wanted} for one, wanted in zip(found, expected, strict=True)] == expected
        assert not parser.arriving


@pytest.mark.parametrize("path", sorted((CORPUS / "invalid").glob("*.http")), ids=lambda path: path.stem)
def test_invalid(path: Path) -> None:
    first, second = ([*path.read_text().splitlines(), ""])[:2]
    _, status, reason = first.split(" ", 2)
    after = int(second.removeprefix("#! after ")) if second.startswith("#! after ") else 0
    for pieces in splits(raw(path)):
        parser = parse(pieces)
        assert parser.error is not None
        assert (parser.error.status, len(parser.requests)) == (int(status), after)
        assert reason in str(parser.error)


def test_the_corpus_is_there() -> None:
    assert len(list((CORPUS / "valid").glob("*.http"))) > 30
    assert len(list((CORPUS / "invalid").glob("*.http"))) > 80
