"""The corpus of raw requests in tests/requests, each fed whole, byte by byte and in random pieces."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from procman.wire.familiar import Familiar
from procman.wire.http import RequestParser
from procman.wire.request import Request, RequestLimits
from tests.support.raw_requests import CORPUS, expected_refusal, raw

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMITS = RequestLimits(body=1000)


def splits(data: bytes) -> Iterator[list[bytes]]:
    yield [data[n : n + 65536] for n in range(0, len(data), 65536)]  # as much as the worker receives at once
    for step in (1, 2, 3, 5, 7):
        yield [data[n : n + step] for n in range(0, len(data), step)]
    random = Random(len(data))  # the same cuts in every run
    for _ in range(5):
        cuts = sorted(random.sample(range(len(data) + 1), min(len(data), random.randint(1, 12))))
        yield [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def parse(pieces: list[bytes], familiar: Familiar | None = None) -> RequestParser:
    parser = RequestParser(LIMITS, familiar=familiar)
    for piece in pieces:
        parser.feed(piece)
    return parser


def seen(request: Request) -> dict[str, Any]:
    return {
        "method": request.line.method,
        "path": request.line.path,
        "query": request.line.query,
        "version": request.line.version,
        "headers": [
            [name.lower().decode(), value.decode("latin-1").rstrip(" \t")] for name, value in request.head.headers
        ],
        "body": None if request.body is None else request.body.read().decode("latin-1"),
        "keep_alive": request.keep_alive,
        "authority": request.line.authority,
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
    familiar = Familiar()
    for _ in range(4):
        again = [seen(request) for request in parse(next(splits(raw(path))), familiar).requests]
        assert [{key: one[key] for key in wanted} for one, wanted in zip(again, expected, strict=True)] == expected


@pytest.mark.parametrize("path", sorted((CORPUS / "invalid").glob("*.http")), ids=lambda path: path.stem)
def test_invalid(path: Path) -> None:
    status, reason, after = expected_refusal(path)
    for pieces in splits(raw(path)):
        parser = parse(pieces)
        assert parser.error is not None
        assert (parser.error.status, len(parser.requests)) == (status, after)
        assert reason in str(parser.error)
    familiar = Familiar()
    for _ in range(4):
        again = parse(next(splits(raw(path))), familiar)
        assert again.error is not None
        assert (again.error.status, len(again.requests)) == (status, after)
        assert reason in str(again.error)


def test_the_corpus_is_there() -> None:
    assert len(list((CORPUS / "valid").glob("*.http"))) >= 110
    assert len(list((CORPUS / "invalid").glob("*.http"))) >= 247
